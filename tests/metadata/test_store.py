"""The views behind the event loop: what a read sees, and what an error of SQLite costs."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.clock import ClockQuality
from gateway.errors import LogError
from gateway.log.groups import CommittedGroup
from gateway.log.positions import JournalPosition, Run
from gateway.log.records import Record, StateRecord, TopicRecord
from gateway.metadata import store
from gateway.metadata.fold import Fold
from gateway.metadata.store import Metadata
from gateway.metadata.views import Views

TOPIC = "persistent://public/default/t"


class Feed:
    """Hands committed groups to the views, as the journal does."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.group_number = 0

    def commit(self, *records: Record, entries: int = 0, size: int = 4096) -> None:
        runs = [Run(1, self.group_number * 10, entries, entries)] if entries else []
        position = JournalPosition(0, self.group_number)
        self.group_number += 1
        clock = (bytes(16), 0, 0, ClockQuality.unknown)
        self.metadata.add(CommittedGroup(position, runs, list(records), size, None, {}, clock))  # type: ignore[arg-type]


@pytest.fixture
async def metadata() -> AsyncIterator[Metadata]:
    metadata = Metadata(None)
    await metadata.open(b"i" * 16)
    await metadata.ready()
    yield metadata
    await metadata.close()


async def test_read_sees_everything_durable(metadata: Metadata) -> None:
    """What was committed before the read is in its answer, whether or not a checkpoint came between."""
    feed = Feed(metadata)
    feed.commit(TopicRecord(1, TOPIC))
    for _ in range(3):
        feed.commit(entries=10)
        topic = await metadata.load_topic(TOPIC)
        assert topic is not None
        assert topic.next_entry_id == feed.group_number * 10


async def test_refused_flush_is_tried_again(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under SQLite costs the read that met it; later nothing is missing, and the order is kept."""
    feed = Feed(metadata)
    feed.commit(TopicRecord(1, TOPIC), StateRecord("me", "key", b"1"))

    def full(self: Views, fold: Fold, *, durable: bool = False) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Views, "apply", full)
        for value in (b"2", b"3"):
            with pytest.raises(LogError, match="full"):
                await metadata.load_state("me")
            feed.commit(StateRecord("me", "key", value))
        with pytest.raises(LogError):
            await metadata.checkpoint()
    assert await metadata.load_state("me") == {"key": b"3"}
    assert await metadata.load_topic(TOPIC) is not None


async def test_much_that_is_pending_is_flushed_unasked(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with what nobody reads."""
    monkeypatch.setattr(store, "FOLD_WEIGHT_MAX", 100_000)
    feed = Feed(metadata)
    for index in range(20):
        feed.commit(StateRecord("me", f"key {index}", bytes(10_000)))
    assert metadata._working is not None
    await metadata._working
    assert metadata._pending.weight < 100_000
    assert len(await metadata.load_state("me")) == 20


async def test_reads_and_commits_may_mix(metadata: Metadata) -> None:
    """Concurrent reads flush one after the other; each sees at least what was committed when it was asked."""
    feed = Feed(metadata)
    seen: list[int] = []

    async def read(least: int) -> None:
        state = await metadata.load_state("me")
        assert len(state) >= least
        seen.append(len(state))

    reads = []
    for index in range(50):
        feed.commit(StateRecord("me", f"key {index:02}", b"x"))
        reads.append(asyncio.create_task(read(index + 1)))
        await asyncio.sleep(0)
    await asyncio.gather(*reads)
    assert seen == sorted(seen)
    assert seen[-1] == 50


@pytest.mark.parametrize("turns", range(4))
async def test_cancelled_read_takes_no_change_with_it(metadata: Metadata, turns: int) -> None:
    """Whoever reads may be cancelled at any moment; what was on its way into the database arrives all the same."""
    feed = Feed(metadata)
    feed.commit(TopicRecord(1, TOPIC), entries=3)
    # The thread is kept busy, so that the flush of the cancelled read is still in line.
    release = threading.Event()
    metadata._pool.submit(release.wait)
    reading = asyncio.create_task(metadata.list_topics())
    for _ in range(turns):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    release.set()
    feed.commit(StateRecord("owner", "key", b"1"))
    topic = await metadata.load_topic(TOPIC)
    assert topic is not None
    assert topic.next_entry_id == 3
