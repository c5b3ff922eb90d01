"""The way of a source's messages into topics: collected over one turn of the event loop, kept until they are durable.

    device ──► Route.add ──► Lane (sensor, topic, key) ──seal──► Batch ──► Outlet (topic) ──► producer.send_entry
                  └──────── Round (one turn) ◄──── its batches are durable ────────────────────────┘
                                  └──► Sender.confirmed, round by round in the order of arrival

All batches of a round are handed to the log before the loop does anything else, so that they share a commit group. A
round is confirmed when all of it is durable, and never before an earlier one: a device gets its acknowledgements in the
order in which it published, whatever topics its messages went to.

While the log refuses (StorageUnavailable), or the line to it is lost, the batches stay here, the source is told to take
nothing more, and the oldest batch is tried again after a growing pause. A topic that refuses for another reason is
opened once more; then the senders of what it refused are told, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from weakref import WeakValueDictionary

from connectors.base import SensorReport, SourceContext
from connectors.outlet import Outlet
from connectors.rounds import Batch, Lane, Round, Route, Sender
from gateway.client.api import Producer
from gateway.errors import GatewayError
from gateway.limits import BACKOFF_MIN_NS, CONNECTOR_IN_FLIGHT_SIZE_MAX, CONNECTOR_TOPICS_MAX, MS
from gateway.names import TopicName
from gateway.wire.batch import encode_fields, encode_stamp


class Publisher:
    """All lanes, rounds and outlets of one source. Lives on the event loop; not for threads."""

    def __init__(
        self,
        context: SourceContext,
        *,
        on_pressure: Callable[[bool], None],
        backoff_ns_min: int = BACKOFF_MIN_NS,
    ) -> None:
        """`on_pressure` is called with True when the source must take nothing more, with False when it may again."""
        self.backoff_ns_min = backoff_ns_min
        self.boot_id = context.clock.boot_id.hex()
        self._context = context
        self._clock = context.clock
        self._report = context.report
        # A source that failed and runs again has nothing in flight, whatever its last run left there.
        self._report.in_flight_bytes = 0
        self._report.held = False
        self._on_pressure = on_pressure
        self._loop = asyncio.get_running_loop()
        self._round: Round | None = None
        self._rounds: deque[Round] = deque()
        self._confirming = False
        # Lanes live as long as a device's route leads to them, outlets as long as a lane does or as they are open.
        self._lanes: WeakValueDictionary[tuple[str, str, str | None], Lane] = WeakValueDictionary()
        self._outlets: WeakValueDictionary[str, Outlet] = WeakValueDictionary()
        self._open: dict[Outlet, None] = {}
        self._held: set[Outlet] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        """Gets the exception of a task that died of a bug: the owner awaits it."""

    def lane(self, report: SensorReport, topic: str, key: str | None = None) -> Lane:
        """The lane into `topic` (a short name is expanded by the default namespace), for messages of one key or of any.

        Raises: InvalidTopicName.
        """
        name = str(TopicName.parse(topic, default_namespace=self._context.default_namespace))
        lane = self._lanes.get((report.name, name, key))
        if lane is None:
            outlet = self._outlets.get(name)
            if outlet is None:
                outlet = self._outlets[name] = Outlet(self, name)
            lane = self._lanes[report.name, name, key] = Lane(outlet, report, key)
        return lane

    def route(self, lane: Lane, properties: Iterable[tuple[str, str]], key: str | None) -> Route:
        """A way into `lane`; `properties` and `key` are stored with each message that takes it."""
        return Route(lane, encode_fields([*properties, ("boot_id", self.boot_id)], key=key))

    def round(self) -> Round:
        """The round of this turn of the event loop. What is added to it is published when the turn is over."""
        turn = self._round
        if turn is None:
            wall_ms = self.wall_ms()
            properties = (("arrival_ms", str(wall_ms)), ("boottime_ns", str(self._clock.boottime_ns())))
            turn = self._round = Round(encode_stamp(properties, event_time_ms=wall_ms))
            self._rounds.append(turn)
            self._empty.clear()
            self._loop.call_soon(self._end_round, turn)
        return turn

    def _end_round(self, turn: Round) -> None:
        self._round = None
        for lane in turn.lanes:
            if lane.senders:
                lane.seal(turn)
        turn.complete = True
        self._confirm_soon()

    def wall_ms(self) -> int:
        return self._clock.wall_ns() // MS

    def stored(self, batch: Batch) -> None:
        """Count a batch as durable, and confirm what waited for it alone."""
        batch.report.messages += batch.messages
        batch.report.payload_bytes += batch.payload_bytes
        self._settle(batch)

    def refuse(self, batch: Batch, error: GatewayError) -> None:
        """Give a batch up: its senders are told, and their tokens of that round go unconfirmed."""
        batch.report.refused += batch.messages
        batch.report.last_error = str(error)
        for sender in dict.fromkeys(batch.senders):
            batch.turn.tokens.pop(sender, None)
            sender.refused(error)
        self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        batch.turn.pending -= 1
        self._report.in_flight_bytes -= batch.size
        self._confirm_soon()
        if self._report.held:
            self._update_pressure()

    def _confirm_soon(self) -> None:
        # One commit settles many batches, one callback after the other: waiting for the last of them lets each device
        # get its acknowledgements in one write.
        if not self._confirming:
            self._confirming = True
            self._loop.call_soon(self._confirm)

    def _confirm(self) -> None:
        self._confirming = False
        rounds = self._rounds
        confirmed: dict[Sender, list[Any]] = {}
        while rounds and rounds[0].complete and not rounds[0].pending:
            for sender, tokens in rounds.popleft().tokens.items():
                if sender in confirmed:
                    confirmed[sender] += tokens
                else:
                    confirmed[sender] = tokens
        for sender, tokens in confirmed.items():
            sender.confirmed(tokens)
        if not rounds:
            self._empty.set()

    def add_in_flight(self, size: int) -> None:
        """Count bytes taken and not yet durable."""
        self._report.in_flight_bytes += size
        if self._report.in_flight_bytes > CONNECTOR_IN_FLIGHT_SIZE_MAX:
            self._update_pressure()

    def hold(self, outlet: Outlet, error: GatewayError) -> None:
        """Take nothing more until this outlet gets its entries stored."""
        self._report.last_error = str(error)
        self._held.add(outlet)
        self._update_pressure()

    def release(self, outlet: Outlet) -> None:
        """Undo `hold`."""
        self._held.discard(outlet)
        self._update_pressure()

    def _update_pressure(self) -> None:
        # Reading starts again at half of the bound, so that it does not stop and start with every batch.
        bound = CONNECTOR_IN_FLIGHT_SIZE_MAX // 2 if self._report.held else CONNECTOR_IN_FLIGHT_SIZE_MAX
        held = bool(self._held) or self._report.in_flight_bytes > bound
        if held != self._report.held:
            self._report.held = held
            self._on_pressure(held)

    async def create_producer(self, outlet: Outlet) -> Producer:
        """Open a topic for an outlet; above the bound, idle ones are closed first. Raises: BrokerError."""
        surplus = max(0, len(self._open) - CONNECTOR_TOPICS_MAX + 1)
        for other in [other for other in self._open if other.idle][:surplus]:
            del self._open[other]
            await other.close()
        producer = await self._context.client.create_producer(outlet.topic)
        self._open[outlet] = None
        return producer

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that this publisher owns; if it dies of a bug, `failed` says so."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Let the source end because of a bug: nothing that is unconfirmed will be confirmed."""
        if not self.failed.done():
            self.failed.set_exception(error)

    async def close(self, *, grace_s: float) -> None:
        """Wait up to `grace_s` seconds until all is durable and confirmed, then let go of all topics."""
        # Not asyncio.timeout: before Python 3.11.4 it takes its own end for the cancellation that stops this task.
        empty = asyncio.ensure_future(self._empty.wait())
        done, _ = await asyncio.wait([empty], timeout=grace_s)
        empty.cancel()
        if not done:
            self._report.last_error = "stopped while messages were not yet durable; their devices will send them again"
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Closing a producer waits for its last entry too, which may be as far away as the commit interval.
        closing = [asyncio.create_task(outlet.close()) for outlet in self._open]
        self._open.clear()
        if closing:
            await asyncio.wait(closing, timeout=grace_s)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        self.failed.cancel()
