"""Drives the log's core over a simulated disk, cuts the power after every operation, recovers, and asks the oracle.

The oracle: what recovery finds is exactly the groups that were acknowledged, in order, followed by the group in flight
or not; every byte of every entry is the one that was appended; and nothing of this is called damage.

A *run* is the life of one process over one disk. Every now and then a crashed disk is not only recovered but used: a
run of its own goes on with it, so that crashes follow crashes. Power is also cut during recovery. Everything comes from
one seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.clock import ClockQuality
from gateway.errors import LogDamaged, LogError, LogFull
from gateway.log.directory import journal_directory, make_directories
from gateway.log.disk import Disk
from gateway.log.format import GROUP_MAGIC, GroupHeader, encode_group_header
from gateway.log.frames import ClockFacts, EncodedGroup, encode_group, make_compressor, unpack_run
from gateway.log.groups import FlatRun
from gateway.log.positions import BEFORE_JOURNAL, JournalPosition, Run
from gateway.log.records import (
    AckRecord,
    CleanStopRecord,
    ProducerRecord,
    Record,
    StateRecord,
    SubscriptionRecord,
    TopicRecord,
    encode_record,
)
from gateway.log.recovery import Recovered, establish_identity, recover
from gateway.log.scan import SegmentFile
from gateway.log.segment import SegmentWriter, Tail
from gateway.metadata.fold import Fold
from gateway.metadata.views import Views
from tests.crash.simulated_disk import SimulatedDisk

DATA_DIR = Path("/data/log")
ALIGN = 4096
SEGMENT_UNITS = 10
OWNER = "crash"
CLEAN_STOP_OWNER = "stop"

WriterFactory = Callable[..., SegmentWriter]


@dataclass(frozen=True)
class Group:
    """A group as it was appended."""

    number: int
    """Unique; written into the group as the key of a state record."""
    entries: dict[int, FlatRun]
    clean_stop: bool = False

    @property
    def records(self) -> list[Record]:
        number = self.number
        ledger_id, subscription_id = 1 + number % 3, 1 + number % 5
        records: list[Record] = [StateRecord(OWNER, str(number), b"")]
        if number % 4 == 0:
            records.append(TopicRecord(ledger_id, f"persistent://a/b/{ledger_id}", deleted=number % 16 == 0))
        if number % 3 == 0:
            records.append(SubscriptionRecord(subscription_id, 1 + subscription_id % 3, "s", number % 7))
        if number % 2:
            records.append(
                AckRecord(subscription_id, number % 9, ((number + 20, number + 21),), reset=number % 11 == 0)
            )
            records.append(ProducerRecord(ledger_id, f"p{number % 2}", number))
        return [*records, CleanStopRecord()] if self.clean_stop else records

    def encode(self, *, compress: bool) -> EncodedGroup:
        clock = ClockFacts(bytes(16), 1_000_000 + self.number, 2_000_000 + self.number, ClockQuality.synchronised)
        return encode_group(
            [(ledger_id, run.first_entry_id, run.flat) for ledger_id, run in self.entries.items()],
            [encode_record(record) for record in self.records],
            clock,
            compressor=_COMPRESSOR if compress else None,
            align=ALIGN,
        )


_COMPRESSOR = make_compressor()


@dataclass
class Mutation:
    """What a test changes about the log to see whether the harness notices."""

    writer: WriterFactory = SegmentWriter
    disk: type[SimulatedDisk] = SimulatedDisk
    recover_disk: Callable[[SimulatedDisk], Disk] = lambda disk: disk
    page: int = ALIGN
    pairs: bool = False
    """Offer groups two by two to the writer's `write_pair`."""
    early_ack: bool = False
    """Count a group as acknowledged when it is written, before it is synced."""
    salt: bytes | None = None
    """Every segment's, instead of a random one."""


