"""The whole log on a real file system: restart, kill, lock, quota, damaged views, cold and warm reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import LogDamaged, LogError, LogLocked
from gateway.limits import MIB, REPLAY_SIZE_MAX, SEGMENT_SIZE_MIN
from gateway.log import Log, LogSettings, StoredEntry
from gateway.log.directory import journal_directory, views_file
from gateway.log.disk import OsDisk
from gateway.log.records import AckRecord, StateRecord, SubscriptionRecord, TopicRecord
from gateway.log.recovery import Damage
from gateway.log.segment import slot_name
from gateway.metadata.cursor import CursorState
from tests.log.conftest import FakeClock

TOPIC = "persistent://public/default/t"


def settings(path: Path, **changes: int) -> LogSettings:
    return LogSettings(path, **{"quota_bytes": 10 * SEGMENT_SIZE_MIN, "segment_bytes": SEGMENT_SIZE_MIN, **changes})


async def append(log: Log, ledger_id: int, first: int, datas: list[bytes], messages: int = 1) -> None:
    """One group of entries, durable on return."""
    group = log.journal.group(sum(map(len, datas)))
    for index, data in enumerate(datas):
        group.add_entry(ledger_id, first + index, data, messages, 0)
    await log.journal.sync()


async def read_all(log: Log, ledger_id: int, first: int = 0, **bounds: int) -> list[StoredEntry]:
    entries: list[StoredEntry] = []
    while True:
        result = await log.reader.read(ledger_id, first, **{"entries_max": 100, "size_max": MIB, **bounds})
        if result.next_entry_id == first:
            return entries
        entries += result.entries
        first = result.next_entry_id


def forget_tail(log: Log) -> None:
    """Make the next reads go to the disk."""
    log.reader._tail = type(log.reader._tail)()


@pytest.fixture
async def log(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Log]:
    log = await Log.open(settings(tmp_path / "log"), clock)
    yield log
    await log.close()


async def test_log_holds_what_was_committed_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """Entries, catalogue, cursors, state and the directory's id; a clean stop leaves nothing to replay."""
    log = await Log.open(settings(tmp_path), clock)
    directory_id = log.directory_id
    assert (log.metadata.next_ledger_id, log.metadata.next_subscription_id) == (1, 1)
    group = log.journal.group(100)
    group.add_record(TopicRecord(1, TOPIC))
    group.add_record(SubscriptionRecord(1, 1, "s"))
    group.add_record(StateRecord("me", "key", b"value"))
    await append(log, 1, 0, [b"zero", b"one", b"two"])
    log.journal.ride(lambda group: group.add_record(AckRecord(1, 1)))
    await log.close()
    log = await Log.open(settings(tmp_path), clock)
    assert log.recovery.clean
    assert log.recovery.replayed_groups == 0
    assert log.directory_id == directory_id
    assert [entry.data for entry in await read_all(log, 1)] == [b"zero", b"one", b"two"]
    topic = await log.metadata.load_topic(TOPIC)
    assert topic is not None
    assert topic.next_entry_id == 3
    assert topic.subscriptions[0].cursor == CursorState(1)
    assert await log.metadata.load_state("me") == {"key": b"value"}
    assert (log.metadata.next_ledger_id, log.metadata.next_subscription_id) == (2, 2)
    await log.close()


async def test_log_replays_what_the_views_lack_after_a_kill(tmp_path: Path, clock: FakeClock) -> None:
    """The views are as of their own journal position; the journal has the rest."""
    log = await Log.open(settings(tmp_path), clock)
    log.journal.group(100).add_record(TopicRecord(1, TOPIC))
    await append(log, 1, 0, [b"zero"])
    await log.metadata.checkpoint()
    log.journal.group(100).add_record(SubscriptionRecord(1, 1, "s"))
    await append(log, 1, 1, [b"one"])
    image = tmp_path / "killed"
    _copy_tree(tmp_path, image)
    await log.close()
    log = await Log.open(settings(image), clock)
    assert not log.recovery.clean
    assert log.recovery.replayed_groups == 1
    topic = await log.metadata.load_topic(TOPIC)
    assert topic is not None
    assert topic.next_entry_id == 2
    assert [subscription.name for subscription in topic.subscriptions] == ["s"]
    assert [entry.data for entry in await read_all(log, 1)] == [b"zero", b"one"]
    await log.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 500, b""])
