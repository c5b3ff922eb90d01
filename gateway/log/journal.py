"""The journal as the event loop sees it: groups that fill, deadlines, riders, room and receipts.

A group waits in `PendingGroup` until the first deadline among its records, then everything that waits is sealed and
handed to the writer thread (`writer.py`), which has one group in flight at a time; the next one fills meanwhile. When a
group is durable, the listeners are called (index and cache first, then the views, then others), then those who wait for
it. "Appended" and "durable" are two facts: only the second is ever reported.

    group(size) ── add_entry, add_record ──► pending ── deadline, or full ──► sealed ── written, synced ──► committed
    ──► receipts
                                               ▲
    ride(rider) ── acks, cursors, marks ───────┘ (at sealing)

It never touches a file and never blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from gateway.clock import Clock
from gateway.errors import LogError, LogFailed, LogFull
from gateway.limits import (
    ATOMIC_UNIT_SIZE_MAX,
    COMMIT_INTERVAL_MAX_NS,
    GROUP_RAW_SIZE_MAX,
    IDLE_COMMIT_INTERVAL_NS,
    KIB,
    MIB,
    SECOND,
)
from gateway.log.frames import ClockFacts
from gateway.log.groups import CommittedGroup, PendingGroup, SealedGroup, merge_runs
from gateway.log.records import CleanStopRecord
from gateway.log.segment import Room, SegmentWriter
from gateway.log.writer import Outcome, WriterThread

RESERVE_BYTES = 1 * MIB
"""Room that entries leave to acks, catalogue and shutdown: a full log must still be able to say what was consumed."""
GROUP_OVERHEAD_BYTES = 16 * KIB
"""What a group takes beside its raw bytes, at most: header, frame table, padding."""


Argument = TypeVar("Argument")


class JournalState(StrEnum):
    """Whether the journal takes entries."""

    open = "open"
    full = "full"
    """Entries are refused; ends by itself when room returns."""
    failed = "failed"
    """The device failed twice. Reads go on; only a restart of the process leads out."""


@dataclass(slots=True)
class JournalStats:
    """What the journal did since it was opened."""

    groups: int = 0
    entries: int = 0
    bytes_raw: int = 0
    bytes_written: int = 0
    """Groups with their padding."""
    syncs: int = 0
    sync_ns: int = 0
    """Time from handing a group to the system until it was durable, over all groups."""
    failures: int = 0
    """Errors that the device reported."""
    commit_causes: dict[str, int] = field(default_factory=dict)
    """Groups by the cause whose deadline sealed them."""


GRANT_BYTES = 64 * KIB
"""Raw bytes of a group for which room is looked for at once."""
GRANT_RECORDS = GRANT_BYTES // 16
"""More entries than that many bytes can be."""


class Journal:
    """Made by `Log.open`; lives on one event loop."""

    def __init__(self, writer: SegmentWriter, clock: Clock) -> None:
        self.state = JournalState.open
        self.stats = JournalStats()
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._room: Room = writer.room
        self._pending: PendingGroup | None = None
        self._sealed: list[SealedGroup] = []
        """Handed to the writer and not yet committed, oldest first."""
        self._sealed_bytes = 0
        self._deadline: float | None = None
        """Loop time at which the pending group is sealed; -inf: as soon as possible."""
        self._cause = ""
        self._timer: asyncio.Handle | None = None
        self._riders: list[Callable[[PendingGroup], None]] = []
        self._rider_timer: asyncio.TimerHandle | None = None
        self._commit_listeners: list[Callable[[CommittedGroup], None]] = []
        self._state_listeners: list[Callable[[JournalState], None]] = []
        self._thread = WriterThread(writer, self._loop, self._finish, self._update_room, clock.monotonic_ns)

    def group(self, size: int, *, essential: bool = False) -> PendingGroup:
        """The group now being assembled, with room for `size` raw bytes (entries' data plus encoded records, roughly).

        The caller adds its whole unit before it yields, so that all of it is in one group. `essential` (acks,
        catalogue, shutdown): may use the room that is kept back from entries. Raises: LogFull, LogFailed.
        """
        pending = self._pending
        if pending is not None and pending.raw_bytes + size <= pending.granted and self.state is JournalState.open:
            return pending
        if (
            pending is not None
            and (pending.raw_bytes + size > GROUP_RAW_SIZE_MAX or pending.full)
            and not pending.empty
        ):
            self._seal("size")
            pending = None
        self._check_room(size, pending, essential)
        if pending is None:
            pending = self._pending = PendingGroup()
        # Looking at all of this for each entry would cost as much as everything else that the log does with it.
        if pending.records_left > GRANT_RECORDS and self._fits(GRANT_BYTES, RESERVE_BYTES):
            pending.granted = min(pending.raw_bytes + GRANT_BYTES, GROUP_RAW_SIZE_MAX)
        else:
            pending.granted = 0
        return pending

    def commit_within(self, interval_ns: int, cause: str = "") -> None:
        """Give the pending group a deadline; the earliest wins.

        0: at the end of this turn of the loop, or when the group in flight is durable. `cause` is counted if this
        deadline is the one that ends the wait.
        """
        if self._pending is None:
            return
        if interval_ns <= 0:
            deadline = float("-inf")
        else:
            deadline = self._loop.time() + min(interval_ns, COMMIT_INTERVAL_MAX_NS) / SECOND
        if self._deadline is not None and deadline >= self._deadline:
            return
        self._deadline = deadline
        self._cause = cause
        self._arm()

    def ride(self, rider: Callable[[PendingGroup], None]) -> None:
        """Call `rider` once, when the next group is sealed; it may add records.

        Opens no group itself, but if none is sealed for IDLE_COMMIT_INTERVAL_NS, one is.
        """
        self._riders.append(rider)
        if self._rider_timer is None:
            self._rider_timer = self._loop.call_later(IDLE_COMMIT_INTERVAL_NS / SECOND, self._commit_riders)

    def on_commit(self, listener: Callable[[CommittedGroup], None]) -> None:
        """Call `listener` on the loop for every durable group, in order, before those who wait for it."""
        self._commit_listeners.append(listener)

    def on_state(self, listener: Callable[[JournalState], None]) -> None:
        """Call `listener` on the loop when `state` has changed."""
        self._state_listeners.append(listener)

    @property
    def waiting_bytes(self) -> int:
        """Raw bytes that are appended and not yet durable."""
        return self._sealed_bytes + (self._pending.raw_bytes if self._pending else 0)

    async def sync(self) -> None:
        """Return when everything appended so far is durable, riders included. Raises: LogFailed, LogFull."""
        if self.state is JournalState.failed:
            raise LogFailed("the log has failed")
        if self._pending is None and self._riders:
            self.group(0, essential=True)
        waiters = self._pending.waiters if self._pending else self._sealed[-1].waiters if self._sealed else None
        if waiters is None:
            return
        durable: asyncio.Future[None] = self._loop.create_future()

        def resolve(error: LogError | None) -> None:
            if durable.done():
                return
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

        waiters.append(resolve)
        self.commit_within(0, "sync")
        await durable

    async def close(self) -> None:
        """Commit what waits and a clean-stop record behind it, then stop the writer.

        If the device has failed or is full, what waits is told so, and the next start is as after a crash.
        """
        try:
            if self.state is not JournalState.failed:
                self.group(0, essential=True).add_record(CleanStopRecord())
                if self.state is JournalState.full:
                    self._thread.give_up_when_full()
                await self.sync()
        except (LogFull, LogFailed):
            pass
        finally:
            if self._rider_timer is not None:
                self._rider_timer.cancel()
            if self._timer is not None:
                self._timer.cancel()
            await self._thread.stop()

    def retry_room(self) -> None:
        """Say that room may have returned; the writer finds out at once instead of within a second."""
        self._thread.retry_room()

    def _check_room(self, size: int, pending: PendingGroup | None, essential: bool) -> None:
        if self.state is JournalState.failed:
            raise LogFailed(
                "the log has failed: the device reported errors",
                hint="look at the kernel's messages (dmesg); what is stored can still be read",
            )
        assert size <= ATOMIC_UNIT_SIZE_MAX
        takes_entries = self.state is JournalState.open and self._fits(size, RESERVE_BYTES)
        if takes_entries or (essential and self._fits(size, 0)):
            return
        if self.state is JournalState.open:
            self._set_state(JournalState.full)
        raise LogFull("the log is full", hint="raise gateway.disk_quota or free space on the device")

    def _fits(self, size: int, reserve: int) -> bool:
        # Compression is not counted on: nothing may be accepted that later finds no place.
        need = self.waiting_bytes + (len(self._sealed) + 2) * GROUP_OVERHEAD_BYTES + size
        room = self._room
        if room.further_segments:
            # Groups are never split, so the end of each segment may go to waste; the last one is kept for that.
            return need <= room.segment_bytes * max(room.further_segments - 1, 1) - reserve
        return need + reserve <= room.open_bytes

    def _arm(self) -> None:
        """See to it that the pending group is sealed at its deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending is None or self._deadline is None or self._sealed:
            # With a group in flight nothing is to be gained by sealing: the next one goes when that one is done.
            return
        if self._deadline <= self._loop.time():
            # At the end of this turn: what other connections have received in the same turn goes along.
            self._timer = self._loop.call_soon(self._seal_due)
        else:
            self._timer = self._loop.call_at(self._deadline, self._seal_due)

    def _seal_due(self) -> None:
        self._timer = None
        if self._pending is not None and not self._sealed:
            self._seal(self._cause)

    def _seal(self, cause: str) -> None:
        """Hand the pending group to the writer, with what wants to ride."""
        pending = self._pending
        assert pending is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        riders, self._riders = self._riders, []
        if self._rider_timer is not None:
            self._rider_timer.cancel()
            self._rider_timer = None
        self._call(riders, pending)
        self._pending = None
        self._deadline = None
        if pending.empty:
            self._call(pending.waiters, None)
            return
        clock = self._clock
        sealed = pending.seal(ClockFacts(clock.boot_id, clock.boottime_ns(), clock.wall_ns(), clock.quality()))
        self._sealed.append(sealed)
        self._sealed_bytes += sealed.raw_bytes
        self.stats.commit_causes[cause] = self.stats.commit_causes.get(cause, 0) + 1
        self._thread.submit(sealed)

    def _commit_riders(self) -> None:
        self._rider_timer = None
        if not self._riders or self.state is JournalState.failed:
            return
        try:
            self.group(0, essential=True)
        except LogFull:
            self._rider_timer = self._loop.call_later(IDLE_COMMIT_INTERVAL_NS / SECOND, self._commit_riders)
            return
        self.commit_within(0, "acks")

    def _finish(self, outcome: Outcome) -> None:
        """The writer is done with the oldest sealed group."""
        sealed = self._sealed.pop(0)
        assert sealed is outcome.sealed
        self._sealed_bytes -= sealed.raw_bytes
        self.stats.failures = outcome.failures
        error = outcome.error
        if error is None:
            # First the next group, so that the device works while receipts are sent.
            if self._pending is not None and not self._sealed and self._deadline is not None:
                if self._deadline <= self._loop.time():
                    self._seal(self._cause)
                else:
                    self._arm()
            self._commit(outcome)
        elif isinstance(error, LogFailed):
            self._fail(error)
        self._call(sealed.waiters, error)
        self._update_room(outcome.room)

    def _commit(self, outcome: Outcome) -> None:
        sealed, written, encoded = outcome.sealed, outcome.written, outcome.encoded
        assert written is not None
        assert encoded is not None
        stats = self.stats
        stats.groups += 1
        stats.entries += sealed.entries
        stats.bytes_raw += sealed.raw_bytes
        stats.bytes_written += written.size
        stats.syncs += 1
        stats.sync_ns += outcome.sync_ns
        group = CommittedGroup(
            written.position,
            merge_runs(encoded.directory),
            sealed.records,
            written.size,
            written,
            sealed.runs,
            sealed.clock,
        )
        self._call(self._commit_listeners, group)

    def _fail(self, error: LogFailed) -> None:
        self._set_state(JournalState.failed)
        pending, self._pending = self._pending, None
        self._deadline = None
        self._riders = []
        if pending is not None:
            self._call(pending.waiters, error)

    def _update_room(self, room: Room) -> None:
        self._room = room
        if self.state is JournalState.full and self._fits(GROUP_RAW_SIZE_MAX, RESERVE_BYTES):
            self._set_state(JournalState.open)
        elif self.state is JournalState.open and not self._fits(0, 0):
            self._set_state(JournalState.full)

    def _set_state(self, state: JournalState) -> None:
        if state is self.state:
            return
        self.state = state
        self._thread.watch_room(state is JournalState.full)
        for listener in self._state_listeners:
            listener(state)

    def _call(self, callbacks: Sequence[Callable[[Argument], None]], argument: Argument) -> None:
        for callback in callbacks:
            try:
                callback(argument)
            except Exception as bug:
                # One caller's mistake must not keep the receipts of the others; the loop's handler reports it.
                self._loop.call_exception_handler({"message": "a callback of a commit failed", "exception": bug})