@dataclass
class Explorer:
    """One exploration from one seed."""

    seed: int
    states_max: int
    mutation: Mutation = field(default_factory=Mutation)
    states: int = 0
    """Crash states that were recovered and checked."""
    recovery_crashes: int = 0
    runs: int = 0
    faults: int = 0
    forgeries: int = 0
    views: int = 0
    """Crash states at which views from a checkpoint and the journal were held against views from the journal alone."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._numbers = 0
        self.stale = [_forged_header(self.chance.randbytes(16), number) for number in range(12)]

    @property
    def done(self) -> bool:
        return self.states >= self.states_max

    def explore(self) -> None:
        """Run process lives until enough states were seen."""
        while not self.done:
            disk = self.mutation.disk(self.chance, page=self.mutation.page, stale=self.stale)
            run = ProcessLife(self, disk, [], None, depth=0)
            run.live(self.chance.randrange(4, 14))
            while self.chance.random() < 0.7 and not self.done:
                run = ProcessLife(self, run.disk.killed(self.chance), run.expected, run.in_flight, depth=0)
                run.live(self.chance.randrange(2, 8))

    def random_bytes(self, size: int) -> bytes:
        return self.mutation.salt or self.chance.randbytes(size)

    def next_group(self, next_ids: dict[int, int], *, clean_stop: bool = False) -> Group:
        """A group of one of several shapes, whose entries follow on `next_ids`."""
        self._numbers += 1
        chance = self.chance
        entries: dict[int, FlatRun] = {}
        if not clean_stop:
            for ledger_id in sorted(chance.sample((1, 2, 7, 300), chance.randrange(1, 4))):
                size = chance.choice((10, 100, 100, 900, 5000))
                count = chance.choice((1, 1, 2, 9)) if size < 5000 else 1
                first = next_ids.get(ledger_id, 0)
                flat: list[object] = []
                for index in range(count):
                    data = (b"%d.%d.%d " % (self._numbers, ledger_id, first + index)).ljust(size, b".")
                    flat += (data if chance.random() < 0.7 else chance.randbytes(size), 1 + index % 2, self._numbers)
                entries[ledger_id] = FlatRun(first, flat)
        return Group(self._numbers, entries, clean_stop)


class ProcessLife:
    """A process that recovers a disk, appends to it and is watched while it does."""

    def __init__(
        self, explorer: Explorer, disk: SimulatedDisk, expected: list[Group], in_flight: list[Group] | None, depth: int
    ) -> None:
        self.explorer = explorer
        self.chance = explorer.chance
        self.disk = disk
        self.expected = list(expected)
        """What every recovery must find."""
        self.in_flight = list(in_flight or [])
        """What a recovery may find behind it: all, or a beginning."""
        self.depth = depth
        self.positions: list[JournalPosition] = []
        """Of acknowledged groups, as far as this process knows."""
        self.sampling = 1.0 if depth == 0 else 0.3
        explorer.runs += 1

    def live(self, steps: int) -> None:
        """Start, take some steps, and end as if killed."""
        self.disk.after = self._boundary
        faulty = self.chance.random() < 0.25
        try:
            self._start()
            if faulty:
                self._inject_fault()
            for _ in range(steps):
                if self.explorer.done:
                    break
                self._step()
        except (LogError, OSError) as error:
            # A failed log ends the process, and a start that meets the fault doesn't serve: the next life follows.
            if not faulty or isinstance(error, LogDamaged):
                raise
        finally:
            self.disk.fail = None

    def _start(self) -> None:
        make_directories(self.disk, DATA_DIR)
        self.directory_id = establish_identity(self.disk, DATA_DIR, self.explorer.random_bytes)
        recovered, found = recover_and_check(
            self.explorer.mutation.recover_disk(self.disk),
            self.directory_id,
            self.expected,
            self.in_flight,
            BEFORE_JOURNAL,
        )
        # What recovery accepted may have been delivered since: from here on it must stay.
        self.expected = self.expected + self.in_flight[: found - len(self.expected)]
        self.in_flight = []
        self.next_ids: dict[int, int] = {}
        for group in self.expected:
            for ledger_id, run in group.entries.items():
                self.next_ids[ledger_id] = run.next_entry_id
        self.writer = self._writer(recovered.tail)

    def _writer(self, tail: Tail) -> SegmentWriter:
        return self.explorer.mutation.writer(
            self.disk,
            journal_directory(DATA_DIR),
            directory_id=self.directory_id,
            boot_id=bytes(16),
            segment_bytes=SEGMENT_UNITS * ALIGN,
            segments_max=1000,
            align=ALIGN,
            tail=tail,
            monotonic_ns=lambda: 0,
            random_bytes=self.explorer.random_bytes,
            zero_step_bytes=2 * ALIGN,
            zero_ahead_bytes=3 * ALIGN,
        )

    def _step(self) -> None:
        luck = self.chance.random()
        if luck < 0.25:
            self.writer.prepare()
        elif luck < 0.33:
            self._append(self.explorer.next_group(self.next_ids, clean_stop=True))
            self.writer.close()
            self._start()
        elif luck < 0.45:
            self._append_forgery()
        else:
            self._append(self.explorer.next_group(self.next_ids))

    def _append(self, group: Group, *, compress: bool | None = None) -> None:
        if compress is None:
            compress = self.chance.random() < 0.6
        for ledger_id, run in group.entries.items():
            self.next_ids[ledger_id] = run.next_entry_id
        if self.explorer.mutation.pairs:
            self._append_pair(group)
            return
        self.in_flight = [group]
        try:
            written = self.writer.write(group.encode(compress=compress))
        except LogFull:
            # Nothing of it was written; its entry ids are free again.
            for ledger_id, run in group.entries.items():
                self.next_ids[ledger_id] = run.first_entry_id
            self.in_flight = []
            return
        self.acknowledge(group)
        self.positions.append(written.position)

    def acknowledge(self, group: Group) -> None:
        """The sender of the group has its receipt."""
        if group not in self.expected:
            self.expected.append(group)
        self.in_flight = []

    def _append_pair(self, first: Group) -> None:
        second = self.explorer.next_group(self.next_ids)
        for ledger_id, run in second.entries.items():
            self.next_ids[ledger_id] = run.next_entry_id
        self.in_flight = [first, second]
        self.writer.write_pair(first.encode(compress=False), second.encode(compress=False))  # type: ignore[attr-defined]
        self.expected += self.in_flight
        self.in_flight = []

    def _append_forgery(self) -> None:
        """Append a group whose payload holds, where a group could begin, the image of one with a guessed salt."""
        ledger_id = 9
        first = self.next_ids.get(ledger_id, 0)
        group = self.explorer.next_group({}, clean_stop=True)

        def with_payload(payload: bytes) -> Group:
            return Group(group.number, {ledger_id: FlatRun(first, [payload, 1, 0])})

        size = 3 * ALIGN
        draft = with_payload(bytes(size)).encode(compress=False)
        start = draft.stored_bytes - size
        payload = bytearray(self.chance.randbytes(size))
        for unit in range(1, 3):
            number = self.chance.randrange(0, 12)
            image = _forged_header(self.explorer.mutation.salt or self.chance.randbytes(16), number)
            payload[unit * ALIGN - start : unit * ALIGN - start + len(image)] = image
        self.explorer.forgeries += 1
        self._append(with_payload(bytes(payload)), compress=False)

    def _inject_fault(self) -> None:
        """Let one operation that follows fail."""
        at = self.disk.operations + self.chance.randrange(0, 25)
        error = OSError(self.chance.choice((5, 28, 4)), "injected")
        short = self.chance.randrange(0, 3) * 512

        def fail(number: int, name: str) -> OSError | int | None:
            if number != at:
                return None
            self.explorer.faults += 1
            return short if name == "write" and self.chance.random() < 0.5 else error

        self.disk.fail = fail

    def _boundary(self, name: str, path: Path | None) -> None:
        """An operation is done: the power may go now."""
        if (
            self.explorer.mutation.early_ack
            and name == "write"
            and self.in_flight
            and any(data.startswith(GROUP_MAGIC) for file in self.disk.files.values() for _, data in file.pending)
        ):
            self.acknowledge(self.in_flight[0])
        if self.explorer.done or self.chance.random() > self.sampling:
            return
        if self.depth < 2 and self.chance.random() < 0.03:
            self._go_on(self.disk.killed(self.chance))
        for _ in range(3 if self.depth == 0 else 1):
            crashed = self.disk.crashed(self.chance)
            self.explorer.states += 1
            self._check(crashed)
            if self.explorer.done:
                return

    def _check(self, crashed: SimulatedDisk) -> None:
        """Recover a crashed disk; sometimes crash again meanwhile, sometimes go on with it."""
        second: list[SimulatedDisk] = []
        if self.chance.random() < 0.15:
            at = self.chance.randrange(0, 8)

            def cut(name: str, path: Path | None) -> None:
                if crashed.operations >= at and not second:
                    second.append(crashed.crashed(self.chance))

            crashed.after = cut
        checkpoint = self.chance.choice([BEFORE_JOURNAL, *self.positions])
        make_directories(crashed, DATA_DIR)
        directory_id = establish_identity(crashed, DATA_DIR, self.explorer.random_bytes)
        disk = self.explorer.mutation.recover_disk(crashed)
        recover_and_check(disk, directory_id, self.expected, self.in_flight, checkpoint)
        crashed.after = None
        if self.expected and self.chance.random() < 0.02:
            self.explorer.views += 1
            check_views(disk, directory_id, len(self.expected), self.chance)
        for disk_again in second:
            self.explorer.states += 1
            self.explorer.recovery_crashes += 1
            make_directories(disk_again, DATA_DIR)
            directory_id = establish_identity(disk_again, DATA_DIR, self.explorer.random_bytes)
            recover_and_check(
                self.explorer.mutation.recover_disk(disk_again), directory_id, self.expected, self.in_flight, checkpoint
            )
        if self.depth < 2 and self.chance.random() < 0.04:
            self._go_on(crashed)

    def _go_on(self, disk: SimulatedDisk) -> None:
        """Let another process live on a disk as this one left it."""
        life = ProcessLife(self.explorer, disk, self.expected, self.in_flight, self.depth + 1)
        life.live(self.chance.randrange(1, 5))


def recover_and_check(
    disk: Disk, directory_id: bytes, expected: list[Group], in_flight: list[Group], checkpoint: JournalPosition
) -> tuple[Recovered, int]:
    """Recover and hold the result against what was acknowledged. Returns it and how many groups there are."""
    numbers: list[int] = []
    found_runs: list[list[Run]] = []
    replayed_from = [BEFORE_JOURNAL]

    def on_group(position: JournalPosition, runs: list[Run], records: list[Record]) -> None:
        assert position > max(checkpoint, replayed_from[-1])
        replayed_from.append(position)
        state = records[0]
        assert isinstance(state, StateRecord)
        numbers.append(int(state.key))
        found_runs.append(runs)

    recovered = recover(disk, DATA_DIR, directory_id, checkpoint=checkpoint, on_group=on_group)
    report = recovered.report
    assert not report.damages, f"called damage: {report.damages}"
    possible = expected + in_flight
    assert len(expected) <= report.groups <= len(possible), (
        f"{report.groups} groups recovered, {len(expected)} were acknowledged, {len(in_flight)} in flight"
    )
    groups = possible[: report.groups]
    replayed = groups[len(groups) - len(numbers) :]
    assert numbers == [group.number for group in replayed], "groups are lost, doubled, invented or out of order"
    if checkpoint == BEFORE_JOURNAL:
        assert len(numbers) == len(groups)
    for group, runs in zip(replayed, found_runs, strict=True):
        assert sum(run.entries for run in runs) == sum(run.entries for run in group.entries.values())
    _check_entries(disk, recovered, groups)
    return recovered, len(groups)


def check_views(disk: Disk, directory_id: bytes, acknowledged: int, chance: random.Random) -> None:
    """Hold views made from a checkpoint and the journal behind it against views made from the journal alone."""
    whole: list[tuple[JournalPosition, list[Run], list[Record]]] = []
    recover(disk, DATA_DIR, directory_id, checkpoint=BEFORE_JOURNAL, on_group=lambda *group: whole.append(group))
    checkpoint = whole[chance.randrange(acknowledged)][0]
    behind: list[tuple[JournalPosition, list[Run], list[Record]]] = []
    recover(disk, DATA_DIR, directory_id, checkpoint=checkpoint, on_group=lambda *group: behind.append(group))
    dumps = []
    for parts in ([whole], [[group for group in whole if group[0] <= checkpoint], behind]):
        views = Views(None)
        for part in parts:
            fold = Fold(views.position)
            for group in part:
                fold.apply(*group)
            views.apply(fold)
        dumps.append(views.dump())
        views.close()
    assert dumps[0] == dumps[1], "the views depend on where the checkpoint was"


def _check_entries(disk: Disk, recovered: Recovered, groups: list[Group]) -> None:
    """Read every entry back through the index."""
    wanted: dict[int, list[bytes]] = {}
    for group in groups:
        for ledger_id, run in group.entries.items():
            stored = wanted.setdefault(ledger_id, [])
            assert run.first_entry_id == len(stored)
            stored += run.flat[0::3]
    files: dict[Path, SegmentFile] = {}
    for ledger_id, stored in wanted.items():
        assert recovered.index.last_entry_id(ledger_id) == len(stored) - 1
        read: list[bytes] = []
        for place in recovered.index.places(ledger_id, 0):
            file = files.get(place.path)
            if file is None:
                file = files[place.path] = SegmentFile(disk, place.path, disk.open(place.path), place.segment)
            header = file.header_at(place.offset, file.size)
            tables = file.tables(place.offset, header) if header else None
            assert tables is not None
            for item in tables.directory:
                if item.ledger_id == ledger_id:
                    frame = file.frame(tables, item.frame)
                    columns = unpack_run(frame, item.offset)
                    starts = [columns.start, *columns.ends[:-1]]
                    read += [frame[start:end] for start, end in zip(starts, columns.ends, strict=True)]
        assert read == stored, f"ledger {ledger_id}: entries differ"
    for file in files.values():
        disk.close(file.handle)


def _forged_header(salt: bytes, number: int) -> bytes:
    header = GroupHeader(salt, number, 0, 128, 0, 0, bytes(16), 0, 0, 0, 0, 0, 0)
    packed, _ = encode_group_header(header)
    assert packed.startswith(GROUP_MAGIC)
    return packed


__all__ = ["Explorer", "LogError", "Mutation", "ProcessLife", "recover_and_check"]