async def test_log_makes_damaged_views_again(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    """A lost or damaged database costs time, not names, ids or cursors."""
    log = await Log.open(settings(tmp_path), clock)
    log.journal.group(100).add_record(TopicRecord(7, TOPIC, properties={"a": "b"}))
    await append(log, 7, 0, [b"zero"])
    await log.close()
    for suffix in ("-wal", "-shm"):
        _views(tmp_path, suffix).unlink(missing_ok=True)
    _views(tmp_path).write_bytes(content)
    log = await Log.open(settings(tmp_path), clock)
    topic = await log.metadata.load_topic(TOPIC)
    assert topic is not None
    assert (topic.ledger_id, topic.next_entry_id, topic.properties) == (7, 1, {"a": "b"})
    assert log.metadata.next_ledger_id == 8
    await log.close()


async def test_views_of_another_journal_are_set_aside(tmp_path: Path, clock: FakeClock) -> None:
    """A database copied from another gateway must not lend its topics."""
    for name in ("one", "two"):
        log = await Log.open(settings(tmp_path / name), clock)
        log.journal.group(10).add_record(TopicRecord(1, f"persistent://public/default/{name}"))
        await log.close()
    views_file(tmp_path / "two").write_bytes(views_file(tmp_path / "one").read_bytes())
    log = await Log.open(settings(tmp_path / "two"), clock)
    assert [topic.name for topic in await log.metadata.list_topics()] == ["persistent://public/default/two"]
    await log.close()


async def test_log_belongs_to_one_process(log: Log, tmp_path: Path, clock: FakeClock) -> None:
    """A second gateway on the same directory is told so, and disturbs nothing."""
    with pytest.raises(LogLocked, match="running gateway"):
        await Log.open(settings(tmp_path / "log"), clock)
    await append(log, 1, 0, [b"zero"])


async def test_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path, clock: FakeClock) -> None:
    """And says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="can't be made"):
        await Log.open(settings(tmp_path / "file" / "log"), clock)


async def test_start_refused_by_damage_leaves_the_lock(tmp_path: Path, clock: FakeClock) -> None:
    """The operator can try again in the same process."""
    log = await Log.open(settings(tmp_path), clock)
    await append(log, 1, 0, [b"zero"])
    await log.close()
    slot = journal_directory(tmp_path) / slot_name(0)
    slot.write_bytes(bytes(4096) + slot.read_bytes()[4096:])
    for _ in range(2):
        with pytest.raises(LogDamaged):
            await Log.open(settings(tmp_path), clock)


async def test_recent_entries_are_read_without_the_disk(log: Log) -> None:
    """Bounded by entries and by size; at least one entry."""
    await append(log, 1, 0, [b"a" * 100] * 10, messages=3)
    await append(log, 1, 10, [b"b" * 100] * 10)
    entries = log.reader.cached(1, 8, 5, MIB)
    assert entries is not None
    assert [(entry.entry_id, entry.data[:1], entry.messages) for entry in entries] == [
        (8, b"a", 3), (9, b"a", 3), (10, b"b", 1), (11, b"b", 1), (12, b"b", 1),
    ]  # fmt: skip
    assert len(log.reader.cached(1, 0, 100, 250) or ()) == 3
    assert len(log.reader.cached(1, 0, 100, 1) or ()) == 1
    assert log.reader.cached(1, 20, 5, MIB) is None
    assert log.reader.cached(2, 0, 5, MIB) is None


async def test_cold_read_equals_warm_read(log: Log, clock: FakeClock) -> None:
    """From frames, whatever the cut: ids, bytes, messages and arrival times."""
    chance = random.Random(3)
    first = 0
    for number in range(30):
        datas = [chance.randbytes(chance.choice((5, 200, 3000))) if number % 2 else b"{}" * 60 for _ in range(40)]
        if number == 7:
            datas[3] = bytes(200_000)
        clock.now_ns += 7_000_000
        clock.wall += 7_000_000
        group = log.journal.group(sum(map(len, datas)))
        for index, data in enumerate(datas):
            group.add_entry(1, first + index, data, 1 + index % 4, clock.now_ns - index * 1_000_000)
            group.add_entry(2, first + index, b"other", 1, clock.now_ns)
        first += len(datas)
        await log.journal.sync()
    warm = await read_all(log, 1)
    assert len(warm) == first
    forget_tail(log)
    for bounds in ({}, {"entries_max": 1}, {"size_max": 700}, {"entries_max": 7, "size_max": 5000}):
        assert await read_all(log, 1, **bounds) == warm
    for start in range(0, first, 37):
        assert (await log.reader.read(1, start, entries_max=3, size_max=MIB)).entries == warm[start : start + 3]
    assert log.reader.messages_between(1, -1, first - 1) == sum(entry.messages for entry in warm)


async def test_nothing_there_yet(log: Log) -> None:
    """The next entry id equals the one asked for, and first and last ids are -1."""
    assert await log.reader.read(1, 0, entries_max=10, size_max=MIB) == ([], 0)
    assert log.reader.first_entry_id(1) == log.reader.last_entry_id(1) == -1
    await append(log, 1, 0, [b"zero"])
    assert await log.reader.read(1, 1, entries_max=10, size_max=MIB) == ([], 1)
    assert log.reader.first_entry_id(1) == log.reader.last_entry_id(1) == 0


async def test_damaged_entries_are_skipped_and_reported_once(log: Log, tmp_path: Path) -> None:
    """Rot that is found while reading costs the entries of its frame; a reader goes on behind them."""
    noticed: list[Damage] = []
    log.reader.on_damage(noticed.append)
    chance = random.Random(4)
    for number in range(3):
        await append(log, 1, number * 10, [chance.randbytes(9000) for _ in range(10)])
    forget_tail(log)
    place = list(log.reader._index.places(1, 0))[1]
    with place.path.open("r+b") as file:
        file.seek(place.offset + 20_000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes((byte ^ 1,)))
    entries = await read_all(log, 1)
    lost = set(range(30)) - {entry.entry_id for entry in entries}
    assert lost == set(range(10, 17))
    assert await read_all(log, 1) == entries
    await asyncio.sleep(0)
    assert [damage.position for damage in noticed] == [place.position]
    assert noticed[0].runs[0][:3] == (1, 10, 7)


async def test_checkpoint_is_made_while_the_journal_grows(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start never has to replay much more than REPLAY_SIZE_MAX."""
    monkeypatch.setattr("gateway.metadata.store.REPLAY_SIZE_MAX", REPLAY_SIZE_MAX // 64)
    data = random.Random(1).randbytes(100_000)
    for index in range(6):
        await append(log, 1, index, [data])
    task = log.metadata._working
    assert task is not None
    await task
    assert log.metadata._opened.position.group_number >= 2


async def test_readers_keep_up_with_a_writer(log: Log) -> None:
    """Concurrent reads of everything written so far, warm and cold, see each entry once and in order."""
    total = 3000
    chance = random.Random(9)
    datas = [b"%d " % index + chance.randbytes(chance.randrange(2000)) for index in range(total)]

    async def write() -> None:
        for start in range(0, total, 50):
            await append(log, 1, start, datas[start : start + 50])

    async def read(cold: bool) -> None:
        first = 0
        while first < total:
            if cold:
                forget_tail(log)
            result = await log.reader.read(1, first, entries_max=64, size_max=MIB)
            for entry in result.entries:
                assert entry.entry_id == first
                assert entry.data == datas[first]
                first += 1
            if not result.entries:
                await asyncio.sleep(0)

    await asyncio.gather(write(), read(False), read(True), read(True))


def test_settings_are_checked(tmp_path: Path) -> None:
    """A quota that can't hold a spare segment, or a page size that is none, is refused before anything is made."""
    for changes in (
        {"align": 5000},
        {"align": 128 * 1024},
        {"segment_bytes": MIB},
        {"quota_bytes": 2 * SEGMENT_SIZE_MIN},
    ):
        with pytest.raises(ValueError, match="must"):
            settings(tmp_path, **changes)
    assert LogSettings.for_quota(tmp_path, 8 * 1024 * MIB).segment_bytes == 32 * MIB
    assert LogSettings.for_quota(tmp_path, 64 * MIB).segment_bytes == SEGMENT_SIZE_MIN


def test_disk_reads_short_only_at_the_end(tmp_path: Path) -> None:
    """The seam's promise on the real system."""
    disk = OsDisk()
    handle = disk.open(tmp_path / "file", create=True)
    disk.allocate(handle, 100)
    assert disk.write(handle, b"abc", 10) == 3
    disk.sync(handle)
    assert disk.read(handle, 5, 9) == b"\0abc\0"
    assert disk.read(handle, 50, 90) == bytes(10)
    assert disk.read(handle, 5, 200) == b""
    disk.close(handle)
    with pytest.raises(FileNotFoundError):
        disk.open(tmp_path / "none")


def _views(data_dir: Path, suffix: str = "") -> Path:
    return data_dir / (views_file(data_dir).name + suffix)


def _copy_tree(source: Path, target: Path) -> None:
    for file in list(source.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
