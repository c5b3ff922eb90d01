"""What a device's connection does when the gateway does not do what it hopes for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from firmware_sim.link import Ledger, Link
from tests.firmware_sim.broker import Broker


def payloads(count: int) -> list[bytes]:
    return [b"payload %d" % index for index in range(count)]


def test_link_publishes_and_counts_acknowledgements(tmp_path: Path) -> None:
    """Each acknowledged payload is a line of the ledger."""
    with Broker() as broker:
        ledger = Ledger(tmp_path / "acked")
        with Link("127.0.0.1", broker.port, "device", ledger=ledger) as link:
            for payload in payloads(500):
                assert link.publish("t", payload)
            assert link.flush(time.monotonic() + 10)
            assert (link.published, link.acknowledged, link.connects) == (500, 500, 1)
        assert broker.payloads == payloads(500)
        assert sorted((tmp_path / "acked").read_bytes().splitlines()) == sorted(broker.acknowledged)


def test_link_has_no_more_in_flight_than_it_may() -> None:
    """`publish` waits; a stop ends the waiting and publishes nothing."""
    stop = threading.Event()
    with Broker() as broker:
        broker.acknowledging = False
        with Link("127.0.0.1", broker.port, "device", in_flight_max=3, stop=stop) as link:
            for payload in payloads(3):
                assert link.publish("t", payload)
            broker.wait(3)
            stop.set()
            assert not link.publish("t", b"too many")
            assert link.published == 3
            assert not link.flush()
            broker.acknowledge()
            assert link.flush(time.monotonic() + 10)
        assert broker.payloads == payloads(3)
        assert broker.unacknowledged_max == 3


def test_link_resends_what_was_not_acknowledged_after_a_lost_connection(tmp_path: Path) -> None:
    """Everything arrives, the ledger holds each payload once, and only after it was acknowledged."""
    with Broker() as broker:
        broker.drop_after = [50, 150, 151]
        ledger = Ledger(tmp_path / "acked")
        with Link("127.0.0.1", broker.port, "device", in_flight_max=10, ledger=ledger) as link:
            for payload in payloads(300):
                assert link.publish("t", payload)
            assert link.flush(time.monotonic() + 20)
            assert link.connects == 4
        assert list(dict.fromkeys(broker.payloads)) == payloads(300), "a newer one overtook what was resent"
        assert len(broker.payloads) > 300
        assert sorted((tmp_path / "acked").read_bytes().splitlines()) == sorted(payloads(300))
        assert broker.client_ids == ["device"] * 4


def test_link_writes_nothing_into_the_ledger_that_was_not_acknowledged(tmp_path: Path) -> None:
    """The ledger is what a test of durability believes."""
    with Broker() as broker:
        broker.acknowledging = False
        link = Link("127.0.0.1", broker.port, "device", ledger=Ledger(tmp_path / "acked"))
        link.publish("t", b"never acknowledged")
        broker.wait(1)
        link.close()
        assert (tmp_path / "acked").read_bytes() == b""
        assert link.in_flight == 1


def test_link_waits_for_a_gateway_that_is_not_there_yet() -> None:
    """Devices may start before the gateway does."""
    with Broker() as broker:
        port = broker.port
    link = Link("127.0.0.1", port, "device")
    assert link.wait(time.monotonic())
    with Broker(port) as broker, link:
        assert link.publish("t", b"first")
        assert link.flush(time.monotonic() + 10)
        assert broker.payloads == [b"first"]


@pytest.mark.parametrize("in_flight_max", [0, 1_001])
def test_link_refuses_a_window_it_can_not_keep(in_flight_max: int) -> None:
    """0 would send nothing, too many would exhaust the packet ids."""
    with pytest.raises(ValueError, match="in flight"):
        Link("127.0.0.1", 1, "device", in_flight_max=in_flight_max)
