"""What lies in the frames of a commit group: runs of entries in columns, and state records. Pure.

A frame holds at most FRAME_RAW_SIZE_MAX raw bytes; a larger entry or record is a frame of its own. State records come
first, in append order, in frames of their own (content `records`); then entries, by ledger id, in append order within a
ledger.

Frame of records, for each:

    kind u8 (bit 7: a reader that does not know the kind may skip it) | length varint | body

Frame of entries, for each run (count n; the directory says where it begins):

    n u32 | lengths u32[n] | messages u32[n] | ages u32[n] | the entries' bytes, one after the other

*Age* is how many milliseconds before the group's BOOTTIME the entry arrived. Columns rather than a head per entry: one
call of C code packs or unpacks each, and equal neighbours compress to nothing.

A frame is stored as zstd level 1 where that makes it more than 10 % smaller, and a whole group is left as it is when it
fits into one unit anyway: compression would cost time and save nothing on the device.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import zstandard

from gateway.clock import ClockQuality
from gateway.errors import LogDamaged
from gateway.limits import FRAME_RAW_SIZE_MAX, MS
from gateway.log import format as layout
from gateway.log.format import Codec, Content, DirectoryItem, FrameItem, GroupHeader

assert sys.byteorder == "little", "columns are written as they lie in memory"
assert array("I").itemsize == 4

SHRINK_NUMERATOR, SHRINK_DENOMINATOR = 9, 10
"""A frame is stored compressed if that takes less than 9/10 of its raw bytes."""
ENTRY_OVERHEAD = 12
"""Bytes of the columns for one entry."""
RUN_OVERHEAD = 4
RUN_FIELDS = 3
"""Values per entry in an OpenRun's flat list."""
AGE_MS_MAX = 2**32 - 1

FlatEntries = list[Any]
"""data, messages, arrival ns of the first entry, then of the second, and so on: one list operation per entry."""


class ClockFacts(NamedTuple):
    """What the clocks showed when a group was sealed."""

    boot_id: bytes
    boottime_ns: int
    wall_ns: int
    quality: ClockQuality


class EncodedGroup(NamedTuple):
    """A group that is complete but for its place: salt, number and predecessor are given when it is written.

    So the same bytes can go to another segment after a storage error.
    """

    body: list[bytes]
    """Directory, frame table, frames."""
    body_bytes: int
    directory: list[DirectoryItem]
    directory_bytes: int
    frames: int
    records: int
    tables_crc: int
    clock: ClockFacts

    @property
    def stored_bytes(self) -> int:
        """Of the whole group without padding."""
        return layout.GROUP_HEADER_SIZE + self.body_bytes

    def placed(self, *, salt: bytes, group_number: int, previous_crc: int, align: int) -> tuple[bytes, int]:
        """The group's final bytes, padded to whole units, and the CRC that its successor names."""
        clock = self.clock
        header, crc = layout.encode_group_header(
            GroupHeader(
                salt,
                group_number,
                previous_crc,
                self.stored_bytes,
                self.records,
                self.frames,
                clock.boot_id,
                clock.boottime_ns,
                clock.wall_ns,
                clock.quality,
                self.directory_bytes,
                self.tables_crc,
                0,
            )
        )
        padding = -self.stored_bytes % align
        return b"".join([header, *self.body, bytes(padding)]), crc


class RunColumns(NamedTuple):
    """A run of an inflated frame. Sliced, never copied, until an entry is taken."""

    ends: array[int]
    """Offset in the frame behind each entry."""
    start: int
    """Offset in the frame of the first entry."""
    messages: array[int]
    ages: array[int]
    """Milliseconds before the group's BOOTTIME."""


def encode_group(
    runs: Iterable[tuple[int, int, FlatEntries]],
    records: Sequence[tuple[int, bytes]],
    clock: ClockFacts,
    *,
    compressor: zstandard.ZstdCompressor | None,
    align: int,
) -> EncodedGroup:
    """Assemble a group.

    runs: ledger id, first entry id, entries; any order, one per ledger. records: kind byte, body. `compressor` None:
    never compress.
    """
    raw_frames: list[tuple[Content, bytes]] = [(Content.records, raw) for raw in _record_frames(records)]
    entry_frames, directory, entries = _entry_frames(runs, clock.boottime_ns, len(raw_frames))
    raw_frames += [(Content.entries, raw) for raw in entry_frames]
    assert len(raw_frames) <= layout.GROUP_FRAMES_MAX
    packed_directory = layout.encode_directory(directory)
    tables = layout.GROUP_HEADER_SIZE + len(packed_directory) + len(raw_frames) * layout.FRAME_ITEM.size
    if tables + sum(len(raw) for _, raw in raw_frames) <= align:
        compressor = None
    frames: list[FrameItem] = []
    body: list[bytes] = [packed_directory, b""]
    for content, raw in raw_frames:
        stored, codec = raw, Codec.none
        if compressor is not None:
            squeezed = compressor.compress(raw)
            if len(squeezed) * SHRINK_DENOMINATOR < len(raw) * SHRINK_NUMERATOR:
                stored, codec = squeezed, Codec.zstd
        frames.append(FrameItem(len(stored), len(raw), layout.crc32c(stored), codec, content))
        body.append(stored)
    body[1] = layout.encode_frame_table(frames)
    return EncodedGroup(
        body=body,
        body_bytes=sum(map(len, body)),
        directory=directory,
        directory_bytes=len(packed_directory),
        frames=len(frames),
        records=entries + len(records),
        tables_crc=layout.crc32c(packed_directory + body[1]),
        clock=clock,
    )


