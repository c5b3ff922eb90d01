"""The official client while the gateway is killed under it."""

from __future__ import annotations

import threading
from typing import Any

import pulsar
import pytest

from tests.compat.test_official_client import EARLIEST, numbers, receive
from tests.support import official
from tests.support.gateway import GatewayRig

TOPIC = "public/default/restart"
KILLS = 3

pytestmark = pytest.mark.timeout(180)


def test_acknowledged_messages_survive_sigkill_in_order(gateway: GatewayRig) -> None:
    """A named producer sends on while the gateway is killed: every acknowledged message is there once, in order."""
    acknowledged: list[int] = []
    count = 3000
    done = threading.Event()

    def sent(number: int) -> Any:
        def on_result(result: Any, message_id: Any) -> None:
            if result == pulsar.Result.Ok:
                acknowledged.append(number)
            if len(acknowledged) == count:
                done.set()

        return on_result

    with official.client(gateway.service_url) as client:
        producer = client.create_producer(
            TOPIC, producer_name="sensor", batching_enabled=False, send_timeout_millis=0, block_if_queue_full=True,
            max_pending_messages=500,
        )  # fmt: skip
        for number in range(count):
            producer.send_async(b"%d" % number, sent(number))
            if number % (count // (KILLS + 1)) == count // (KILLS + 1) - 1:
                gateway.restart()
        assert done.wait(60), f"{len(acknowledged)} of {count} were acknowledged"
        gateway.restart()
        assert numbers(official.read_all(client, TOPIC)) == list(range(count))


def test_deduplication_outlives_sigkill(gateway: GatewayRig) -> None:
    """The last sequence id of a name is known after a crash, and what comes again is dropped."""
    with official.client(gateway.service_url) as client:
        producer = client.create_producer(TOPIC, producer_name="sensor", batching_enabled=False)
        for number in range(10):
            producer.send(b"%d" % number, sequence_id=number)
    gateway.restart()
    with official.client(gateway.service_url) as client:
        producer = client.create_producer(TOPIC, producer_name="sensor", batching_enabled=False)
        assert producer.last_sequence_id() == 9
        for number in range(5, 15):
            producer.send(b"%d" % number, sequence_id=number)
        assert numbers(official.read_all(client, TOPIC)) == list(range(15))


def test_consumer_reconnects_and_its_acknowledgements_hold(gateway: GatewayRig) -> None:
    """After a kill the subscription goes on behind what was acknowledged durably."""
    with official.client(gateway.service_url) as client:
        producer = client.create_producer(TOPIC, batching_enabled=False)
        consumer = client.subscribe(TOPIC, "s", initial_position=EARLIEST)
        for number in range(20):
            producer.send(b"%d" % number)
        receive(consumer, 10)
        # A clean stop makes acknowledgements durable; they ride with commits otherwise.
        gateway.stop()
        gateway.start()
        again = receive(consumer, 10)
        assert numbers(again) == list(range(10, 20))
        gateway.restart()
        producer.send(b"20")
        assert numbers(receive(consumer, 1))[-1] >= 10


def test_subscription_and_topic_exist_after_sigkill(gateway: GatewayRig) -> None:
    """What was created was durable before the client heard of it."""
    with official.client(gateway.service_url) as client:
        client.subscribe(TOPIC, "early").close()
    gateway.restart()
    with official.client(gateway.service_url) as client:
        producer = client.create_producer(TOPIC, batching_enabled=False)
        producer.send(b"1")
        # The subscription was at the end when it was made, so it sees what came later, wherever it would begin if new.
        consumer = client.subscribe(TOPIC, "early")
        assert numbers(receive(consumer, 1)) == [1]
