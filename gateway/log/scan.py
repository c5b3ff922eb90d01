"""Reads one segment file group by group, and tells whole groups from damaged ones. What that means others decide.

A group header is believed when its magic, length, salt and CRC are right, and when number and predecessor's CRC fit
where the scan stands. After a header that can't be believed the scan goes on at the next unit that holds one; payloads
can't hold one, because they can't know the salt.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from gateway.errors import LogDamaged
from gateway.limits import ALIGN_MAX, ALIGN_MIN
from gateway.log import format as layout
from gateway.log.disk import Disk
from gateway.log.format import Content, DirectoryItem, FrameItem, GroupHeader, SegmentHeader, aligned
from gateway.log.frames import inflate

WINDOW_BYTES = 64 * 1024
"""Read ahead while groups are small; about what a card delivers in a millisecond."""


class GroupTables(NamedTuple):
    """A group whose header, directory and frame table are right."""

    header: GroupHeader
    offset: int
    """Bytes into the segment."""
    directory: list[DirectoryItem]
    frames: list[FrameItem]

    def frame_offset(self, index: int) -> int:
        """Offset of a frame's stored bytes in the segment."""
        start = self.offset + layout.GROUP_HEADER_SIZE + self.header.tables_bytes
        return start + sum(frame.stored_length for frame in self.frames[:index])


class SegmentFile:
    """A segment that is read: the handle, a window of its bytes, its header."""

    def __init__(
        self, disk: Disk, path: Path, handle: int, header: SegmentHeader, *, window_bytes: int = WINDOW_BYTES
    ) -> None:
        """`window_bytes` 0: read exactly what is asked for, every time; needed while the file is written to."""
        self.path = path
        self.handle = handle
        self.header = header
        self.size = disk.size(handle)
        self._disk = disk
        self._window_bytes = window_bytes
        self._window = b""
        self._window_offset = 0
        self._decompressor = zstandard.ZstdDecompressor()

    def read(self, size: int, offset: int) -> bytes:
        """Bytes of the file, through the window."""
        start = offset - self._window_offset
        if start < 0 or start + size > len(self._window):
            if size >= self._window_bytes:
                return read_what_can_be_read(self._disk, self.handle, size, offset, self.header.align)
            self._window = read_what_can_be_read(self._disk, self.handle, self._window_bytes, offset, self.header.align)
            self._window_offset = offset
            start = 0
        return self._window[start : start + size]

    def written_end(self, offset: int, end: int) -> int:
        """The end of the last unit in offset..end that holds anything but zeros; `offset` if there is none."""
        written = offset
        while offset < end:
            chunk = self.read(min(WINDOW_BYTES, end - offset), offset)
            if not chunk:
                break
            kept = chunk.rstrip(b"\0")
            if kept:
                written = offset + aligned(len(kept), self.header.align)
            offset += len(chunk)
        return written

    def header_at(self, offset: int, end: int) -> GroupHeader | None:
        """The group header at `offset`, if there is one of a group that ends by `end`."""
        header = layout.decode_group_header(self.read(layout.GROUP_HEADER_SIZE, offset), self.header.salt)
        if header is None or offset + aligned(header.stored_bytes, self.header.align) > end:
            return None
        return header

    def next_header(self, offset: int, end: int, number_min: int) -> tuple[int, GroupHeader] | None:
        """The first group header at or after `offset` with at least that group number, and its offset."""
        align = self.header.align
        while offset < end:
            header = self.header_at(offset, end)
            if header is not None and header.group_number >= number_min:
                return offset, header
            offset += align
        return None

    def tables(self, offset: int, header: GroupHeader) -> GroupTables | None:
        """Directory and frame table of the group at `offset`. None: they are damaged."""
        packed = self.read(header.tables_bytes, offset + layout.GROUP_HEADER_SIZE)
        if layout.crc32c(packed) != header.tables_crc:
            return None
        split = header.directory_bytes
        frames = layout.decode_frame_table(packed[split:])
        return GroupTables(header, offset, layout.decode_directory(packed[:split]), frames)

    def frame(self, tables: GroupTables, index: int) -> bytes:
        """A frame's raw bytes. Raises: LogDamaged."""
        item = tables.frames[index]
        stored = self.read(item.stored_length, tables.frame_offset(index))
        return inflate(item, stored, self._decompressor)

    def damaged_frames(self, tables: GroupTables) -> list[int]:
        """Indexes of the frames whose stored bytes are wrong."""
        damaged = []
        offset = tables.frame_offset(0)
        for index, item in enumerate(tables.frames):
            stored = self.read(item.stored_length, offset)
            if len(stored) != item.stored_length or layout.crc32c(stored) != item.crc:
                damaged.append(index)
            offset += item.stored_length
        return damaged

    def record_frames(self, tables: GroupTables) -> Iterator[bytes]:
        """The raw frames that hold state records. Raises: LogDamaged."""
        for index, item in enumerate(tables.frames):
            if item.content == Content.records:
                yield self.frame(tables, index)


def read_segment_header(disk: Disk, handle: int) -> SegmentHeader | None:
    """The header of the file behind `handle`; None if it was never opened as a segment. Raises: LogDamaged."""
    start = read_what_can_be_read(disk, handle, ALIGN_MAX + layout.GROUP_HEADER_SIZE, 0, ALIGN_MIN)
    header = layout.decode_segment_header(start)
    if header is None:
        align = ALIGN_MIN
        while align <= ALIGN_MAX:
            packed = start[align : align + layout.GROUP_HEADER_SIZE]
            if layout.decode_group_header(packed, packed[8:24]) is not None:
                # Groups follow a header only after it was synced, so this one was whole once.
                raise LogDamaged("both copies of a segment's header are damaged, and groups follow")
            align *= 2
    return header


def read_what_can_be_read(disk: Disk, handle: int, size: int, offset: int, unit: int) -> bytes:
    """Read bytes;

    units that the device can't read become zeros, whose checksum is wrong. Raises: OSError other than EIO.
    """
    try:
        return disk.read(handle, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    units = []
    for unit_offset in range(offset, offset + size, unit):
        unit_size = min(unit, offset + size - unit_offset)
        try:
            units.append(disk.read(handle, unit_size, unit_offset))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            units.append(bytes(unit_size))
    return b"".join(units)
