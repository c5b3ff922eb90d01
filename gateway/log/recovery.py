"""Finds out, at start, what the journal holds: whole groups, a torn tail, rot, and where writing goes on.

What makes the difference:

- Group n+1 is written only after n is durable. So a believable header of a later group proves that a bad group before
  it was acknowledged: rot.
- The successor's header names a segment's end. Before that end everything bad is rot; beyond it nothing exists.
- A checkpoint of the views at or after a group proves the same.
- A bad group with none of this beyond it is the torn tail of a power cut: it was acknowledged to nobody. It is cut off
  whole, and its bytes are copied to `torn/` for the curious.
- Damaged frames of entries cost those entries. A damaged frame of state records, or a whole lost group, that no
  checkpoint covers stops the start: topics, cursors or functions' state would silently be other than what was
  acknowledged.

Afterwards the tail is synced (a process that was killed may have left it in the page cache only, and a header is about
to vouch for it), and unless the last group is a clean stop, writing goes on in a new segment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from gateway.errors import LogDamaged
from gateway.log.chain import Chain, Segment, find_chain
from gateway.log.directory import journal_directory, read_identity, torn_directory, write_identity
from gateway.log.disk import Disk
from gateway.log.format import ID_SIZE, GroupHeader, aligned
from gateway.log.frames import unpack_records
from gateway.log.index import Index
from gateway.log.positions import JournalPosition, Run
from gateway.log.records import CleanStopRecord, Record, decode_record
from gateway.log.scan import GroupTables, SegmentFile
from gateway.log.segment import OpenSegment, SegmentEnd, Tail, slot_of

logger = logging.getLogger(__name__)

TORN_COPIES_MAX = 16
"""Files kept in `torn/`; the oldest goes first."""
TORN_COPY_BYTES_MAX = 1024 * 1024
DAMAGED_SUFFIX = ".damaged"
"""Added to the name of a file that the operator gave up: it stays for the curious, outside of the ring."""
UNKNOWN_CRC = -1
REPAIR_HINT = "run 'headwater log repair' to go on without what is lost"

OnGroup = Callable[[JournalPosition, list[Run], list[Record]], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """Acknowledged bytes that are unreadable."""

    path: str
    offset: int
    position: JournalPosition
    """The damaged group, or the first of several lost ones."""
    reason: str
    runs: tuple[Run, ...] = ()
    """Entries that are lost, where the directory still says so."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """Bytes of a group that nobody was told about, cut off."""

    path: str
    offset: int
    size: int
    """Bytes; up to the last unit that is not zero."""
    copy: str
    """Where they were copied to; empty if that failed."""


@dataclass(slots=True)
class RecoveryReport:
    """What recovery found, for the operator."""

    segments: int = 0
    groups: int = 0
    replayed_groups: int = 0
    """After the checkpoint."""
    clean: bool = False
    """The last group is a clean stop."""
    damages: list[Damage] = field(default_factory=list)
    torn: TornTail | None = None


@dataclass(slots=True)
class Recovered:
    """What the journal holds and where it goes on."""

    index: Index
    tail: Tail
    last: JournalPosition | None
    """The last whole group; None: there is none."""
    report: RecoveryReport


def recover(
    disk: Disk,
    data_dir: Path,
    directory_id: bytes,
    *,
    checkpoint: JournalPosition,
    on_group: OnGroup,
    accept_damage: bool = False,
) -> Recovered:
    """Read the journal of a data directory whose lock is held.

    Groups after `checkpoint` are verified whole, decoded and handed to `on_group` in order; of those before it headers
    and directories are read. `accept_damage`: go on without state records that are lost, instead of refusing to start.
    Raises: LogDamaged, OSError.
    """
    return _Recovery(disk, data_dir, directory_id, checkpoint, on_group, accept_damage).run()


def establish_identity(disk: Disk, data_dir: Path, random_bytes: Callable[[int], bytes]) -> bytes:
    """The data directory's id; made, durably, at the first start. Raises: LogDamaged, OSError."""
    directory_id = read_identity(disk, data_dir)
    if directory_id is None:
        # A directory that lost its identity file is still the same one: its segments say which.
        segments = find_chain(disk, journal_directory(data_dir), None).segments
        directory_id = segments[-1].header.directory_id if segments else random_bytes(ID_SIZE)
        write_identity(disk, data_dir, directory_id)
    return directory_id


