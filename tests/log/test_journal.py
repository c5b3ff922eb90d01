"""The journal on the event loop: what is in one group, when it goes, who is told what, over a simulated disk."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.errors import LogError, LogFailed, LogFull
from gateway.limits import GROUP_RAW_SIZE_MAX, MIB
from gateway.log.directory import journal_directory, make_directories
from gateway.log.groups import CommittedGroup, PendingGroup
from gateway.log.journal import Journal, JournalState
from gateway.log.positions import BEFORE_JOURNAL
from gateway.log.records import CleanStopRecord, ProducerRecord, StateRecord
from gateway.log.recovery import establish_identity, recover
from gateway.log.segment import SegmentWriter
from tests.crash.simulated_disk import SimulatedDisk
from tests.log.conftest import ALIGN, DATA_DIR, FakeClock

SECOND_NS = 1_000_000_000


class Harness:
    """A journal, what it reported, and a gate before its disk."""

    def __init__(self, disk: SimulatedDisk, *, segments_max: int = 100, segment_bytes: int = 4 * MIB) -> None:
        self.disk = disk
        self.clock = FakeClock()
        make_directories(disk, DATA_DIR)
        directory_id = establish_identity(disk, DATA_DIR, disk.chance.randbytes)
        recovered = recover(disk, DATA_DIR, directory_id, checkpoint=BEFORE_JOURNAL, on_group=lambda *_: None)
        self.writer = SegmentWriter(
            disk,
            journal_directory(DATA_DIR),
            directory_id=directory_id,
            boot_id=self.clock.boot_id,
            segment_bytes=segment_bytes,
            segments_max=segments_max,
            align=ALIGN,
            tail=recovered.tail,
            monotonic_ns=self.clock.monotonic_ns,
            random_bytes=disk.chance.randbytes,
        )
        self.journal = Journal(self.writer, self.clock)
        self.committed: list[CommittedGroup] = []
        self.states: list[JournalState] = []
        self.changed = asyncio.Event()
        self.journal.on_commit(lambda group: self.changed.set())
        self.journal.on_state(lambda state: self.changed.set())
        self.journal.on_commit(self.committed.append)
        self.journal.on_state(self.states.append)
        self.results: list[LogError | None] = []
        self.next_entry_id = 0

    async def until(self, check: Callable[[], bool]) -> None:
        """Wait for commits and changes of state until `check` holds."""
        async with asyncio.timeout(30):
            while not check():
                self.changed.clear()
                await self.changed.wait()

    def publish(self, data: bytes = b"entry", *, within_ns: int = 0, cause: str = "test") -> None:
        """One entry of ledger 1, whose receipt goes to `results`."""
        group = self.journal.group(len(data))
        group.add_entry(1, self.next_entry_id, data, 1, self.clock.boottime_ns())
        self.next_entry_id += 1
        group.when_durable(self.results.append)
        self.journal.commit_within(within_ns, cause)

    @asynccontextmanager
    async def device_held(self) -> AsyncIterator[None]:
        """While this is open, no sync of a group returns."""
        gate = threading.Event()
        entered = asyncio.Event()
        loop = asyncio.get_running_loop()
        sync_data = self.disk.sync_data

        def held(handle: int) -> None:
            loop.call_soon_threadsafe(entered.set)
            gate.wait(10)
            sync_data(handle)

        self.disk.sync_data = held  # type: ignore[method-assign]
        self.held = entered
        try:
            yield
        finally:
            self.disk.sync_data = sync_data  # type: ignore[method-assign]
            gate.set()


@pytest.fixture
async def harness(disk: SimulatedDisk) -> AsyncIterator[Harness]:
    harness = Harness(disk)
    yield harness
    await harness.journal.close()


async def test_receipt_follows_the_sync(harness: Harness) -> None:
    """Nothing is reported before the device answered."""
    async with harness.device_held():
        harness.publish()
        await harness.held.wait()
        await asyncio.sleep(0)
        assert harness.results == []
        assert harness.committed == []
    await harness.journal.sync()
    assert harness.results == [None]
    assert harness.committed[0].runs == [(1, 0, 1, 1)]


async def test_entries_of_one_turn_share_a_group(harness: Harness) -> None:
    """With no time to wait, what arrives in the same turn of the loop is synced once."""
    for _ in range(100):
        harness.publish()
    await harness.journal.sync()
    assert [group.runs[0].entries for group in harness.committed] == [100]
    assert harness.journal.stats.syncs == 1


async def test_next_group_fills_while_one_is_in_flight(harness: Harness) -> None:
    """It is written only when the one before is durable, and takes everything that came meanwhile."""
    async with harness.device_held():
        harness.publish()
        await harness.held.wait()
        for _ in range(10):
            harness.publish()
            await asyncio.sleep(0)
        assert harness.disk.log.count("write") <= 2
    await harness.journal.sync()
    assert [group.runs[0].entries for group in harness.committed] == [1, 10]


async def test_earliest_deadline_commits_everything(harness: Harness) -> None:
    """An entry that could wait goes with one that can't; the cause that ended the wait is counted."""
    harness.publish(within_ns=50 * SECOND_NS, cause="slow")
    await asyncio.sleep(0)
    assert harness.committed == []
    harness.publish(within_ns=0, cause="alarms")
    await harness.until(lambda: len(harness.results) == 2)
    assert [group.runs[0].entries for group in harness.committed] == [2]
    assert harness.journal.stats.commit_causes == {"alarms": 1}


