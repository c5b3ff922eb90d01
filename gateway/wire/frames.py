"""Frames: where one command ends and the next begins. Pure.

    simple command    u32 total size | u32 command size | command (BaseCommand)
    payload command   u32 total size | u32 command size | command | [u16 0x0e02, u32 size, broker metadata] | entry

All integers big-endian; the total size does not count itself. Only SEND and MESSAGE carry an entry. What stands
behind the command is made an entry here: broker metadata is cut off, a missing checksum (clients below protocol
version 6) is added. Source: Pulsar's "Binary protocol" page, framing.
"""

from __future__ import annotations

import struct

from gateway.errors import ProtocolError
from gateway.limits import FRAME_SIZE_MAX
from gateway.wire.entry import CHECKED_OFFSET, crc32c

SIZES = struct.Struct(">II")
_SIZE = struct.Struct(">I")
_BROKER_METADATA = b"\x0e\x02"
_CHECKSUM = b"\x0e\x01"
_BROKER_METADATA_HEAD = 6
_CHUNKS_MAX = 1_024
"""Pieces of an incomplete frame that are kept as they came."""


class FrameSplitter:
    """Cuts a byte stream into frames. Holds at most one frame's bytes."""

    def __init__(self, size_max: int = FRAME_SIZE_MAX) -> None:
        self._size_max = size_max
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 0
        """Bytes without which the first frame can't be complete."""

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._held if self._chunks else 0

    def feed(self, data: bytes) -> tuple[bytes, list[tuple[int, int, int]]]:
        """Take bytes; return a buffer and the complete frames in it as (command start, command end, frame end).

        Raises: ProtocolError for a size that no frame has.
        """
        frames: list[tuple[int, int, int]] = []
        if self._chunks:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                # Joining now would copy a large frame once for each of its pieces, and never joining would let a peer
                # that sends byte by byte fill the memory with what Python adds to each.
                if len(self._chunks) > _CHUNKS_MAX:
                    self._chunks = [b"".join(self._chunks)]
                return b"", frames
            data = b"".join(self._chunks)
            self._chunks = []
        start, end = 0, len(data)
        needed = 8
        unpack = SIZES.unpack_from
        size_max = self._size_max
        while end - start >= 8:
            total, command_size = unpack(data, start)
            if total > size_max or command_size > total - 4:
                raise ProtocolError(f"a frame of {total} bytes with a command of {command_size}")
            frame_end = start + 4 + total
            if frame_end > end:
                needed = total + 4
                break
            frames.append((start + 8, start + 8 + command_size, frame_end))
            start = frame_end
        if start < end:
            self._chunks = [data[start:]]
            self._held = end - start
            self._needed = needed
        return data, frames


def frame_command(command: bytes) -> bytes:
    """A simple command's frame."""
    return SIZES.pack(len(command) + 4, len(command)) + command


def frame_payload_command(command: bytes, entry: bytes) -> bytes:
    """What goes in front of `entry` in a payload command's frame."""
    return SIZES.pack(4 + len(command) + len(entry), len(command)) + command


def make_entry(block: bytes) -> bytes | None:
    """The entry in what follows a command; None if its checksum is wrong. Raises: ProtocolError."""
    if block[:2] == _BROKER_METADATA:
        if len(block) < _BROKER_METADATA_HEAD:
            raise ProtocolError("broker metadata without its size")
        block = block[_BROKER_METADATA_HEAD + _SIZE.unpack_from(block, 2)[0] :]
    if block[:2] == _CHECKSUM:
        if len(block) < CHECKED_OFFSET + 4:
            raise ProtocolError("a payload that ends within its checksum")
        return block if crc32c(block[CHECKED_OFFSET:]) == _SIZE.unpack_from(block, 2)[0] else None
    if len(block) < 4:
        raise ProtocolError("a payload without the size of its metadata")
    return b"".join((_CHECKSUM, _SIZE.pack(crc32c(block)), block))
