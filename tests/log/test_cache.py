"""The two memories of entries: bounded, and right about what they no longer hold."""

from __future__ import annotations

from gateway.clock import ClockQuality
from gateway.log.cache import ENTRY_COST_BYTES, FrameCache, TailCache
from gateway.log.frames import ClockFacts
from gateway.log.groups import FlatRun
from gateway.log.positions import StoredEntry

CLOCK = ClockFacts(bytes(16), 9_000_000_000, 1_800_000_000_000_000_000, ClockQuality.synchronised)


def run(first: int, count: int, size: int = 100) -> FlatRun:
    flat: list[object] = []
    for index in range(count):
        flat += ((b"%d" % (first + index)).ljust(size), 1, 8_000_000_000)
    return FlatRun(first, flat)


def test_tail_cache_stays_within_its_bound() -> None:
    """The oldest groups of all ledgers go first."""
    cost = 100 + ENTRY_COST_BYTES
    cache = TailCache(cost * 50)
    for number in range(20):
        cache.add({1: run(number * 5, 5), 2: run(number * 2, 2)}, CLOCK)
        assert cache.size <= cost * 50
    assert cache.get(1, 99, 10, 10_000) is not None
    assert cache.get(1, 0, 10, 10_000) is None
    assert cache.get(2, 0, 10, 10_000) is None


def test_tail_cache_does_not_keep_what_exceeds_it() -> None:
    """A group larger than the whole cache leaves it empty, not wrong."""
    cache = TailCache(1000)
    cache.add({1: run(0, 100)}, CLOCK)
    assert cache.size == 0
    assert cache.get(1, 0, 10, 10_000) is None


def test_tail_cache_stops_at_a_gap() -> None:
    """Entries are handed out only as far as they follow on each other."""
    cache = TailCache()
    cache.add({1: run(0, 3)}, CLOCK)
    cache.add({1: run(7, 3)}, CLOCK)
    entries = cache.get(1, 1, 10, 10_000)
    assert entries is not None
    assert [entry.entry_id for entry in entries] == [1, 2]
    assert cache.get(1, 4, 10, 10_000) is None
    assert [entry.entry_id for entry in cache.get(1, 8, 10, 10_000) or ()] == [8, 9]


def test_tail_cache_knows_when_an_entry_arrived() -> None:
    """Wall time of the commit, less the entry's age."""
    cache = TailCache()
    cache.add({1: run(0, 1, 1)}, CLOCK)
    assert cache.get(1, 0, 1, 1) == [StoredEntry(0, b"0", 1, 1_800_000_000_000 - 1000)]


def test_frame_cache_forgets_what_was_used_least_recently() -> None:
    """Within its bound, whatever the values cost."""
    cache: FrameCache[int, str] = FrameCache(10)
    for key in range(4):
        cache.put(key, str(key), 3)
    assert cache.get(0) is None
    assert cache.get(1) == "1"
    cache.put(4, "4", 3)
    assert cache.get(2) is None
    assert cache.get(1) == "1"
    cache.put(5, "too large", 11)
    assert cache.get(5) is None
    cache.put(1, "other", 1)
    assert cache.get(1) == "other"
    cache.clear()
    assert cache.get(1) is None
