"""The journal's bytes: segment headers, group headers, directories and frame tables. Pure.

Files are read and written elsewhere; what lies inside the frames is `frames.py`'s.

A segment is a file of fixed size. All integers are little-endian, all reserved bytes zero.

    ┌────────────────┬────────────────┬────────────────┬────────────────┬──────────┬──
    │ segment header │ group 0        │ group 1        │ group 2        │ group 3  │  zeros, or bytes under an old salt
    └────────────────┴────────────────┴────────────────┴────────────────┴──────────┴──
    ^ one align unit ^ each group begins at an align unit and is padded with zeros to the next

Segment header, 134 bytes at offset 0 and once more in the middle of the unit, so that a flipped bit can't take the
segment:

    0    magic "HWSEGMT\\0"       8
    8    version                 u16
    10   align                   u32   bytes of a unit; readers take it from here, never from the configuration
    14   flags                   u16   0
    16   segment number          u64
    24   data directory id       16
    40   salt                    16    random; groups of this segment repeat it
    56   boot id                 16
    72   previous segment        u64   its number; NO_SEGMENT: this is the first one
    80   previous sealed end     u64   bytes beyond that offset of the previous segment do not exist
    88   previous last CRC       u32   of its last group (or of its header, if it has none)
    92   reserved                38
    130  CRC32C of bytes 0..129  u32

Group: header, directory, frame table, frames, zeros.

    0    magic "HWGP"            4
    4    header length           u16   128
    6    flags                   u16   0
    8    salt                    16    the segment's; compared whole, so no payload can pass for a group
    24   group number            u64   from 0 in each segment
    32   CRC of the previous     u32   the header CRC of the group before; of the segment header for group 0
    36   stored bytes            u32   of the whole group, header included, padding excluded
    40   records                 u32   entries and state records
    44   frames                  u16
    46   reserved                u16
    48   boot id                 16
    64   BOOTTIME                u64   nanoseconds, when the group was sealed for writing
    72   wall clock              i64   nanoseconds since 1970, at the same instant
    80   clock quality           u8    clock.ClockQuality
    81   reserved                3
    84   directory bytes         u32
    88   reserved                32
    120  CRC32C                  u32   of directory and frame table
    124  CRC32C of bytes 0..123  u32   stands for the whole group: it covers the CRC that covers the CRCs of the frames

Directory: one item per run, a run being the consecutive entries of one ledger that lie in one frame. A ledger whose
entries fill several frames has an item for each, so that a reader finds an entry without inflating the frames before
it, and a damaged frame says by itself which entries it took along. Six varints an item, by ledger id, then entry id:

    ledger id | first entry id | entries | messages | frame | offset in the raw frame

Frame table: 16 bytes a frame, in the order in which the frames follow.

    stored length u32 | raw length u32 | CRC32C of the stored bytes u32 | codec u8 | content u8 | reserved u16
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import google_crc32c

from gateway.limits import ALIGN_MAX, ALIGN_MIN

assert google_crc32c.implementation == "c", "google-crc32c was built without its C library: a hundred times too slow"

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"HWSEGMT\0"
GROUP_MAGIC = b"HWGP"
SALT_SIZE = 16
ID_SIZE = 16
NO_SEGMENT = 2**64 - 1
SEGMENT_HEADER = struct.Struct("<8sHIHQ16s16s16sQQI38sI")
GROUP_HEADER = struct.Struct("<4sHH16sQIIIHH16sQqB3sI32sII")
FRAME_ITEM = struct.Struct("<IIIBBH")
GROUP_HEADER_SIZE = GROUP_HEADER.size
GROUP_FRAMES_MAX = 65_535

assert SEGMENT_HEADER.size == 134
assert SEGMENT_HEADER.size * 2 <= ALIGN_MIN
assert GROUP_HEADER_SIZE == 128
assert FRAME_ITEM.size == 16

_CRC = struct.Struct("<I")

crc32c = google_crc32c.value
"""CRC32C (Castagnoli) of bytes. Source: RFC 3720, appendix B.4."""


class Codec(IntEnum):
    """How a frame is stored."""

    none = 0
    zstd = 1


class Content(IntEnum):
    """What a frame holds."""

    entries = 0
    records = 1


class SegmentHeader(NamedTuple):
    """The first unit of a segment file."""

    align: int
    segment_number: int
    directory_id: bytes
    salt: bytes
    boot_id: bytes
    previous_number: int
    """NO_SEGMENT in the first segment."""
    previous_end: int
    """The previous segment's bytes end here, whatever lies beyond."""
    previous_crc: int
    crc: int = 0
    """Of the header itself; the first group names it as its predecessor's. Filled in by `encode` and `decode`."""


class GroupHeader(NamedTuple):
    """The first 128 bytes of a commit group."""

    salt: bytes
    group_number: int
    previous_crc: int
    stored_bytes: int
    records: int
    frames: int
    boot_id: bytes
    boottime_ns: int
    wall_ns: int
    clock_quality: int
    directory_bytes: int
    tables_crc: int
    """Of directory and frame table."""
    crc: int
    """Of the header."""

    @property
    def tables_bytes(self) -> int:
        """Bytes of directory and frame table together."""
        return self.directory_bytes + self.frames * FRAME_ITEM.size


class DirectoryItem(NamedTuple):
    """A run: where consecutive entries of one ledger begin."""

    ledger_id: int
    first_entry_id: int
    entries: int
    messages: int
    frame: int
    """Index into the frame table."""
    offset: int
    """Bytes into the raw frame."""