async def test_group_waits_for_its_deadline(harness: Harness) -> None:
    """A commit interval is kept, then the group goes by itself."""
    harness.publish(within_ns=20_000_000, cause="interval")
    await harness.until(lambda: bool(harness.results))
    assert harness.journal.stats.commit_causes == {"interval": 1}


async def test_later_deadline_does_not_move_an_earlier_one(harness: Harness) -> None:
    """The first promise counts."""
    harness.publish(within_ns=20_000_000, cause="early")
    harness.publish(within_ns=50 * SECOND_NS, cause="late")
    await harness.until(lambda: len(harness.results) == 2)
    assert harness.journal.stats.commit_causes == {"early": 1}


async def test_rider_goes_with_the_next_group_and_opens_none(harness: Harness) -> None:
    """Acks and cursor moves cost no sync of their own."""
    rode: list[PendingGroup] = []

    def rider(group: PendingGroup) -> None:
        rode.append(group)
        group.add_record(StateRecord("rider", "key", b"1"))

    harness.journal.ride(rider)
    for _ in range(10):
        await asyncio.sleep(0)
    assert rode == []
    harness.publish()
    harness.publish()
    await harness.until(lambda: len(harness.results) == 2)
    assert len(rode) == 1
    assert harness.committed[0].records == [StateRecord("rider", "key", b"1")]


