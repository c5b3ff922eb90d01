"""What the log's tests share: a clock whose hands they move, and a log core over a simulated disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.clock import ClockQuality
from gateway.log.directory import journal_directory, make_directories
from gateway.log.frames import ClockFacts, encode_group, make_compressor
from gateway.log.positions import BEFORE_JOURNAL, JournalPosition, Run
from gateway.log.records import Record, encode_record
from gateway.log.recovery import Recovered, establish_identity, recover
from gateway.log.segment import SegmentWriter, Tail, WrittenGroup
from tests.crash.simulated_disk import SimulatedDisk

DATA_DIR = Path("/data/log")
ALIGN = 4096
SEGMENT_BYTES = 32 * ALIGN


class FakeClock:
    """A clock that only moves when told."""

    boot_id = bytes(range(16))

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.wall = 1_800_000_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.wall

    def quality(self) -> ClockQuality:
        return ClockQuality.synchronised


class Core:
    """Recovery and the segment writer over a simulated disk, without threads."""

    def __init__(self, disk: SimulatedDisk, *, segments_max: int = 100, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.disk = disk
        self.segments_max = segments_max
        self.segment_bytes = segment_bytes
        self.clock = FakeClock()
        self.groups: list[tuple[JournalPosition, list[Run], list[Record]]] = []
        """What the last recovery replayed."""
        self.next_entry_id = 0

    def start(self, checkpoint: JournalPosition = BEFORE_JOURNAL, *, accept_damage: bool = False) -> Recovered:
        """Recover, and make a writer that goes on."""
        self.groups = []
        make_directories(self.disk, DATA_DIR)
        directory_id = establish_identity(self.disk, DATA_DIR, self.disk.chance.randbytes)
        recovered = recover(
            self.disk,
            DATA_DIR,
            directory_id,
            checkpoint=checkpoint,
            on_group=lambda *group: self.groups.append(group),
            accept_damage=accept_damage,
        )
        self.writer = self.make_writer(directory_id, recovered.tail)
        return recovered

    def make_writer(self, directory_id: bytes, tail: Tail) -> SegmentWriter:
        return SegmentWriter(
            self.disk,
            journal_directory(DATA_DIR),
            directory_id=directory_id,
            boot_id=self.clock.boot_id,
            segment_bytes=self.segment_bytes,
            segments_max=self.segments_max,
            align=ALIGN,
            tail=tail,
            monotonic_ns=self.clock.monotonic_ns,
            random_bytes=self.disk.chance.randbytes,
            zero_step_bytes=ALIGN,
            zero_ahead_bytes=2 * ALIGN,
        )

    def append(self, *datas: bytes, records: tuple[Record, ...] = (), compress: bool = False) -> WrittenGroup:
        """Write a group with these entries of ledger 1 and these records."""
        flat: list[object] = []
        for data in datas:
            flat += (data, 1, self.clock.now_ns)
        group = encode_group(
            [(1, self.next_entry_id, flat)] if datas else [],
            [encode_record(record) for record in records],
            ClockFacts(self.clock.boot_id, self.clock.now_ns, self.clock.wall, ClockQuality.synchronised),
            compressor=make_compressor() if compress else None,
            align=ALIGN,
        )
        written = self.writer.write(group)
        self.next_entry_id += len(datas)
        return written

    def kill(self) -> None:
        """End the process without a word, and start the next one on what it left."""
        self.disk = self.disk.killed(self.disk.chance)

    @property
    def replayed(self) -> list[tuple[JournalPosition, int]]:
        """Position and number of entries of each group that the last recovery replayed."""
        return [(position, sum(run.entries for run in runs)) for position, runs, _ in self.groups]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(random.Random(1))


@pytest.fixture
def core(disk: SimulatedDisk) -> Core:
    return Core(disk)
