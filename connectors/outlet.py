"""One topic of a source, opened when it is needed, and what happens when the log or the topic refuses.

    opening ──► open: entries are sent as they come, many in flight
                  └──one fails──► settling: until all in flight are decided, later ones wait
                                     └──► trying: the oldest alone, after a growing pause ──► open

Entries leave in the order of `submit`, also around a failure. Sequence ids are new with each try, because a later
batch may have been stored meanwhile, and an older id would pass for a duplicate of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

from connectors.rounds import Batch
from gateway.client.api import Producer
from gateway.errors import BrokerError, GatewayError, LogError, ProtocolError, ServerError, StorageUnavailable
from gateway.limits import BACKOFF_MAX_NS, SECOND
from gateway.message import Position
from gateway.wire.batch import BatchTemplate


class OutletOwner(Protocol):
    """What an outlet asks of the publisher that it belongs to."""

    backoff_ns_min: int

    def wall_ms(self) -> int: ...

    def add_in_flight(self, size: int) -> None: ...

    def stored(self, batch: Batch) -> None: ...

    def refuse(self, batch: Batch, error: GatewayError) -> None: ...

    def hold(self, outlet: Outlet, error: GatewayError) -> None: ...

    def release(self, outlet: Outlet) -> None: ...

    def fail(self, error: BaseException) -> None: ...

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    async def create_producer(self, outlet: Outlet) -> Producer: ...


class Outlet:
    """One topic, opened when it is needed. Entries leave in the order of `submit`, also around a failure."""

    def __init__(self, publisher: OutletOwner, topic: str) -> None:
        self.topic = topic
        self._publisher = publisher
        self._producer: Producer | None = None
        self._template = BatchTemplate("")
        self._sequence_id = -1
        self._in_flight: deque[tuple[asyncio.Future[Position], Batch]] = deque()
        self._refused: list[Batch] = []
        """Failed, while later ones are still in flight."""
        self._waiting: deque[Batch] = deque()
        """For the topic to open, or for the log to take entries again."""
        self._error: GatewayError | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return not (self._in_flight or self._refused or self._waiting or self._task)

    def submit(self, batch: Batch) -> None:
        """Publish, now or when what is before it has been published."""
        self._publisher.add_in_flight(batch.size)
        if self._producer is None or self._waiting or self._refused:
            self._waiting.append(batch)
            if not self._refused:
                self._drain()
        else:
            self._send(self._producer, batch)

    def _send(self, producer: Producer, batch: Batch) -> None:
        future = self._send_entry(producer, batch)
        self._in_flight.append((future, batch))
        future.add_done_callback(self._settle)

    def _send_entry(self, producer: Producer, batch: Batch) -> asyncio.Future[Position]:
        self._sequence_id += 1
        messages = batch.messages
        data = self._template.encode(
            batch.parts,
            sequence_id=self._sequence_id,
            publish_time_ms=self._publisher.wall_ms(),
            messages=messages,
            key=batch.key,
        )
        return producer.send_entry(data, sequence_id=self._sequence_id, messages=messages)

    def _settle(self, _: asyncio.Future[Position]) -> None:
        in_flight = self._in_flight
        while in_flight and in_flight[0][0].done():
            future, batch = in_flight.popleft()
            error = self._failure(future)
            if error is None:
                self._publisher.stored(batch)
            else:
                self._refused.append(batch)
                self._error = error
                if _passes(error):
                    self._publisher.hold(self, error)
        if self._refused and not in_flight:
            self._waiting.extendleft(reversed(self._refused))
            self._refused.clear()
            self._drain()

    def _failure(self, future: asyncio.Future[Position]) -> GatewayError | None:
        """Why a send failed; None: it did not."""
        if future.cancelled():
            return ProtocolError("the publish was cancelled before it was confirmed")
        error = future.exception()
        if error is None or isinstance(error, GatewayError):
            return error
        self._publisher.fail(error)
        return GatewayError("a publish failed of a bug")

    def _drain(self) -> None:
        if self._task is None:
            self._task = self._publisher.start(self._publish_waiting())

    async def _publish_waiting(self) -> None:
        """Open the topic if need be and publish what waits; after a failure one entry goes first, as a test."""
        error, self._error = self._error, None
        backoff_ns = self._publisher.backoff_ns_min
        opened_again = False
        try:
            while self._waiting:
                if error is not None and _passes(error):
                    self._publisher.hold(self, error)
                    if not isinstance(error, StorageUnavailable):
                        await self._close_producer()
                    await asyncio.sleep(backoff_ns / SECOND)
                    backoff_ns = min(2 * backoff_ns, BACKOFF_MAX_NS)
                elif error is not None:
                    if opened_again or self._producer is None:
                        self._refuse_waiting(error)
                        break
                    opened_again = True
                    await self._close_producer()
                try:
                    producer = self._producer or await self._open()
                    if error is not None:
                        await self._send_entry(producer, self._waiting[0])
                        self._publisher.stored(self._waiting.popleft())
                        error = None
                except GatewayError as failure:
                    error = failure
                    continue
                while self._waiting:
                    self._send(producer, self._waiting.popleft())
        finally:
            self._task = None
            self._publisher.release(self)

    async def _open(self) -> Producer:
        # Without a name of its own choice: what a device was not told is stored comes again in other batches, so that
        # there is nothing to deduplicate by, and a name costs a record in each commit group.
        producer = await self._publisher.create_producer(self)
        self._template = BatchTemplate(producer.name)
        self._sequence_id = producer.last_sequence_id
        self._producer = producer
        return producer

    def _refuse_waiting(self, error: GatewayError) -> None:
        while self._waiting:
            self._publisher.refuse(self._waiting.popleft(), error)

    async def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                await producer.close()
            except GatewayError:
                # It is being thrown away because it failed; a second failure adds nothing.
                return

    async def close(self) -> None:
        """Give the topic up. It opens again if something is submitted."""
        await self._close_producer()


_PASSING_CODES = frozenset(
    (
        ServerError.MetadataError,
        ServerError.PersistenceError,
        ServerError.ServiceNotReady,
        ServerError.TooManyRequests,
        ServerError.ProducerBlockedQuotaExceededError,
        ServerError.ProducerBlockedQuotaExceededException,
    )
)


def _passes(error: GatewayError) -> bool:
    """Whether a failure is of the log, the broker or the line, and ends by itself, rather than of this one topic."""
    return isinstance(error, ProtocolError | LogError) or (
        isinstance(error, BrokerError) and error.code in _PASSING_CODES
    )