async def test_rider_goes_by_itself_after_a_while(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a quiet gateway acks become durable too."""
    monkeypatch.setattr("gateway.log.journal.IDLE_COMMIT_INTERVAL_NS", 5_000_000)
    harness.journal.ride(lambda group: group.add_record(StateRecord("rider", "key", b"1")))
    await harness.until(lambda: bool(harness.committed))
    assert harness.committed[0].records == [StateRecord("rider", "key", b"1")]


async def test_sync_takes_riders_along(harness: Harness) -> None:
    """Everything appended so far, riders included."""
    harness.journal.ride(lambda group: group.add_record(StateRecord("rider", "key", b"1")))
    await harness.journal.sync()
    assert len(harness.committed) == 1
    await harness.journal.sync()
    assert len(harness.committed) == 1


async def test_rider_that_has_nothing_to_say_costs_no_group(harness: Harness) -> None:
    """An empty group is not written."""
    harness.journal.ride(lambda group: None)
    await harness.journal.sync()
    assert harness.committed == []


async def test_producers_of_a_group_become_records(harness: Harness) -> None:
    """One for each named producer that the group touched; ids beyond 63 bits are those of Java's longs."""
    group = harness.journal.group(10)
    group.producers[(1, "device")] = (7, 0)
    group.producers[(1, "device")] = (8, 1)
    group.producers[(2, "odd")] = (2**64 - 1, 0)
    await harness.journal.sync()
    assert harness.committed[0].records == [ProducerRecord(1, "device", 8, 1), ProducerRecord(2, "odd", -1, 0)]


async def test_unit_is_never_split(harness: Harness) -> None:
    """When it doesn't fit into the pending group, that one goes first."""
    half = GROUP_RAW_SIZE_MAX // 2
    harness.publish(b"a" * half, within_ns=50 * SECOND_NS)
    group = harness.journal.group(half + 1000)
    for index in range(10):
        group.add_entry(2, index, b"b" * (half // 10 + 100), 1, 0)
    await harness.journal.sync()
    assert [[run.ledger_id for run in group.runs] for group in harness.committed] == [[1], [2]]


async def test_groups_become_durable_in_order(harness: Harness) -> None:
    """Positions, entries and receipts are in the order of the calls, over many groups and segments."""
    order: list[int] = []
    for index in range(400):
        data = random.Random(index).randbytes(60_000)
        group = harness.journal.group(len(data))
        group.add_entry(1, index, data, 1, 0)
        group.when_durable(lambda error, index=index: order.append(index))  # type: ignore[misc]
        harness.journal.commit_within(0)
        if index % 7 == 0:
            await asyncio.sleep(0)
    await harness.journal.sync()
    assert order == list(range(400))
    positions = [group.position for group in harness.committed]
    assert positions == sorted(positions)
    assert len({position.segment_number for position in positions}) > 3
    assert harness.committed[0].runs[0].first_entry_id == 0
    assert sum(group.runs[0].entries for group in harness.committed) == 400


async def test_callback_that_fails_keeps_no_receipt_from_others(harness: Harness) -> None:
    """One connection's bug is reported to the loop, and the next waiter is called."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def broken(error: LogError | None) -> None:
        raise ZeroDivisionError

    harness.publish()
    harness.journal.group(0).when_durable(broken)
    harness.publish()
    await harness.until(lambda: len(harness.results) == 2)
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


async def test_failed_device_fails_everybody_who_waits(harness: Harness) -> None:
    """Two errors:

    the group in flight, the pending one and everything later are refused; nothing of it is acknowledged.
    """
    harness.publish()
    await harness.journal.sync()
    harness.disk.fail = lambda number, name: OSError(5, "injected") if name == "sync_data" else None
    harness.publish()
    await harness.until(lambda: len(harness.results) == 2)
    assert isinstance(harness.results[1], LogFailed)
    assert harness.states == [JournalState.failed]
    with pytest.raises(LogFailed):
        harness.publish()
    with pytest.raises(LogFailed):
        await harness.journal.sync()


async def test_one_device_error_is_invisible(harness: Harness) -> None:
    """The group goes to a new segment, and its sender is told that it is durable."""
    harness.publish()
    await harness.journal.sync()
    left = [1]

    def fail(number: int, name: str) -> OSError | None:
        if name == "sync_data" and left:
            left.clear()
            return OSError(5, "injected")
        return None

    harness.disk.fail = fail
    harness.publish()
    await harness.journal.sync()
    assert harness.results == [None, None]
    assert [group.position.segment_number for group in harness.committed] == [0, 1]
    assert harness.journal.state is JournalState.open
    assert harness.journal.stats.failures == 1


async def test_full_log_refuses_entries_and_keeps_room_for_what_is_essential(disk: SimulatedDisk) -> None:
    """At the quota publishing is refused; acks still go, and so does the clean stop."""
    harness = Harness(disk, segments_max=2)
    refused = 0
    chance = random.Random(1)
    for _ in range(100):
        try:
            harness.publish(chance.randbytes(200_000))
        except LogFull:
            refused += 1
        await harness.journal.sync()
    assert refused > 50
    assert harness.journal.state is JournalState.full
    assert harness.states == [JournalState.full]
    assert len(harness.committed) == 100 - refused
    harness.journal.group(100, essential=True).add_record(StateRecord("ack", "key", b""))
    await harness.journal.sync()
    await harness.journal.close()
    assert harness.committed[-1].records == [CleanStopRecord()]
    assert set(harness.results) == {None}


async def test_full_device_is_left_when_room_returns(disk: SimulatedDisk) -> None:
    """No segment can be made: publishing is refused, nothing is lost, and the state ends by itself."""
    full = threading.Event()
    full.set()
    disk.fail = lambda number, name: OSError(28, "no room") if name == "allocate" and full.is_set() else None
    harness = Harness(disk)
    chance = random.Random(1)
    for _ in range(3):
        harness.publish(chance.randbytes(200_000))
    await harness.until(lambda: harness.journal.state is JournalState.full)
    with pytest.raises(LogFull):
        harness.publish()
    assert harness.journal.state is JournalState.full
    full.clear()
    harness.journal.retry_room()
    await harness.until(lambda: harness.journal.state is JournalState.open)
    harness.publish()
    await harness.journal.sync()
    assert harness.results == [None] * 4
    await harness.journal.close()


async def test_entry_that_does_not_fit_does_not_keep_others_out(disk: SimulatedDisk) -> None:
    """One large entry is refused near the quota; what still fits is taken as soon as the room was looked at."""
    harness = Harness(disk, segments_max=1, segment_bytes=8 * MIB)
    harness.publish(random.Random(1).randbytes(3 * MIB))
    await harness.journal.sync()
    with pytest.raises(LogFull):
        harness.publish(bytes(5 * MIB))
    await harness.until(lambda: harness.journal.state is JournalState.open)
    harness.publish()
    await harness.journal.sync()
    assert harness.results == [None, None]
    await harness.journal.close()


async def test_waiting_group_is_refused_when_a_full_log_stops(disk: SimulatedDisk) -> None:
    """Its sender is told so, nothing of it is on disk, and the stop doesn't wait for room."""
    disk.fail = lambda number, name: OSError(28, "no room") if name == "allocate" else None
    harness = Harness(disk)
    harness.publish()
    await harness.until(lambda: harness.journal.state is JournalState.full)
    await harness.journal.close()
    assert [type(result) for result in harness.results] == [LogFull]
    assert harness.committed == []


async def test_close_commits_what_waits_and_a_clean_stop(disk: SimulatedDisk) -> None:
    """The last group says that the gateway ended in order."""
    harness = Harness(disk)
    harness.publish(within_ns=50 * SECOND_NS)
    harness.journal.ride(lambda group: group.add_record(StateRecord("rider", "key", b"1")))
    await harness.journal.close()
    assert harness.results == [None]
    assert harness.committed[-1].records[0] == CleanStopRecord()
    groups = []
    recovered = recover(
        disk.crashed(disk.chance),
        DATA_DIR,
        establish_identity(disk, DATA_DIR, disk.chance.randbytes),
        checkpoint=BEFORE_JOURNAL,
        on_group=lambda *group: groups.append(group),
    )
    assert recovered.report.clean
    assert len(groups) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]
