"""The writer thread: compresses, writes and syncs sealed groups one by one, and prepares room while nothing waits.

Group n+1 is not touched before n is durable or refused. Whatever it learns it reports to the event loop; it decides
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import LogError, LogFailed, LogFull
from gateway.log.frames import EncodedGroup, encode_group, make_compressor
from gateway.log.groups import SealedGroup
from gateway.log.segment import Room, SegmentWriter, WrittenGroup

logger = logging.getLogger(__name__)

ROOM_RETRY_SECONDS = 1.0
"""How often a full log looks whether room has returned."""
QUIET_SECONDS = 0.2
"""After a large group:

preparing starts when nothing came for so long, because a burst of large groups gains nothing from zeroed room.
"""
LARGE_GROUP_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a sealed group."""

    sealed: SealedGroup
    written: WrittenGroup | None
    encoded: EncodedGroup | None
    error: LogError | None
    """None: the group is durable."""
    room: Room
    sync_ns: int
    failures: int


class _Stop:
    """Ends the thread when everything before it is done."""


class _Look:
    """Makes the thread look at the room again."""


class WriterThread:
    """Runs a SegmentWriter. All methods are called from the event loop's thread."""

    def __init__(
        self,
        writer: SegmentWriter,
        loop: asyncio.AbstractEventLoop,
        finished: Callable[[Outcome], None],
        room_changed: Callable[[Room], None],
        monotonic_ns: Callable[[], int],
    ) -> None:
        """`finished` and `room_changed` are called on the loop."""
        self._writer = writer
        self._loop = loop
        self._finished = finished
        self._room_changed = room_changed
        self._monotonic_ns = monotonic_ns
        self._queue: queue.SimpleQueue[SealedGroup | _Stop | _Look] = queue.SimpleQueue()
        self._wake = threading.Event()
        """Set to end a wait for room early."""
        self._give_up = False
        """Refuse a group that finds no room, instead of waiting."""
        self._watching = False
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._reported: Room | None = writer.room
        """What the loop was told last."""
        self._compressor = make_compressor()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, sealed: SealedGroup) -> None:
        """Write a group after those before it."""
        self._queue.put(sealed)

    def watch_room(self, watching: bool) -> None:
        """Look for room every ROOM_RETRY_SECONDS, or no longer."""
        self._watching = watching
        self._queue.put(_Look())

    def retry_room(self) -> None:
        """Look for room now."""
        self._wake.set()
        self._queue.put(_Look())

    def give_up_when_full(self) -> None:
        """From now on a group that finds no room is refused with LogFull."""
        self._give_up = True
        self._wake.set()

    async def stop(self) -> None:
        """Finish what was submitted and let go of the files."""
        self._give_up = True
        self._wake.set()
        self._queue.put(_Stop())
        await self._stopped
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._writer.close()
            self._report(self._end)

    def _end(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _work(self) -> None:
        prepared = False
        quiet = True
        while True:
            if not prepared and quiet and self._queue.empty():
                prepared = not self._writer.prepare()
                if prepared:
                    self._report_room()
                continue
            try:
                item = self._queue.get(timeout=self._timeout(prepared))
            except queue.Empty:
                quiet = True
                if self._watching and self._writer.retry_room():
                    self._report_room()
                continue
            if isinstance(item, _Stop):
                return
            if isinstance(item, _Look):
                if self._watching:
                    self._writer.retry_room()
                    self._reported = None
                    self._report_room()
                continue
            quiet = self._commit(item) < LARGE_GROUP_BYTES
            prepared = False

    def _timeout(self, prepared: bool) -> float | None:
        if not prepared:
            return QUIET_SECONDS
        return ROOM_RETRY_SECONDS if self._watching else None

    def _commit(self, sealed: SealedGroup) -> int:
        """Write one group and report what became of it. Returns the bytes written."""
        encoded: EncodedGroup | None = None
        written: WrittenGroup | None = None
        error: LogError | None = None
        sync_ns = 0
        try:
            encoded = encode_group(
                sealed.flat_runs(),
                sealed.records_encoded,
                sealed.clock,
                compressor=self._compressor,
                align=self._writer.align,
            )
            started_ns = self._monotonic_ns()
            written = self._write(encoded)
            sync_ns = self._monotonic_ns() - started_ns
        except LogError as refused:
            error = refused
        except Exception as bug:
            # A mistake of ours must not leave senders waiting for ever: it is reported, and the log counts as failed.
            logger.exception("the journal's writer failed")
            error = LogFailed(f"the journal's writer failed: {bug}")
            self._writer.failed = True
        room = self._reported = self._writer.room
        outcome = Outcome(sealed, written, encoded, error, room, sync_ns, self._writer.failures)
        self._report(self._finished, outcome)
        return written.size if written else 0

    def _write(self, encoded: EncodedGroup) -> WrittenGroup:
        """Write a group, waiting for room if there is none. Raises: LogFull when told to give up, LogFailed."""
        while True:
            try:
                return self._writer.write(encoded)
            except LogFull:
                if self._give_up:
                    raise
                self._report_room()
                self._wake.wait(ROOM_RETRY_SECONDS)
                self._wake.clear()
                self._writer.retry_room()

    def _report_room(self) -> None:
        room = self._writer.room
        if room != self._reported:
            # Only news: each report wakes the event loop.
            self._reported = room
            self._report(self._room_changed, room)

    def _report(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop was closed before the log was: nobody is left to be told.
            logger.warning("the event loop ended before the journal")
