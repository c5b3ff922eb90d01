"""Client batches: many messages in the payload of one entry. Pure.

    (u32 size of the message's metadata | SingleMessageMetadata | payload), once for each message

Integers big-endian; the size of a payload stands in its metadata. The whole is what gets compressed.
Source: Pulsar's "Binary protocol" page, batch messages.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from gateway.errors import ProtocolError
from gateway.limits import BATCH_MESSAGES_MAX
from gateway.wire.commands import SingleMessageMetadata
from gateway.wire.compression import decompress

_SIZE = struct.Struct(">I")


def encode_batch(messages: Sequence[tuple[Any, bytes]]) -> bytes:
    """The payload that holds messages, given as (SingleMessageMetadata without its payload_size, payload)."""
    parts: list[bytes] = []
    for metadata, payload in messages:
        metadata.payload_size = len(payload)
        encoded = metadata.SerializeToString()
        parts += (_SIZE.pack(len(encoded)), encoded, payload)
    return b"".join(parts)


def open_batch(payload: bytes, messages: int) -> list[tuple[Any, bytes]]:
    """The messages in an uncompressed payload, as (SingleMessageMetadata, payload). Raises: ProtocolError."""
    if not 0 < messages <= BATCH_MESSAGES_MAX:
        raise ProtocolError(f"a batch of {messages} messages")
    opened = []
    start, end = 0, len(payload)
    try:
        for _ in range(messages):
            metadata_start = start + _SIZE.size
            payload_start = metadata_start + _SIZE.unpack_from(payload, start)[0]
            metadata = SingleMessageMetadata.FromString(payload[metadata_start:payload_start])
            start = payload_start + metadata.payload_size
            if metadata.payload_size < 0 or start > end:
                raise ProtocolError("a message of a batch ends behind the batch")
            opened.append((metadata, payload[payload_start:start]))
    except (struct.error, DecodeError) as error:
        raise ProtocolError("a batch is unreadable") from error
    if start != end:
        raise ProtocolError("a batch has more bytes than messages")
    return opened


def open_payload(metadata: Any, payload: bytes) -> bytes:
    """The payload of an entry, inflated. Raises: ProtocolError."""
    return decompress(metadata.compression, payload, metadata.uncompressed_size)
