"""A door to topics that keeps entries in memory, and a clock whose hands tests move.

Fair faults only: an entry is refused before it is kept or not at all, entries of one producer keep their order, and a
sequence id that is not higher than the last one kept is taken for a duplicate, as a broker does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from gateway.client.api import Client, ProducerOptions
from gateway.clock import ClockQuality
from gateway.errors import GatewayError, NotAllowed
from gateway.limits import SECOND
from gateway.message import Position


class FakeClock:
    """Stands still until it is moved."""

    boot_id = bytes(range(16))

    def __init__(self) -> None:
        self.now_ns = 1_000 * SECOND
        self.wall_offset_ns = 1_760_000_000 * SECOND

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)

    def monotonic_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns + 7

    def wall_ns(self) -> int:
        return self.now_ns + self.wall_offset_ns

    def quality(self) -> ClockQuality:
        return ClockQuality.synchronised


@dataclass
class Stored:
    """One entry that became durable."""

    topic: str
    data: bytes
    sequence_id: int
    messages: int
    group: int


@dataclass
class FakeLog:
    """The one log behind all producers of a test."""

    automatic: bool = True
    """Whether each turn of the event loop commits; otherwise `commit` does."""
    stored: list[Stored] = field(default_factory=list)
    refusal: Callable[[str], GatewayError | None] = lambda topic: None
    """Asked for each entry: the error to refuse it with."""
    opening: Callable[[str], GatewayError | None] = lambda topic: None
    """Asked for each producer: the error to refuse it with."""
    partitions: dict[str, int] = field(default_factory=dict)
    """Partitioned topics, by full name."""
    pending: list[tuple[asyncio.Future[Position], Stored]] = field(default_factory=list)
    sends: int = 0
    producers_open: int = 0
    group: int = 0
    _scheduled: bool = False
    _last: dict[str, int] = field(default_factory=dict)

    def client(self) -> Client:
        return cast(Client, FakeClient(self))

    def send(self, producer: str, stored: Stored) -> asyncio.Future[Position]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Position] = loop.create_future()
        self.sends += 1
        if (error := self.refusal(stored.topic)) is not None:
            future.set_exception(error)
            return future
        if stored.sequence_id <= self._last.get(producer, -1):
            future.set_result(Position(-1, -1))
            return future
        self._last[producer] = stored.sequence_id
        self.pending.append((future, stored))
        if self.automatic and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self.commit)
        return future

    def commit(self) -> None:
        """Make what is pending durable, as one group."""
        self._scheduled = False
        pending, self.pending = self.pending, []
        for future, stored in pending:
            stored.group = self.group
            self.stored.append(stored)
            if not future.done():
                future.set_result(Position(1, len(self.stored) - 1))
        self.group += 1

    def fail_pending(self, error: GatewayError) -> None:
        """Lose what is pending, as a log does whose device failed."""
        pending, self.pending = self.pending, []
        for future, _ in pending:
            future.set_exception(error)


class FakeProducer:
    """Publishes to one topic of a FakeLog."""

    _names = 0

    def __init__(self, log: FakeLog, topic: str) -> None:
        FakeProducer._names += 1
        self.topic = topic
        self.name = f"fake-{FakeProducer._names}"
        self.last_sequence_id = -1
        self._log = log
        log.producers_open += 1

    def send_entry(
        self, data: bytes, *, sequence_id: int, highest_sequence_id: int | None = None, messages: int = 1
    ) -> asyncio.Future[Position]:
        return self._log.send(self.name, Stored(self.topic, data, sequence_id, messages, -1))

    async def close(self) -> None:
        self._log.producers_open -= 1


class FakeClient:
    """The part of `client.api.Client` that a source uses."""

    def __init__(self, log: FakeLog) -> None:
        self._log = log

    async def create_producer(self, topic: str, options: ProducerOptions | None = None) -> FakeProducer:
        # A real one waits for the topic to be loaded.
        await asyncio.sleep(0)
        if (error := self._log.opening(topic)) is not None:
            raise error
        if topic in self._log.partitions:
            raise NotAllowed("a partitioned topic is only ever used by its partitions")
        return FakeProducer(self._log, topic)

    async def partitions(self, topic: str) -> int:
        return self._log.partitions.get(topic, 0)
