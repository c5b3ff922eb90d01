"""Rounds, lanes and outlets: what is stored, what is confirmed, and in which order, also around failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from connectors import publisher as publisher_module
from connectors.base import SourceContext
from connectors.publisher import Publisher
from connectors.rounds import Route
from gateway.errors import GatewayError, InvalidTopicName, LogFailed, NotAllowed, ProtocolError, StorageUnavailable
from gateway.limits import CONNECTOR_BATCH_MESSAGES_MAX, CONNECTOR_BATCH_SIZE_MAX, CONNECTOR_IN_FLIGHT_SIZE_MAX
from tests.connectors.entries import read_entry
from tests.connectors.fakes import FakeClock, FakeLog


class Recorder:
    """A sender that notes what it is told."""

    def __init__(self) -> None:
        self.confirmations: list[Any] = []
        self.errors: list[Exception] = []
        self.told = asyncio.Event()

    def confirmed(self, tokens: list[Any]) -> None:
        self.confirmations += tokens
        self.told.set()

    def refused(self, error: Exception) -> None:
        self.errors.append(error)


class Bench:
    """A publisher over a fake log."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.clock = FakeClock()
        self.context = SourceContext(self.log.client(), self.clock, "plant/hall7")
        self.pressure: list[bool] = []
        self.publisher = Publisher(self.context, on_pressure=self.pressure.append, backoff_ns_min=1)
        self.sender = Recorder()
        self._token = 0

    def route(self, topic: str = "t", *, key: str | None = None, sensor: str = "s") -> Route:
        report = self.context.report.sensor(sensor)
        return self.publisher.route(self.publisher.lane(report, topic, key), [("source", sensor)], key)

    def publish(self, route: Route, payload: bytes, sender: Recorder | None = None) -> int:
        """Take one message; its token counts from 0."""
        sender = sender or self.sender
        turn = self.publisher.round()
        route.add(payload, turn, sender)
        turn.tokens.setdefault(sender, []).append(self._token)
        self._token += 1
        return self._token - 1

    async def settle(self) -> None:
        """Let everything happen that can happen without a commit."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def until(self, count: int) -> None:
        """Wait until so many tokens are confirmed."""
        async with asyncio.timeout(10):
            while len(self.sender.confirmations) < count:
                self.sender.told.clear()
                await self.sender.told.wait()

    def payloads(self, topic: str = "persistent://plant/hall7/t") -> list[bytes]:
        return [
            m.payload for stored in self.log.stored if stored.topic == topic for m in read_entry(stored.data).messages
        ]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.log.automatic = True
    await bench.publisher.close(grace_s=0.1)


async def test_publisher_puts_the_messages_of_a_turn_into_one_entry_for_each_topic(bench: Bench) -> None:
    """All entries of one turn are in one commit group, and messages keep their order."""
    first, second = bench.route("t"), bench.route("u")
    for payload in (b"1", b"2", b"3"):
        bench.publish(first, payload)
        bench.publish(second, payload)
    await bench.until(6)
    assert [(stored.topic, stored.messages) for stored in bench.log.stored] == [
        ("persistent://plant/hall7/t", 3),
        ("persistent://plant/hall7/u", 3),
    ]
    bench.publish(first, b"4")
    bench.publish(second, b"4")
    await bench.until(8)
    assert len({stored.group for stored in bench.log.stored[2:]}) == 1
    assert bench.payloads() == [b"1", b"2", b"3", b"4"]
    assert bench.context.report.sensors["s"].messages == 8
    assert bench.context.report.sensors["s"].payload_bytes == 8
    assert bench.context.report.in_flight_bytes == 0


async def test_publisher_stamps_messages_with_arrival_and_boot(bench: Bench) -> None:
    """What is known about a message's time is stored with it."""
    bench.publish(bench.route(key="k"), b"1")
    await bench.until(1)
    entry = read_entry(bench.log.stored[0].data)
    assert entry.publish_time_ms == bench.clock.wall_ns() // 10**6
    (message,) = entry.messages
    assert message.key == "k"
    assert message.event_time_ms == bench.clock.wall_ns() // 10**6
    assert message.properties == {
        "source": "s",
        "boot_id": bench.clock.boot_id.hex(),
        "arrival_ms": str(bench.clock.wall_ns() // 10**6),
        "boottime_ns": str(bench.clock.boottime_ns()),
    }


async def test_publisher_makes_an_entry_for_each_key_where_lanes_have_keys(bench: Bench) -> None:
    """Lanes of different keys never share an entry, and the entry carries the key."""
    report = bench.context.report.sensor("s")
    for key in ("a", "b", "a"):
        lane = bench.publisher.lane(report, "t", key)
        bench.publish(bench.publisher.route(lane, [], key), key.encode())
    await bench.until(3)
    entries = [read_entry(stored.data) for stored in bench.log.stored]
    assert [(entry.key, [m.payload for m in entry.messages]) for entry in entries] == [
        ("a", [b"a", b"a"]),
        ("b", [b"b"]),
    ]


async def test_publisher_cuts_entries_by_messages_and_by_size(bench: Bench) -> None:
    """No entry exceeds its bounds, one larger message is an entry of its own, nothing is lost or reordered."""
    route = bench.route()
    payloads = [b"%d" % index for index in range(2_500)]
    payloads += [bytes([index]) * 30_000 for index in range(5)] + [bytes(200_000), b"last"]
    for payload in payloads:
        bench.publish(route, payload)
    await bench.until(len(payloads))
    assert bench.payloads() == payloads
    for stored in bench.log.stored:
        assert stored.messages <= CONNECTOR_BATCH_MESSAGES_MAX
        assert stored.messages == 1 or len(stored.data) <= CONNECTOR_BATCH_SIZE_MAX + 100


async def test_publisher_confirms_nothing_before_the_commit(bench: Bench) -> None:
    """ "Received" means durable."""
    bench.log.automatic = False
    bench.publish(bench.route(), b"1")
    await bench.settle()
    assert len(bench.log.pending) == 1
    assert bench.sender.confirmations == []
    bench.log.commit()
    await bench.settle()
    assert bench.sender.confirmations == [0]


async def test_publisher_confirms_in_order_of_arrival_whatever_the_topics_do(bench: Bench) -> None:
    """A message of a topic that is slow to open holds back the acknowledgement of later ones, not their storage."""
    opened = asyncio.Event()
    create_producer = bench.context.client.create_producer

    async def slow(topic: str, *arguments: Any) -> Any:
        if topic.endswith("slow"):
            await opened.wait()
        return await create_producer(topic, *arguments)

    bench.context.client.create_producer = slow  # type: ignore[method-assign,assignment]
    bench.publish(bench.route("slow"), b"1")
    await bench.settle()
    bench.publish(bench.route("t"), b"2")
    await bench.settle()
    assert bench.payloads() == [b"2"]
    assert bench.sender.confirmations == []
    opened.set()
    await bench.until(2)
    assert bench.sender.confirmations == [0, 1]


@pytest.mark.parametrize("error", [StorageUnavailable("full"), LogFailed("EIO"), ProtocolError("line lost")])
async def test_publisher_keeps_what_the_log_refuses_and_tries_again(bench: Bench, error: GatewayError) -> None:
    """Nothing is confirmed, dropped or reordered; the source is told to stop and to go on."""
    route = bench.route()
    bench.publish(route, b"1")
    await bench.until(1)
    refusals = 0

    def refuse(topic: str) -> GatewayError | None:
        nonlocal refusals
        refusals += 1
        return error if refusals <= 5 else None

    bench.log.refusal = refuse
    for payload in (b"2", b"3", b"4"):
        bench.publish(route, payload)
        await asyncio.sleep(0)
    await bench.until(4)
    assert bench.payloads() == [b"1", b"2", b"3", b"4"]
    assert bench.sender.confirmations == [0, 1, 2, 3]
    assert bench.sender.errors == []
    assert bench.pressure == [True, False]
    assert bench.context.report.last_error == str(error)
    assert bench.context.report.in_flight_bytes == 0


async def test_publisher_does_not_lose_an_entry_that_is_refused_between_two_stored_ones(bench: Bench) -> None:
    """The later one has a higher sequence id by then: a retry under the old one would pass for a duplicate."""
    route = bench.route()
    bench.publish(route, b"1")
    await bench.until(1)
    bench.log.automatic = False
    errors: list[GatewayError | None] = [StorageUnavailable("full"), None]
    bench.log.refusal = lambda topic: errors.pop(0) if errors else None
    bench.publish(route, b"2")
    await asyncio.sleep(0)
    bench.publish(route, b"3")
    await asyncio.sleep(0)
    bench.log.automatic = True
    bench.log.commit()
    await bench.until(3)
    assert sorted(bench.payloads()) == [b"1", b"2", b"3"]
    assert bench.sender.confirmations == [0, 1, 2]


async def test_publisher_keeps_what_was_in_flight_when_the_log_failed(bench: Bench) -> None:
    """All entries of a lost group are sent again, in their order."""
    route = bench.route()
    bench.publish(route, b"0")
    await bench.until(1)
    bench.log.automatic = False
    for payload in (b"1", b"2", b"3"):
        bench.publish(route, payload)
        await bench.settle()
    assert len(bench.log.pending) == 3
    bench.log.automatic = True
    bench.log.fail_pending(StorageUnavailable("device failed"))
    bench.publish(route, b"4")
    await bench.until(5)
    assert bench.payloads() == [b"0", b"1", b"2", b"3", b"4"]


async def test_publisher_tries_again_while_a_topic_can_not_be_opened_for_now(bench: Bench) -> None:
    """A full log refuses producers too."""
    refusals = [StorageUnavailable("full")] * 3
    bench.log.opening = lambda topic: refusals.pop() if refusals else None
    bench.publish(bench.route(), b"1")
    await bench.until(1)
    assert bench.payloads() == [b"1"]


@pytest.mark.parametrize("where", ["opening", "refusal"])
async def test_publisher_tells_only_the_senders_of_what_a_topic_refuses(bench: Bench, where: str) -> None:
    """A message that can't be stored is never confirmed, and disturbs no other topic."""
    setattr(bench.log, where, lambda topic: NotAllowed("fenced") if topic.endswith("bad") else None)
    other = Recorder()
    bench.publish(bench.route("t"), b"1")
    bench.publish(bench.route("bad", sensor="b"), b"2", other)
    await bench.until(1)
    await bench.settle()
    assert bench.payloads() == [b"1"]
    assert bench.sender.errors == []
    assert other.confirmations == []
    assert [str(error) for error in other.errors] == ["fenced"]
    report = bench.context.report
    assert (report.sensors["b"].refused, report.sensors["b"].messages) == (1, 0)
    assert report.sensors["b"].last_error == "fenced"
    assert (report.in_flight_bytes, report.held) == (0, False)


async def test_publisher_opens_a_topic_again_after_its_producer_was_fenced(bench: Bench) -> None:
    """One refusal of a producer costs a new producer, not the message."""
    route = bench.route()
    bench.publish(route, b"1")
    await bench.until(1)
    errors: list[GatewayError] = [NotAllowed("fenced")]
    bench.log.refusal = lambda topic: errors.pop() if errors else None
    bench.publish(route, b"2")
    await bench.until(2)
    assert bench.payloads() == [b"1", b"2"]
    assert bench.log.producers_open == 1


async def test_publisher_stops_the_source_while_too_much_is_in_flight(bench: Bench) -> None:
    """Memory is bounded however much devices send; reading starts again when half of it is durable."""
    route = bench.route()
    bench.publish(route, b"open")
    await bench.until(1)
    bench.log.automatic = False
    size = 500_000
    count = CONNECTOR_IN_FLIGHT_SIZE_MAX // size + 1
    for _ in range(count):
        bench.publish(route, bytes(size))
    await bench.settle()
    assert bench.pressure == [True]
    bench.log.commit()
    await bench.settle()
    assert bench.pressure == [True, False]


async def test_publisher_closes_idle_topics_above_the_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that make up topics don't keep all of them open; a closed one opens again when it is needed."""
    monkeypatch.setattr(publisher_module, "CONNECTOR_TOPICS_MAX", 3)
    routes = [bench.route(f"t{index}") for index in range(10)]
    for count, route in enumerate([*routes, *routes], 1):
        bench.publish(route, b"x")
        await bench.until(count)
        assert bench.log.producers_open <= 3
    assert len(bench.log.stored) == 20


async def test_publisher_forgets_topics_that_nobody_uses(bench: Bench) -> None:
    """A lane lives as long as a route leads to it."""
    report = bench.context.report.sensor("s")
    lane = bench.publisher.lane(report, "t")
    assert bench.publisher.lane(report, "t") is lane
    assert len(bench.publisher._lanes) == 1
    del lane
    assert len(bench.publisher._lanes) == 0


async def test_publisher_refuses_a_name_that_is_no_topic(bench: Bench) -> None:
    """The caller decides where such a message goes."""
    with pytest.raises(InvalidTopicName):
        bench.publisher.lane(bench.context.report.sensor("s"), "a/b")


async def test_publisher_waits_for_the_commit_when_it_is_closed(bench: Bench) -> None:
    """What was taken before the stop is confirmed."""
    bench.log.automatic = False
    bench.publish(bench.route(), b"1")
    await bench.settle()
    closing = asyncio.create_task(bench.publisher.close(grace_s=10))
    await bench.settle()
    bench.log.commit()
    await closing
    assert bench.sender.confirmations == [0]
    assert bench.log.producers_open == 0


async def test_publisher_closes_though_the_log_never_answers(bench: Bench) -> None:
    """A stop takes a bounded time; what is not durable stays unconfirmed."""
    bench.log.refusal = lambda topic: StorageUnavailable("full")
    bench.publish(bench.route(), b"1")
    await bench.settle()
    await bench.publisher.close(grace_s=0.01)
    assert bench.sender.confirmations == []
    assert "send them again" in bench.context.report.last_error


async def test_publisher_ends_loudly_on_a_bug(bench: Bench) -> None:
    """An exception that is no GatewayError is not retried: the source ends with it."""
    route = bench.route()
    bench.publish(route, b"1")
    await bench.until(1)

    def broken(topic: str) -> GatewayError | None:
        return ValueError("bug")  # type: ignore[return-value]

    bench.log.refusal = broken
    bench.publish(route, b"2")
    with pytest.raises(ValueError, match="bug"):
        await asyncio.wait_for(bench.publisher.failed, 10)
    assert bench.sender.confirmations == [0]
