"""Puts messages together again that a producer cut into chunks because they were larger than an entry may be. Pure.

Bounded: the chunks of a few messages at a time and of so many bytes; above it, the message is dropped that got none for
longest, and stays unacknowledged. Source: Pulsar's "Message chunking"; every chunk carries the uuid, its number and
their count.

A whole message goes by the place of its last chunk. Who acknowledges it is told the places of the others by
`take_places`: left alone, they would hold back the subscription for ever.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import ProtocolError
from gateway.limits import DECOMPRESSED_SIZE_MAX
from gateway.message import Position
from gateway.wire.metadata import text_of

MESSAGES_UNDER_WAY_MAX = 10
MESSAGES_DELIVERED_MAX = 10_000
"""Whole messages whose chunks' places are remembered until they are acknowledged; above it, the oldest go."""
_CHUNK_OVERHEAD = 128
"""Bytes that a chunk counts for beside its payload, so that empty ones are bounded too."""


class _Parts:
    """What is there of one message."""

    __slots__ = ("payloads", "places", "size")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        """From chunk 0 on, without a gap."""
        self.places: list[Position] = []
        """Of every entry that brought one, those that came twice included."""
        self.size = 0
        """What they count for."""


class ChunkAssembler:
    """The chunks seen so far of messages that are not complete, and where those stand that are."""

    def __init__(self) -> None:
        self._under_way: dict[str, _Parts] = {}
        """By the message's uuid; the one that got a chunk last is last."""
        self._size = 0
        """Sum of the parts' sizes; at most DECOMPRESSED_SIZE_MAX between calls."""
        self._delivered: dict[Position, list[Position]] = {}
        """Places of the other chunks, by the last one's; the first delivered first."""

    def add(self, metadata: Any, chunk: bytes, position: Position) -> bytes | None:
        """Keep a chunk; return the whole payload, still compressed, with the last. Raises: ProtocolError."""
        number, count = metadata.chunk_id, metadata.num_chunks_from_msg
        if not 0 <= number < count or not 0 <= metadata.total_chunk_msg_size <= DECOMPRESSED_SIZE_MAX:
            raise ProtocolError(f"chunk {number} of {count} of a message of {metadata.total_chunk_msg_size} bytes")
        uuid = text_of(metadata.uuid)
        parts = self._under_way.pop(uuid, None)
        if parts is None:
            if number:
                # Its beginning was dropped, or stands before the place where reading began.
                return None
            parts = _Parts()
        else:
            self._size -= parts.size
            if number > len(parts.payloads):
                # One in between is missing: what is there is of no use.
                return None
            if number == 0:
                # Sent again from the start: the producer's connection was lost in the middle.
                parts.payloads.clear()
                parts.size = _CHUNK_OVERHEAD * len(parts.places)
        if number == len(parts.payloads):
            parts.payloads.append(chunk)
            parts.size += len(chunk)
        parts.places.append(position)
        parts.size += _CHUNK_OVERHEAD
        if len(parts.payloads) == count:
            self._remember(position, parts.places[:-1])
            return b"".join(parts.payloads)
        self._under_way[uuid] = parts
        self._size += parts.size
        while len(self._under_way) > MESSAGES_UNDER_WAY_MAX or self._size > DECOMPRESSED_SIZE_MAX:
            self._size -= self._under_way.pop(next(iter(self._under_way))).size
        return None

    def take_places(self, position: Position) -> list[Position]:
        """Where the other chunks stand of the whole message whose last one stands there; forgotten with the call."""
        return self._delivered.pop(position, [])

    def _remember(self, position: Position, places: list[Position]) -> None:
        if places:
            self._delivered[position] = places
        if len(self._delivered) > MESSAGES_DELIVERED_MAX:
            del self._delivered[next(iter(self._delivered))]