class _Recovery:
    def __init__(
        self,
        disk: Disk,
        data_dir: Path,
        directory_id: bytes,
        checkpoint: JournalPosition,
        on_group: OnGroup,
        accept_damage: bool,
    ) -> None:
        self._disk = disk
        self._journal = journal_directory(data_dir)
        self._torn = torn_directory(data_dir)
        self._directory_id = directory_id
        self._checkpoint = checkpoint
        self._on_group = on_group
        self._accept_damage = accept_damage
        self._index = Index()
        self._report = RecoveryReport()
        self._last: JournalPosition | None = None
        self._last_records: list[Record] | None = None
        """Of the last group; None: not decoded."""
        self._last_tables: GroupTables | None = None

    def run(self) -> Recovered:
        self._disk.sync_directory(self._journal)
        chain = find_chain(self._disk, self._journal, self._directory_id)
        kept_slots = self._judge(chain)
        segments = chain.segments
        tail = Tail()
        if segments:
            tail.next_number = segments[-1].header.segment_number + 1
        for segment, successor in zip_longest(segments, segments[1:]):
            self._read_segment(segment, successor, tail)
        if segments and tail.open is None and tail.predecessor.number != segments[-1].header.segment_number:
            segments.pop()
        tail.used_slots = [segment.slot for segment in segments] + kept_slots
        tail.free_slots = [slot for slot in chain.slots if slot not in tail.used_slots]
        if tail.next_number <= self._checkpoint.segment_number:
            # Positions must go on behind the views', or nothing that is written from now on would ever be replayed.
            self._lose_segment(self._checkpoint.segment_number, self._journal, "is missing", covered=False)
            tail.next_number = self._checkpoint.segment_number + 1
        self._report.segments = len(segments)
        return Recovered(self._index, tail, self._last, self._report)

    def _judge(self, chain: Chain) -> list[int]:
        """Decide about segments that are missing or lost their header. Returns the slots that must be left alone."""
        for number in chain.missing:
            covered = self._checkpoint.segment_number > number
            self._lose_segment(number, self._journal, "is missing", covered=covered)
        kept_slots: list[int] = []
        for path in chain.damaged:
            # Which number it had is unknown. If one is missing, it is that one, about which all is said.
            if not chain.missing:
                newest = chain.segments[-1].header.segment_number if chain.segments else -1
                self._lose_segment(newest + 1, path, "lost its header", covered=False)
            slot = slot_of(path.name)
            assert slot is not None
            if self._accept_damage:
                self._disk.rename(path, path.with_name(path.name + DAMAGED_SUFFIX))
                self._disk.sync_directory(self._journal)
                chain.slots.remove(slot)
            else:
                kept_slots.append(slot)
        return kept_slots

    def _read_segment(self, segment: Segment, successor: Segment | None, tail: Tail) -> None:
        handle = self._disk.open(segment.path)
        keep = False
        try:
            self._disk.forget(handle)
            file = SegmentFile(self._disk, segment.path, handle, segment.header)
            sealed = successor.predecessor if successor else None
            if sealed is not None and sealed.number != segment.header.segment_number:
                # The segment between them is missing, and with it where this one ends.
                sealed = SegmentEnd(segment.header.segment_number, file.size, UNKNOWN_CRC)
            end = file.size if sealed is None else min(sealed.end, file.size)
            offset, number, crc = self._scan(file, end, sealed)
            if sealed is not None:
                return
            written_end = file.written_end(offset, end)
            if written_end > offset:
                self._cut_off(file, offset, written_end)
            damaged = any(damage.path == str(file.path) for damage in self._report.damages)
            clean = self._report.torn is None and not damaged and self._ends_cleanly(file)
            self._report.clean = clean and number > 0
            if number == 0:
                # Nothing was ever acknowledged in it: the file is free, and its predecessor is the tail again.
                tail.predecessor = segment.predecessor
            elif clean:
                keep = True
                header = segment.header
                tail.open = OpenSegment(header, segment.path, handle, file.size, offset, crc, number, offset)
            else:
                tail.predecessor = SegmentEnd(segment.header.segment_number, offset, crc)
        finally:
            if not keep:
                self._disk.close(handle)

    def _scan(self, file: SegmentFile, end: int, sealed: SegmentEnd | None) -> tuple[int, int, int]:
        """Read all groups.

        Returns the offset behind the last one that exists, the next group's number, the last group's CRC.
        """
        offset = file.header.align
        number = 0
        crc: int | None = file.header.crc
        last_crc = file.header.crc
        while offset < end:
            header = file.header_at(offset, end)
            if header is None or header.group_number != number or (crc is not None and header.previous_crc != crc):
                found = file.next_header(offset, end, number + 1)
                if found is None:
                    self._lose_rest(file, offset, number, sealed)
                    break
                self._lose_groups(file, offset, number, found[1].group_number)
                offset, header = found
                number = header.group_number
            if not self._take_group(file, offset, header, end, sealed):
                break
            offset += aligned(header.stored_bytes, file.header.align)
            number += 1
            crc = last_crc = header.crc
        if sealed is not None and offset >= end and sealed.crc not in (last_crc, UNKNOWN_CRC):
            covered = self._checkpoint.segment_number > file.header.segment_number
            self._damage(
                file, offset, number, "the last group is not the one that the next segment names", covered=covered
            )
        return offset, number, last_crc

    def _take_group(
        self, file: SegmentFile, offset: int, header: GroupHeader, end: int, sealed: SegmentEnd | None
    ) -> bool:
        """Enter a group whose header is right. Returns False for a torn tail."""
        position = JournalPosition(file.header.segment_number, header.group_number)
        covered = position <= self._checkpoint
        tables = file.tables(offset, header)
        damaged = file.damaged_frames(tables) if tables is not None and not covered else []
        if tables is None or damaged:
            beyond = offset + aligned(header.stored_bytes, file.header.align)
            proven = covered or sealed is not None or file.next_header(beyond, end, header.group_number + 1) is not None
            if not proven:
                return False
        self._report.groups += 1
        self._last, self._last_tables, self._last_records = position, tables, None
        if tables is None:
            self._damage(file, offset, header.group_number, "the directory of a group is damaged", covered=covered)
            self._index.add_group(file.path, file.header, header.group_number, offset, ())
            return True
        runs = [Run(*item[:4]) for item in tables.directory]
        if damaged:
            lost = tuple(run for run, item in zip(runs, tables.directory, strict=True) if item.frame in damaged)
            records_lost = any(tables.frames[index].content for index in damaged)
            reason = "state records are damaged" if records_lost else "entries are damaged"
            self._damage(file, offset, header.group_number, reason, covered=not records_lost, runs=lost)
        kept = [run for run, item in zip(runs, tables.directory, strict=True) if item.frame not in damaged]
        self._index.add_group(file.path, file.header, header.group_number, offset, kept)
        if not covered:
            records = [
                decode_record(kind, body)
                for index, item in enumerate(tables.frames)
                if item.content and index not in damaged
                for kind, body in unpack_records(file.frame(tables, index))
            ]
            self._last_records = [record for record in records if record is not None]
            self._report.replayed_groups += 1
            self._on_group(position, runs, self._last_records)
        return True

    def _lose_groups(self, file: SegmentFile, offset: int, number: int, found: int) -> None:
        """Groups number..found-1 are unreadable, and `found` proves that they were durable."""
        covered = JournalPosition(file.header.segment_number, found - 1) <= self._checkpoint
        self._damage(file, offset, number, f"{found - number} groups are unreadable", covered=covered)

    def _lose_rest(self, file: SegmentFile, offset: int, number: int, sealed: SegmentEnd | None) -> None:
        """Nothing believable follows."""
        segment = file.header.segment_number
        if sealed is not None and sealed.crc == UNKNOWN_CRC:
            # Nothing says that there was more.
            return
        if sealed is not None:
            # How many groups are lost is unknown, so only a checkpoint in a later segment covers them all.
            covered = self._checkpoint.segment_number > segment
            self._damage(file, offset, number, "groups are unreadable up to the segment's end", covered=covered)
        elif JournalPosition(segment, number) <= self._checkpoint:
            self._damage(file, offset, number, "groups that a checkpoint covers are unreadable", covered=True)

    def _lose_segment(self, number: int, path: Path, reason: str, *, covered: bool) -> None:
        """A whole segment is gone."""
        logger.error("%s: segment %d %s", path, number, reason)
        self._report.damages.append(Damage(str(path), 0, JournalPosition(number, 0), f"segment {number} {reason}"))
        if not covered and not self._accept_damage:
            raise LogDamaged(f"{path}: segment {number} {reason}", path=path, hint=REPAIR_HINT)

    def _damage(
        self,
        file: SegmentFile,
        offset: int,
        group_number: int,
        reason: str,
        *,
        covered: bool,
        runs: Iterable[Run] = (),
    ) -> None:
        position = JournalPosition(file.header.segment_number, group_number)
        logger.error("%s, offset %d, group %s: %s", file.path, offset, position, reason)
        self._report.damages.append(Damage(str(file.path), offset, position, reason, tuple(runs)))
        if not covered and not self._accept_damage:
            raise LogDamaged(f"{file.path}, offset {offset}: {reason}", path=file.path, offset=offset, hint=REPAIR_HINT)

    def _ends_cleanly(self, file: SegmentFile) -> bool:
        records = self._last_records
        if records is None and self._last_tables is not None:
            try:
                frames = list(file.record_frames(self._last_tables))
            except LogDamaged:
                return False
            decoded = (decode_record(kind, body) for frame in frames for kind, body in unpack_records(frame))
            records = [record for record in decoded if record is not None]
        return any(isinstance(record, CleanStopRecord) for record in records or ())

    def _cut_off(self, file: SegmentFile, offset: int, end: int) -> None:
        """Keep a copy of a torn tail, as far as that is possible: it is evidence, not data."""
        path = self._torn / f"segment-{file.header.segment_number:010d}-{offset:010d}"
        copy = ""
        try:
            self._copy(file.read(min(end - offset, TORN_COPY_BYTES_MAX), offset), path)
            copy = str(path)
        except OSError as error:
            logger.warning("the torn tail of %s can't be copied: %s", file.path, error)
        self._report.torn = TornTail(str(file.path), offset, end - offset, copy)
        logger.warning("%s ends with a torn group at offset %d: cut off, %d bytes", file.path, offset, end - offset)

    def _copy(self, data: bytes, path: Path) -> None:
        names = [name for name in self._disk.list_directory(self._torn) if name != path.name]
        for name in names[: max(len(names) - TORN_COPIES_MAX + 1, 0)]:
            self._disk.remove(self._torn / name)
        handle = self._disk.open(path, create=True)
        try:
            self._disk.write(handle, data, 0)
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
