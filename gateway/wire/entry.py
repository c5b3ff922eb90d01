"""Entries as bytes: what a topic stores, what travels behind SEND and MESSAGE. Pure.

    u16 0x0e01 | u32 CRC32C of all that follows | u32 size of the metadata | metadata (MessageMetadata) | payload

All integers big-endian. The gateway hands an entry from producer to consumer without looking behind its metadata; the
replicator extends the metadata, and nobody ever encodes it anew, because fields that this version does not know must
survive. Source: PulsarApi.proto and Pulsar's "Binary protocol" page, payload commands.
"""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
from google.protobuf.message import DecodeError

from gateway.errors import ChecksumMismatch, ProtocolError
from gateway.wire.metadata import MessageMetadata

assert google_crc32c.implementation == "c", "google-crc32c was built without its C part: CRC32C would cost milliseconds"

crc32c = google_crc32c.value
MAGIC = 0x0E01
_HEAD = struct.Struct(">HII")
_SIZE = struct.Struct(">I")
METADATA_OFFSET = _HEAD.size
"""Bytes in front of the metadata."""
CHECKED_OFFSET = 6
"""Where the bytes begin that the checksum covers."""


def build_entry(metadata: bytes, payload: bytes) -> bytes:
    """An entry from encoded metadata and a payload as it goes on the wire (compressed, batched, encrypted)."""
    checked = b"".join((_SIZE.pack(len(metadata)), metadata, payload))
    return b"".join((b"\x0e\x01", _SIZE.pack(crc32c(checked)), checked))


def check_entry(entry: bytes) -> None:
    """Verify an entry's shape and checksum. Raises: ProtocolError, ChecksumMismatch."""
    if len(entry) < METADATA_OFFSET:
        raise ProtocolError(f"an entry of {len(entry)} bytes is no entry")
    magic, checksum, metadata_size = _HEAD.unpack_from(entry)
    if magic != MAGIC or metadata_size > len(entry) - METADATA_OFFSET:
        raise ProtocolError("an entry does not begin with its checksum and the size of its metadata")
    if crc32c(entry[CHECKED_OFFSET:]) != checksum:
        raise ChecksumMismatch("the checksum of an entry is wrong")


def split_entry(entry: bytes) -> tuple[bytes, bytes]:
    """Encoded metadata and payload of an entry whose checksum is known to be right. Raises: ProtocolError."""
    if len(entry) < METADATA_OFFSET:
        raise ProtocolError(f"an entry of {len(entry)} bytes is no entry")
    end = METADATA_OFFSET + int.from_bytes(entry[CHECKED_OFFSET:METADATA_OFFSET], "big")
    if end > len(entry):
        raise ProtocolError("the metadata of an entry is longer than the entry")
    return entry[METADATA_OFFSET:end], entry[end:]


def parse_metadata(entry: bytes) -> Any:
    """The MessageMetadata of an entry. Raises: ProtocolError where it is unreadable or lacks a required field."""
    end = METADATA_OFFSET + int.from_bytes(entry[CHECKED_OFFSET:METADATA_OFFSET], "big")
    if end > len(entry):
        raise ProtocolError("the metadata of an entry is longer than the entry")
    try:
        metadata = MessageMetadata.FromString(entry[METADATA_OFFSET:end])
    except DecodeError as error:
        raise ProtocolError("the metadata of an entry is unreadable") from error
    if not metadata.IsInitialized():
        raise ProtocolError("the metadata of an entry lacks a required field")
    return metadata


def extend_metadata(
    entry: bytes,
    *,
    producer_name: str,
    sequence_id: int,
    schema_version: bytes | None = None,
    properties: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """The same entry under another producer's name and sequence id, which is also its highest.

    The fields are appended to the encoded metadata, where the last occurrence of a scalar field wins: a broker that
    rebuilds its deduplication from stored entries then finds them, and whatever else the metadata holds stays as it
    was. Raises: ProtocolError.
    """
    metadata, payload = split_entry(entry)
    fields = MessageMetadata(
        producer_name=producer_name,
        sequence_id=sequence_id,
        highest_sequence_id=sequence_id,
        schema_version=schema_version,
    )
    for key, value in properties:
        fields.properties.add(key=key, value=value)
    # Partial, because publish_time is required and must stay the original's.
    return build_entry(metadata + fields.SerializePartialToString(), payload)
