"""Puts messages together again that a producer cut into chunks because they were larger than an entry may be. Pure.

Bounded: the chunks of a few messages at a time and of so many bytes; what does not fit is dropped, oldest first, and
stays unacknowledged. Source: Pulsar's "Message chunking"; every chunk carries the uuid, its number and their count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.errors import ProtocolError
from gateway.limits import DECOMPRESSED_SIZE_MAX
from gateway.message import Message
from gateway.wire.batch import open_payload
from gateway.wire.entry import parse_metadata

if TYPE_CHECKING:
    from gateway.client.api import ReceivedEntry

MESSAGES_UNDER_WAY_MAX = 10


class ChunkAssembler:
    """The chunks seen so far of messages that are not complete."""

    def __init__(self) -> None:
        self._parts: dict[str, list[bytes]] = {}
        """Payloads in order, by the message's uuid; the first seen first."""
        self._held_bytes = 0

    def take(self, received: ReceivedEntry, messages: list[Message]) -> list[Message]:
        """Pass messages on; keep a chunk, and pass the whole message with its last one. Raises: ProtocolError."""
        if len(messages) != 1:
            return messages
        metadata = parse_metadata(received.entry.data)
        if not metadata.HasField("num_chunks_from_msg") or metadata.encryption_keys:
            return messages
        payload = self._add(metadata, messages[0].payload)
        if payload is None:
            return []
        return [replace(messages[0], payload=open_payload(metadata, payload))]

    def _add(self, metadata: Any, chunk: bytes) -> bytes | None:
        uuid, number, count = metadata.uuid, metadata.chunk_id, metadata.num_chunks_from_msg
        if not 0 <= number < count or metadata.total_chunk_msg_size > DECOMPRESSED_SIZE_MAX:
            raise ProtocolError(f"chunk {number} of {count} of a message of {metadata.total_chunk_msg_size} bytes")
        parts = self._parts.setdefault(uuid, [])
        if number == 0:
            # Sent again from the start: the producer's connection was lost in the middle.
            self._held_bytes -= sum(map(len, parts))
            parts.clear()
        if number < len(parts):
            return None
        if number > len(parts):
            self._drop(uuid)
            return None
        parts.append(chunk)
        self._held_bytes += len(chunk)
        if len(parts) == count:
            return b"".join(self._drop(uuid))
        while len(self._parts) > MESSAGES_UNDER_WAY_MAX or self._held_bytes > DECOMPRESSED_SIZE_MAX:
            self._drop(next(iter(self._parts)))
        return None

    def _drop(self, uuid: str) -> list[bytes]:
        parts = self._parts.pop(uuid, [])
        self._held_bytes -= sum(map(len, parts))
        return parts
