"""Two bounded memories of entries: the journal's tail as it was appended, and frames as they were inflated. No IO."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from typing import Generic, NamedTuple, TypeVar

from gateway.limits import FRAME_CACHE_SIZE_MAX, MS, TAIL_CACHE_SIZE_MAX
from gateway.log.frames import RUN_FIELDS, ClockFacts, FlatEntries
from gateway.log.groups import FlatRun
from gateway.log.positions import StoredEntry

ENTRY_COST_BYTES = 96
"""What Python takes for an entry beside its data: the bytes object's head, three places in a list, the arrival time."""


Key = TypeVar("Key")
Value = TypeVar("Value")


class _CachedRun(NamedTuple):
    first_entry_id: int
    next_entry_id: int
    flat: FlatEntries
    clock: ClockFacts
    cost: int


class TailCache:
    """The newest entries of all ledgers together. Belongs to the event loop's thread.

    Holds the very lists that the groups were filled with, so keeping them costs nothing per entry. What doesn't fit any
    more goes group by group, the oldest first.
    """

    def __init__(self, size_max: int = TAIL_CACHE_SIZE_MAX) -> None:
        self.size = 0
        """Bytes, with what Python adds to them."""
        self._size_max = size_max
        self._ledgers: dict[int, deque[_CachedRun]] = {}
        self._order: deque[int] = deque()
        """Ledger ids in the order in which their runs were added."""

    def add(self, runs: dict[int, FlatRun], clock: ClockFacts) -> None:
        """Keep a group's entries."""
        for ledger_id, run in runs.items():
            first_entry_id, flat = run
            cost = sum(map(len, flat[0::RUN_FIELDS])) + ENTRY_COST_BYTES * run.entries
            cached = self._ledgers.get(ledger_id)
            if cached is None:
                cached = self._ledgers[ledger_id] = deque()
            cached.append(_CachedRun(first_entry_id, run.next_entry_id, flat, clock, cost))
            self._order.append(ledger_id)
            self.size += cost
        while self.size > self._size_max:
            self._evict()

    def get(self, ledger_id: int, first_entry_id: int, entries_max: int, size_max: int) -> list[StoredEntry] | None:
        """Entries from `first_entry_id` on, at least one; None: that entry is not here."""
        runs = self._ledgers.get(ledger_id)
        if not runs or first_entry_id < runs[0].first_entry_id or first_entry_id >= runs[-1].next_entry_id:
            return None
        # Readers that keep up want the last run; the others are found by bisection.
        index = len(runs) - 1
        if first_entry_id < runs[index].first_entry_id:
            index = bisect_right(runs, first_entry_id, key=_first_entry_id) - 1
        entries: list[StoredEntry] = []
        entry_id = first_entry_id
        while index < len(runs) and len(entries) < entries_max and size_max > 0:
            run = runs[index]
            if not run.first_entry_id <= entry_id < run.next_entry_id:
                break
            start = (entry_id - run.first_entry_id) * RUN_FIELDS
            stop = start + (entries_max - len(entries)) * RUN_FIELDS
            flat = run.flat[start:stop]
            wall_ms = run.clock.wall_ns // MS
            boottime_ns = run.clock.boottime_ns
            for data, messages, arrival_ns in zip(flat[0::3], flat[1::3], flat[2::3], strict=True):
                entries.append(StoredEntry(entry_id, data, messages, wall_ms - (boottime_ns - arrival_ns) // MS))
                entry_id += 1
                size_max -= len(data)
                if size_max <= 0:
                    break
            index += 1
        return entries or None

    def _evict(self) -> None:
        ledger_id = self._order.popleft()
        runs = self._ledgers[ledger_id]
        self.size -= runs.popleft().cost
        if not runs:
            del self._ledgers[ledger_id]


class FrameCache(Generic[Key, Value]):
    """Recently used values with a cost in bytes; several threads may share it."""

    def __init__(self, size_max: int = FRAME_CACHE_SIZE_MAX) -> None:
        self._size_max = size_max
        self._size = 0
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, which counts as used now; None: it is not here."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value, cost: int) -> None:
        """Keep a value; what was used least recently goes. One that exceeds the whole cache is not kept."""
        if cost > self._size_max:
            return
        with self._lock:
            replaced = self._values.pop(key, None)
            if replaced is not None:
                self._size -= replaced[1]
            self._values[key] = (value, cost)
            self._size += cost
            while self._size > self._size_max:
                _, (_, evicted) = self._values.popitem(last=False)
                self._size -= evicted

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._size = 0


def _first_entry_id(run: _CachedRun) -> int:
    return run.first_entry_id
