"""Reads entries back: from the tail cache, from inflated frames, from the segments. Only durable entries are ever seen.

Reads that need the disk run in a pool of two threads, never on the event loop. Every header, directory and frame is
checked when it is read; what is damaged is skipped, reported once, and never handed out (guarantee G5).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from gateway.errors import LogDamaged, LogError
from gateway.limits import MS
from gateway.log.cache import FrameCache, TailCache
from gateway.log.disk import Disk
from gateway.log.format import DirectoryItem
from gateway.log.frames import unpack_run
from gateway.log.groups import CommittedGroup
from gateway.log.index import GroupPlace, Index
from gateway.log.positions import JournalPosition, Run, StoredEntry
from gateway.log.recovery import Damage
from gateway.log.scan import GroupTables, SegmentFile

logger = logging.getLogger(__name__)

READ_THREADS = 2
GROUPS_PER_READ_MAX = 256
"""Groups that one read opens; with tiny groups a read may return fewer entries than asked for."""
OPEN_FILES_PER_THREAD = 4
IDLE_SECONDS = 60.0
"""After so long without a cold read, the inflated frames are let go."""
TABLES_COST_BYTES = 256
"""What the tables of a small group take in the cache."""
DIRECTORY_ITEM_COST_BYTES = 128
DAMAGES_REMEMBERED_MAX = 10_000


class ReadResult(NamedTuple):
    """What a read found."""

    entries: list[StoredEntry]
    next_entry_id: int
    """Where to go on reading:

    behind the last entry, and behind gaps. Equals the first entry id asked for when nothing is there yet.
    """


class Reader:
    """Made by `Log.open`; lives on one event loop."""

    def __init__(self, disk: Disk, index: Index) -> None:
        self._disk = disk
        self._index = index
        self._loop = asyncio.get_running_loop()
        self._tail = TailCache()
        self._cache: FrameCache[tuple[JournalPosition, int], bytes] = FrameCache()
        self._tables: FrameCache[JournalPosition, GroupTables] = FrameCache(1024 * 1024)
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="log-reader")
        self._local = threading.local()
        self._open_files: list[OrderedDict[int, SegmentFile]] = []
        self._idle_timer: asyncio.TimerHandle | None = None
        self._last_cold_read = 0.0
        self._damages: set[tuple[JournalPosition, int]] = set()
        self._damage_listeners: list[Callable[[Damage], None]] = []

    def cached(self, ledger_id: int, first_entry_id: int, entries_max: int, size_max: int) -> list[StoredEntry] | None:
        """Recent entries from memory, without IO; at least one, or None: use `read`."""
        return self._tail.get(ledger_id, first_entry_id, entries_max, size_max)

    async def read(self, ledger_id: int, first_entry_id: int, *, entries_max: int, size_max: int) -> ReadResult:
        """Durable entries from `first_entry_id` on.

        At most `entries_max`; as many as reach `size_max` bytes, but at least one where there is one. No entries and a
        greater `next_entry_id`: all that was looked at is lost; go on from there. Raises: LogError when the device
        refuses to read.
        """
        assert entries_max > 0
        entries = self.cached(ledger_id, first_entry_id, entries_max, size_max)
        if entries is not None:
            return ReadResult(entries, entries[-1].entry_id + 1)
        places: list[GroupPlace] = []
        found = 0
        for place in self._index.places(ledger_id, first_entry_id):
            places.append(place)
            found += place.entries if places[1:] else place.entries - max(first_entry_id - place.first_entry_id, 0)
            if found >= entries_max or len(places) >= GROUPS_PER_READ_MAX:
                break
        if not places:
            return ReadResult([], first_entry_id)
        self._watch_idleness()
        try:
            return await self._loop.run_in_executor(
                self._pool, self._read_places, places, ledger_id, first_entry_id, entries_max, size_max
            )
        except OSError as error:
            raise LogError(f"the log can't be read: {error}") from error

    def first_entry_id(self, ledger_id: int) -> int:
        """Of the first durable entry that is kept; -1: none."""
        return self._index.first_entry_id(ledger_id)

    def last_entry_id(self, ledger_id: int) -> int:
        """Of the last durable entry; -1: none."""
        return self._index.last_entry_id(ledger_id)

    def messages_between(self, ledger_id: int, after_entry_id: int, up_to_entry_id: int) -> int:
        """Messages in the entries of (after, up_to].

        From the index, without IO: in a group that one of the bounds cuts, each entry counts as the group's average.
        """
        return self._index.messages_between(ledger_id, after_entry_id, up_to_entry_id)

    def on_damage(self, listener: Callable[[Damage], None]) -> None:
        """Call `listener` on the loop, once for each group or frame that turns out to be damaged."""
        self._damage_listeners.append(listener)

    def add(self, group: CommittedGroup) -> None:
        """Make a durable group readable."""
        written = group.written
        self._index.add_group(written.path, written.segment, group.position.group_number, written.offset, group.runs)
        self._tail.add(group.flat_runs, group.clock)

    async def close(self) -> None:
        """Wait for reads that run, and let go of the files."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._loop.run_in_executor(None, self._pool.shutdown)
        for files in self._open_files:
            for file in files.values():
                self._disk.close(file.handle)
            files.clear()

    def _watch_idleness(self) -> None:
        self._last_cold_read = self._loop.time()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_SECONDS, self._drop_if_idle)

    def _drop_if_idle(self) -> None:
        self._idle_timer = None
        due = self._last_cold_read + IDLE_SECONDS
        if self._loop.time() < due:
            self._idle_timer = self._loop.call_at(due, self._drop_if_idle)
            return
        self._cache.clear()
        self._tables.clear()

    # From here on: in the pool's threads.

    def _read_places(
        self, places: list[GroupPlace], ledger_id: int, first_entry_id: int, entries_max: int, size_max: int
    ) -> ReadResult:
        entries: list[StoredEntry] = []
        next_entry_id = first_entry_id
        for place in places:
            try:
                tables = self._tables_of(place)
            except LogDamaged as error:
                run = Run(ledger_id, place.first_entry_id, place.entries, place.entries)
                self._report(place, -1, str(error), run)
                next_entry_id = place.first_entry_id + place.entries
                continue
            items = tables.directory
            for item in items[bisect_left(items, ledger_id, key=_ledger_id) :]:
                if item.ledger_id != ledger_id:
                    break
                if item.first_entry_id + item.entries <= next_entry_id:
                    continue
                size_max = self._read_run(place, tables, item, next_entry_id, entries, entries_max, size_max)
                done = len(entries) >= entries_max or (size_max <= 0 and bool(entries))
                next_entry_id = entries[-1].entry_id + 1 if done else item.first_entry_id + item.entries
                if done:
                    return ReadResult(entries, next_entry_id)
        return ReadResult(entries, next_entry_id)

    def _read_run(
        self,
        place: GroupPlace,
        tables: GroupTables,
        item: DirectoryItem,
        first_entry_id: int,
        entries: list[StoredEntry],
        entries_max: int,
        size_max: int,
    ) -> int:
        """Append a run's entries from `first_entry_id` on. Returns what is left of `size_max`."""
        try:
            frame = self._frame(place, tables, item.frame)
        except LogDamaged as error:
            self._report(place, item.frame, str(error), Run(*item[:4]))
            return size_max
        columns = unpack_run(frame, item.offset)
        start = max(first_entry_id - item.first_entry_id, 0)
        stop = min(start + entries_max - len(entries), item.entries)
        ends = columns.ends
        begin = ends[start - 1] if start else columns.start
        wall_ms = tables.header.wall_ns // MS
        entry_id = item.first_entry_id + start
        for end, messages, age_ms in zip(
            ends[start:stop], columns.messages[start:stop], columns.ages[start:stop], strict=True
        ):
            entries.append(StoredEntry(entry_id, frame[begin:end], messages, wall_ms - age_ms))
            size_max -= end - begin
            if size_max <= 0:
                break
            begin = end
            entry_id += 1
        return size_max

    def _tables_of(self, place: GroupPlace) -> GroupTables:
        position = place.position
        tables = self._tables.get(position)
        if tables is not None:
            return tables
        file = self._file(place)
        header = file.header_at(place.offset, file.size)
        tables = file.tables(place.offset, header) if header and header.group_number == place.group_number else None
        if tables is None:
            raise LogDamaged("a group's header or directory is damaged", path=place.path, offset=place.offset)
        items = len(tables.directory) + len(tables.frames)
        self._tables.put(position, tables, TABLES_COST_BYTES + items * DIRECTORY_ITEM_COST_BYTES)
        return tables

    def _frame(self, place: GroupPlace, tables: GroupTables, index: int) -> bytes:
        key = (place.position, index)
        frame = self._cache.get(key)
        if frame is None:
            frame = self._file(place).frame(tables, index)
            self._cache.put(key, frame, len(frame))
        return frame

    def _file(self, place: GroupPlace) -> SegmentFile:
        files: OrderedDict[int, SegmentFile] | None = getattr(self._local, "files", None)
        if files is None:
            files = self._local.files = OrderedDict()
            self._open_files.append(files)
        number = place.segment.segment_number
        file = files.get(number)
        if file is None:
            file = SegmentFile(self._disk, place.path, self._disk.open(place.path), place.segment, window_bytes=0)
            files[number] = file
            if len(files) > OPEN_FILES_PER_THREAD:
                _, oldest = files.popitem(last=False)
                self._disk.close(oldest.handle)
        files.move_to_end(number)
        return file

    def _report(self, place: GroupPlace, frame: int, reason: str, run: Run) -> None:
        damage = Damage(str(place.path), place.offset, place.position, reason, (run,))
        self._loop.call_soon_threadsafe(self._damaged, damage, (place.position, frame))

    def _damaged(self, damage: Damage, key: tuple[JournalPosition, int]) -> None:
        if key in self._damages or len(self._damages) >= DAMAGES_REMEMBERED_MAX:
            return
        self._damages.add(key)
        logger.error("%s, offset %d, group %s: %s", damage.path, damage.offset, damage.position, damage.reason)
        for listener in self._damage_listeners:
            listener(damage)


def _ledger_id(item: DirectoryItem) -> int:
    return item.ledger_id