def make_compressor() -> zstandard.ZstdCompressor:
    """A compressor to be kept and used by one thread at a time."""
    return zstandard.ZstdCompressor(level=1, write_content_size=False, write_checksum=False, write_dict_id=False)


def inflate(item: FrameItem, stored: bytes, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """Check a frame and return its raw bytes. Raises: LogDamaged."""
    if len(stored) != item.stored_length or layout.crc32c(stored) != item.crc:
        raise LogDamaged("a frame's checksum is wrong")
    if item.codec == Codec.none:
        raw = stored
    elif item.codec == Codec.zstd:
        try:
            raw = decompressor.decompress(stored, max_output_size=item.raw_length)
        except zstandard.ZstdError as error:
            raise LogDamaged("a frame can't be inflated") from error
    else:
        raise LogDamaged(f"a frame has the unknown codec {item.codec}", hint="was it written by a newer version?")
    if len(raw) != item.raw_length:
        raise LogDamaged("a frame has the wrong length")
    return raw


def unpack_run(frame: bytes, offset: int) -> RunColumns:
    """Read the columns of the run that begins at `offset` of a raw frame."""
    count = int.from_bytes(frame[offset : offset + RUN_OVERHEAD], "little")
    offset += RUN_OVERHEAD
    width = 4 * count
    columns = []
    for _ in range(3):
        column = array("I")
        column.frombytes(frame[offset : offset + width])
        columns.append(column)
        offset += width
    lengths, messages, ages = columns
    ends = array("I", accumulate(lengths, initial=offset))
    del ends[0]
    return RunColumns(ends, offset, messages, ages)


def unpack_records(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Read kind byte and body of each state record of a raw frame."""
    offset = 0
    while offset < len(frame):
        kind = frame[offset]
        length, offset = layout.decode_varint(frame, offset + 1)
        yield kind, frame[offset : offset + length]
        offset += length


def _record_frames(records: Sequence[tuple[int, bytes]]) -> list[bytes]:
    frames: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for kind, body in records:
        head = bytes((kind,)) + layout.encode_varint(len(body))
        if size and size + len(head) + len(body) > FRAME_RAW_SIZE_MAX:
            frames.append(b"".join(parts))
            parts, size = [], 0
        parts += (head, body)
        size += len(head) + len(body)
    if parts:
        frames.append(b"".join(parts))
    return frames


def _entry_frames(
    runs: Iterable[tuple[int, int, FlatEntries]], boottime_ns: int, first_frame: int
) -> tuple[list[bytes], list[DirectoryItem], int]:
    """Cut runs into frames. Returns raw frames, directory and number of entries."""
    frames: list[bytes] = []
    directory: list[DirectoryItem] = []
    parts: list[bytes] = []
    size = total = 0
    for ledger_id, first_entry_id, flat in sorted(runs, key=_by_ledger):
        datas: list[bytes] = flat[0::RUN_FIELDS]
        messages = array("I", flat[1::RUN_FIELDS])
        lengths = array("I", map(len, datas))
        ages = _ages(boottime_ns, flat[2::RUN_FIELDS])
        count = len(datas)
        total += count
        start = 0
        if size + RUN_OVERHEAD + count * ENTRY_OVERHEAD + sum(lengths) <= FRAME_RAW_SIZE_MAX:
            ends = None
        else:
            ends = list(accumulate([length + ENTRY_OVERHEAD for length in lengths], initial=0))
        while start < count:
            stop = count
            if ends is not None:
                stop = bisect_right(ends, ends[start] + FRAME_RAW_SIZE_MAX - size - RUN_OVERHEAD) - 1
                if stop <= start:
                    if size:
                        frames.append(b"".join(parts))
                        parts, size = [], 0
                        continue
                    stop = start + 1
            piece = slice(start, stop)
            directory.append(
                DirectoryItem(
                    ledger_id,
                    first_entry_id + start,
                    stop - start,
                    sum(messages[piece]),
                    first_frame + len(frames),
                    size,
                )
            )
            parts += (
                (stop - start).to_bytes(RUN_OVERHEAD, "little"),
                lengths[piece].tobytes(),
                messages[piece].tobytes(),
                ages[piece].tobytes(),
            )
            parts += datas[piece]
            size += RUN_OVERHEAD + (stop - start) * ENTRY_OVERHEAD + sum(lengths[piece])
            start = stop
    if parts:
        frames.append(b"".join(parts))
    return frames, directory, total


def _ages(boottime_ns: int, arrivals_ns: list[int]) -> array[int]:
    ages = [(boottime_ns - arrival_ns) // MS for arrival_ns in arrivals_ns]
    if min(ages) < 0 or max(ages) > AGE_MS_MAX:
        # Arrival is read before the group is sealed, so it is never later; clamped, a caller's slip costs no more than
        # its own stamp.
        ages = [min(max(age, 0), AGE_MS_MAX) for age in ages]
    return array("I", ages)


def _by_ledger(run: tuple[int, int, FlatEntries]) -> int:
    return run[0]
