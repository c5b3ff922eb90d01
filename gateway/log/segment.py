"""Carries complete groups into segment files: create, open, append, seal, move on when the device reports an error.

Synchronous and without threads, so that crash tests drive it one operation at a time; `journal.py` runs it in the
writer thread. It never decides when a group is written, and never reads.

A segment's life, as far as it is built (reuse comes with packing):

    state   entered by                      durable before                          a crash leaves free    creation
    file, its length, its directory entry   free or absent open    header naming the predecessor   the header, with a
    new salt             open, cut off at the last whole group sealed  full, unclean stop, an error    nothing more
    sealed

Errors (guarantee G3): after the first one nothing more is written to that file; it is sealed at its last durable offset
and the group, still in memory, goes once to a new segment. Another error within FAILURE_WINDOW_NS, and the writer is
failed for good. No room for a new segment is not an error: LogFull leaves everything as it was, and the same group can
be offered again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gateway.errors import LogFailed, LogFull
from gateway.limits import ALIGN_MAX, MIB, SECOND
from gateway.log.disk import Disk
from gateway.log.format import NO_SEGMENT, SALT_SIZE, SegmentHeader, aligned, encode_segment_header
from gateway.log.frames import EncodedGroup
from gateway.log.positions import JournalPosition
from gateway.log.scan import read_segment_header

logger = logging.getLogger(__name__)

FAILURE_WINDOW_NS = 60 * SECOND
"""Two errors of the device within this time are one too many. Source: guarantee G3."""
GROUPS_PER_SEGMENT_MAX = 65_535
"""The index counts groups in 16 bits."""
ZERO_STEP_BYTES = MIB // 4
"""Zeros written in one step of `prepare`. A card takes about 25 ms for them, which is what a group may have to wait."""
ZERO_AHEAD_BYTES = MIB
"""So far ahead of the last group the open segment is kept zeroed."""
SLOT_PREFIX = "slot-"


def slot_name(slot: int) -> str:
    """File name of a ring slot. Never renamed; which segment lies in it is said by its header."""
    return f"{SLOT_PREFIX}{slot:05d}"


def slot_of(name: str) -> int | None:
    """The ring slot that a file name stands for, or None."""
    digits = name.removeprefix(SLOT_PREFIX)
    return int(digits) if digits != name and digits.isdecimal() and len(digits) == 5 else None


class SegmentEnd(NamedTuple):
    """Where a sealed segment ends; what the header of its successor repeats."""

    number: int
    end: int
    """Bytes; nothing beyond exists."""
    crc: int
    """Of the last group's header; of the segment's header, if it has no group."""


NO_PREDECESSOR = SegmentEnd(NO_SEGMENT, 0, 0)


@dataclass(slots=True)
class OpenSegment:
    """The segment that takes groups."""

    header: SegmentHeader
    path: Path
    handle: int
    size: int
    end: int
    """Durable bytes; the next group begins here. Moves only after a sync returned."""
    last_crc: int
    next_group_number: int
    zeroed: int = 0
    """Bytes up to which the file holds no holes: zeros or groups."""

    @property
    def sealed(self) -> SegmentEnd:
        return SegmentEnd(self.header.segment_number, self.end, self.last_crc)


@dataclass(slots=True)
class Tail:
    """Where writing goes on; recovery finds it."""

    predecessor: SegmentEnd = NO_PREDECESSOR
    """The last segment that holds groups, if it was not stopped cleanly."""
    open: OpenSegment | None = None
    """The last segment, if it was."""
    next_number: int = 0
    """Greater than any segment number in use."""
    used_slots: list[int] = field(default_factory=list)
    free_slots: list[int] = field(default_factory=list)
    """Files that hold no segment and may become one."""


class WrittenGroup(NamedTuple):
    """A durable group and its place."""

    position: JournalPosition
    path: Path
    segment: SegmentHeader
    offset: int
    """Bytes."""
    size: int
    """Bytes, padding included."""


class Room(NamedTuple):
    """How much the writer could still take."""

    open_bytes: int
    """In the open segment."""
    further_segments: int
    """That quota and device are known to allow."""
    segment_bytes: int
    """Bytes of groups that one segment holds."""


class SegmentWriter:
    """Owns the files of the journal that are written to."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        *,
        directory_id: bytes,
        boot_id: bytes,
        segment_bytes: int,
        segments_max: int,
        align: int,
        tail: Tail,
        monotonic_ns: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        zero_step_bytes: int = ZERO_STEP_BYTES,
        zero_ahead_bytes: int = ZERO_AHEAD_BYTES,
    ) -> None:
        """`align` is for new segments. `random_bytes` must be unpredictable: the salt is what payloads can't guess."""
        assert segment_bytes % align == 0
        assert zero_step_bytes % align == 0
        self._disk = disk
        self._directory = directory
        self._directory_id = directory_id
        self._boot_id = boot_id
        self._segment_bytes = segment_bytes
        self._segments_max = segments_max
        self._align = align
        self._monotonic_ns = monotonic_ns
        self._random_bytes = random_bytes
        self._zero_step_bytes = zero_step_bytes
        self._zero_ahead_bytes = zero_ahead_bytes
        self._open = tail.open
        self._predecessor = tail.open.sealed if tail.open else tail.predecessor
        self._next_number = tail.next_number
        self._used_slots = set(tail.used_slots)
        self._free_slots = list(tail.free_slots)
        self._ready: tuple[Path, int] | None = None
        """A file that is durably there and becomes the next segment: path and handle."""
        self._no_space = False
        self._failed_at_ns: int | None = None
        self.failed = False
        """No way back: see G3."""
        self.failures = 0
        """Errors that the device reported."""

    @property
    def align(self) -> int:
        """Bytes of a unit of the segment that takes the next group."""
        return self._open.header.align if self._open else self._align

    @property
    def room(self) -> Room:
        """What can still be written, as far as is known without trying."""
        open_bytes = self._open.size - self._open.end if self._open else 0
        if self._open and self._open.next_group_number >= GROUPS_PER_SEGMENT_MAX:
            open_bytes = 0
        unmade = 0 if self._no_space else self._segments_max - len(self._used_slots) - (self._ready is not None)
        further = max(unmade, 0) + (self._ready is not None)
        return Room(open_bytes, further, self._segment_bytes - self._align)

    def write(self, group: EncodedGroup) -> WrittenGroup:
        """Write a group and return when it is durable.

        Raises: LogFull when there is no room for another segment: nothing happened; LogFailed when the device failed
        once too often.
        """
        while not self.failed:
            try:
                segment = self._segment_for(group.stored_bytes)
                return self._append(segment, group)
            except OSError as error:
                self._seal_after(error)
        raise LogFailed(
            "the device under the log failed twice",
            hint="look at the kernel's messages (dmesg); the gateway reads on, and refuses what is published",
        )

    def prepare(self) -> bool:
        """Do one step of the work that commits would otherwise wait for. Returns whether there is more to do.

        The open segment is zeroed a little ahead of its groups: into holes, a commit costs two flushes of the device
        and more than twice the bytes. The next file is made when the open one is half full.
        """
        if self.failed:
            return False
        try:
            if self._zero_step():
                return True
            if (
                self._ready is None
                and (self._open is None or self._open.end * 2 >= self._open.size)
                and self._may_create
            ):
                self._ready = self._create()
        except OSError as error:
            self._seal_after(error)
        except LogFull:
            pass
        return False

    def retry_room(self) -> bool:
        """Try to make the next file after the device was full. Returns whether there is one now."""
        self._no_space = False
        if self._ready is None and not self.failed and self._may_create:
            try:
                self._ready = self._create()
            except OSError as error:
                self._seal_after(error)
            except LogFull:
                pass
        return self._ready is not None

    def close(self) -> None:
        """Let go of the files."""
        handles = [self._open.handle] if self._open else []
        if self._ready:
            handles.append(self._ready[1])
        self._open = self._ready = None
        for handle in handles:
            self._close(handle)

    @property
    def _may_create(self) -> bool:
        return len(self._used_slots) < self._segments_max

    def _segment_for(self, stored_bytes: int) -> OpenSegment:
        segment = self._open
        if segment is not None:
            fits = segment.end + aligned(stored_bytes, segment.header.align) <= segment.size
            if fits and segment.next_group_number < GROUPS_PER_SEGMENT_MAX:
                return segment
        assert aligned(stored_bytes, self._align) <= self._segment_bytes - self._align, "no segment can hold this group"
        ready = self._ready or self._create()
        self._ready = None
        self._used_slots.add(_slot(ready[0]))
        if segment is not None:
            self._predecessor = segment.sealed
            self._open = None
            self._close(segment.handle)
        self._open = self._start_segment(*ready)
        return self._open

    def _append(self, segment: OpenSegment, group: EncodedGroup) -> WrittenGroup:
        data, crc = group.placed(
            salt=segment.header.salt,
            group_number=segment.next_group_number,
            previous_crc=segment.last_crc,
            align=segment.header.align,
        )
        offset = segment.end
        self._write(segment.handle, data, offset)
        self._disk.sync_data(segment.handle)
        position = JournalPosition(segment.header.segment_number, segment.next_group_number)
        segment.end += len(data)
        segment.zeroed = max(segment.zeroed, segment.end)
        segment.last_crc = crc
        segment.next_group_number += 1
        return WrittenGroup(position, segment.path, segment.header, offset, len(data))

    def _create(self) -> tuple[Path, int]:
        """Make a file that may become a segment: durable in length and name. Raises: OSError, LogFull."""
        if not self._may_create:
            raise LogFull("the quota of the log is used up", hint="raise gateway.disk_quota")
        slot = self._free_slots.pop() if self._free_slots else self._unused_slot()
        path = self._directory / slot_name(slot)
        handle = self._disk.open(path, create=True)
        try:
            self._disk.allocate(handle, self._segment_bytes)
            self._clear_past(handle)
            self._disk.sync(handle)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            self._close(handle)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._used_slots.add(slot)
                raise
            self._no_space = True
            self._give_back(path)
            raise LogFull("the device has no room for another segment", hint="free some space") from error
        self._no_space = False
        return path, handle

    def _clear_past(self, handle: int) -> None:
        """Zero where a file that was a segment once may hold its first groups. Raises: OSError.

        Durable before the new header is written, which may tear: a file with groups and no header counts as damaged.
        For the same reason the old header's page isn't touched yet, and is synced first, because a killed process may
        have left it in the page cache only.
        """
        header = read_segment_header(self._disk, handle)
        if header is not None:
            self._disk.sync(handle)
            size = min(ALIGN_MAX, self._segment_bytes - header.align)
            self._write(handle, bytes(size), header.align)

    def _start_segment(self, path: Path, handle: int) -> OpenSegment:
        """Write and sync the header that makes a file the open segment. Raises: OSError."""
        header = SegmentHeader(
            self._align,
            self._next_number,
            self._directory_id,
            self._random_bytes(SALT_SIZE),
            self._boot_id,
            *self._predecessor,
        )
        # Counted even if this fails: the header may reach the medium in spite of an error, and a number stands for one
        # salt only.
        self._next_number += 1
        packed, crc = encode_segment_header(header)
        try:
            self._write(handle, packed, 0)
            self._disk.sync_data(handle)
        except OSError:
            self._close(handle)
            raise
        return OpenSegment(
            header._replace(crc=crc), path, handle, self._segment_bytes, self._align, crc, 0, self._align
        )

    def _zero_step(self) -> bool:
        """Zero a stretch of the open segment. Returns whether there was anything to do. Raises: OSError."""
        segment = self._open
        if segment is None or segment.zeroed >= min(segment.size, segment.end + self._zero_ahead_bytes):
            return False
        size = min(self._zero_step_bytes, segment.size - segment.zeroed)
        self._write(segment.handle, bytes(size), segment.zeroed)
        self._disk.sync_data(segment.handle)
        # Zeros are in the page cache in folios as large as they were written. A group that is written over them would
        # make the kernel count, and on some file systems write, such a folio for every 4 KiB.
        self._disk.forget(segment.handle, segment.zeroed, size)
        segment.zeroed += size
        return True

    def _write(self, handle: int, data: bytes, offset: int) -> None:
        taken = self._disk.write(handle, data, offset)
        if taken != len(data):
            raise OSError(errno.EIO, f"the device took {taken} of {len(data)} bytes")

    def _seal_after(self, error: OSError) -> None:
        """Give up the open segment, at its last durable offset."""
        now_ns = self._monotonic_ns()
        self.failures += 1
        logger.error("the device under the log reported an error: %s", error)
        if self._failed_at_ns is not None and now_ns - self._failed_at_ns < FAILURE_WINDOW_NS:
            self.failed = True
        self._failed_at_ns = now_ns
        segment, self._open = self._open, None
        if segment is not None:
            self._predecessor = segment.sealed
            self._close(segment.handle)

    def _close(self, handle: int) -> None:
        try:
            self._disk.close(handle)
        except OSError as error:
            # All that was acknowledged is synced, so nothing is lost; but the next error counts as the second.
            logger.error("closing a segment failed: %s", error)
            self.failures += 1
            self._failed_at_ns = self._monotonic_ns()

    def _give_back(self, path: Path) -> None:
        try:
            self._disk.remove(path)
        except OSError as error:
            logger.warning("%s can't be removed: %s", path, error)

    def _unused_slot(self) -> int:
        slot = 0
        while slot in self._used_slots:
            slot += 1
        return slot


def _slot(path: Path) -> int:
    slot = slot_of(path.name)
    assert slot is not None
    return slot