class FrameItem(NamedTuple):
    """A frame as the frame table describes it."""

    stored_length: int
    raw_length: int
    crc: int
    """CRC32C of the stored bytes."""
    codec: int
    content: int


def aligned(size: int, align: int) -> int:
    """Round `size` up to whole units."""
    return (size + align - 1) // align * align


def encode_segment_header(header: SegmentHeader) -> tuple[bytes, int]:
    """Pack the first unit of a segment:

    the header twice, in `header.align` bytes. Returns them and the header's CRC.
    """
    packed = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        header.align,
        0,
        header.segment_number,
        header.directory_id,
        header.salt,
        header.boot_id,
        header.previous_number,
        header.previous_end,
        header.previous_crc,
        b"",
        0,
    )[:-4]
    crc = crc32c(packed)
    copy = (packed + _CRC.pack(crc)).ljust(header.align // 2, b"\0")
    return copy + copy, crc


def decode_segment_header(start: bytes) -> SegmentHeader | None:
    """Read the header of a segment from the first bytes of its file (ALIGN_MAX of them, or all there are).

    None: neither copy is whole, so the file was never opened as a segment, or is damaged.
    """
    header = _decode_segment_header_at(start, 0)
    align = ALIGN_MIN
    while header is None and align <= ALIGN_MAX:
        # Without the first copy the unit's size isn't known; the second one stands in the middle of any of them.
        header = _decode_segment_header_at(start, align // 2)
        if header is not None and header.align != align:
            header = None
        align *= 2
    return header


def _decode_segment_header_at(start: bytes, offset: int) -> SegmentHeader | None:
    packed = start[offset : offset + SEGMENT_HEADER.size]
    if len(packed) < SEGMENT_HEADER.size or not packed.startswith(SEGMENT_MAGIC):
        return None
    (_, version, align, _, number, directory_id, salt, boot_id, previous, end, previous_crc, _, crc) = (
        SEGMENT_HEADER.unpack(packed)
    )
    if crc32c(packed[:-4]) != crc or version != FORMAT_VERSION or not ALIGN_MIN <= align <= ALIGN_MAX:
        return None
    return SegmentHeader(align, number, directory_id, salt, boot_id, previous, end, previous_crc, crc)


def encode_group_header(header: GroupHeader) -> tuple[bytes, int]:
    """Pack a group header; `header.crc` is ignored. Returns the bytes and their CRC."""
    packed = GROUP_HEADER.pack(
        GROUP_MAGIC,
        GROUP_HEADER_SIZE,
        0,
        header.salt,
        header.group_number,
        header.previous_crc,
        header.stored_bytes,
        header.records,
        header.frames,
        0,
        header.boot_id,
        header.boottime_ns,
        header.wall_ns,
        header.clock_quality,
        b"",
        header.directory_bytes,
        b"",
        header.tables_crc,
        0,
    )[:-4]
    crc = crc32c(packed)
    return packed + _CRC.pack(crc), crc


def decode_group_header(packed: bytes, salt: bytes) -> GroupHeader | None:
    """Read a group header from exactly 128 bytes. None: these bytes are no header of a group under this salt."""
    if not packed.startswith(GROUP_MAGIC) or len(packed) != GROUP_HEADER_SIZE:
        return None
    (_, length, _, its_salt, number, previous_crc, stored, records, frames, _, boot_id, boottime, wall, quality, _,
     directory_bytes, _, tables_crc, crc) = GROUP_HEADER.unpack(packed)  # fmt: skip
    if its_salt != salt or length != GROUP_HEADER_SIZE or crc32c(packed[:-4]) != crc:
        return None
    if GROUP_HEADER_SIZE + directory_bytes + frames * FRAME_ITEM.size > stored:
        return None
    return GroupHeader(
        its_salt, number, previous_crc, stored, records, frames, boot_id, boottime, wall, quality, directory_bytes,
        tables_crc, crc,
    )  # fmt: skip


def encode_directory(items: Iterable[DirectoryItem]) -> bytes:
    """Pack the directory."""
    packed = bytearray()
    append = packed.append
    for item in items:
        for value in item:
            while value > 127:
                append(value & 127 | 128)
                value >>= 7
            append(value)
    return bytes(packed)


def decode_directory(packed: bytes) -> list[DirectoryItem]:
    """Unpack a directory whose CRC was right."""
    values: list[int] = []
    value = shift = 0
    for byte in packed:
        if byte < 128:
            values.append(value | byte << shift)
            value = shift = 0
        else:
            value |= (byte & 127) << shift
            shift += 7
    columns = [iter(values)] * 6
    return [DirectoryItem(*item) for item in zip(*columns, strict=True)]


def encode_frame_table(items: Iterable[FrameItem]) -> bytes:
    """Pack the frame table."""
    pack = FRAME_ITEM.pack
    return b"".join([pack(*item, 0) for item in items])


def decode_frame_table(packed: bytes) -> list[FrameItem]:
    """Unpack a frame table whose CRC was right."""
    return [FrameItem(*item[:5]) for item in FRAME_ITEM.iter_unpack(packed)]


def encode_varint(value: int) -> bytes:
    """Pack an unsigned integer, seven bits a byte, the lowest first."""
    packed = bytearray()
    while value > 127:
        packed.append(value & 127 | 128)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def decode_varint(packed: bytes, offset: int) -> tuple[int, int]:
    """Unpack an unsigned integer. Returns it and the offset behind it. Raises: IndexError at the end of the bytes."""
    value = shift = 0
    while True:
        byte = packed[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
        shift += 7
