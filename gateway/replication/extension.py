"""Turns an edge entry into the one that is sent: under our name and ids, marked with the way it went. Pure.

Nothing is encoded anew: fields are appended to the metadata as they are, where the last occurrence of a scalar
counts. Pulsar rebuilds its deduplication from what is stored in the entries, so name and ids must stand there,
`highest_sequence_id` too: the device's own, left in, made Pulsar swallow fresh entries.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gateway.errors import ProtocolError
from gateway.replication.names import PATH_PROPERTY
from gateway.wire.entry import build_entry, split_entry
from gateway.wire.metadata import MessageMetadata

_PATH_MARK = PATH_PROPERTY.encode()


class Unsendable(Exception):
    """An entry that is never sent. `reason` is None where that is as it should be, else what a person should know."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason or "not to be sent")
        self.reason = reason


class Extension:
    """What is appended to every entry of one producer."""

    def __init__(self, producer_name: str, *, incarnation: str, size_max: int) -> None:
        self._incarnation = incarnation
        self._size_max = size_max
        # Kept for encoding, with only its integers overwritten: a fresh one costs three times as much.
        self._fields = MessageMetadata(producer_name=producer_name)
        self._fields.properties.add(key=PATH_PROPERTY, value=incarnation)

    def extend(self, entry: bytes, sequence_id: int) -> bytes:
        """The entry as it is sent. Raises: Unsendable."""
        try:
            metadata, payload = split_entry(entry)
            parsed = MessageMetadata.FromString(metadata)
        except (ProtocolError, DecodeError) as error:
            raise Unsendable(f"its metadata is unreadable: {error}") from error
        if parsed.HasField("marker_type"):
            # A broker confirms a marker and delivers it to nobody.
            raise Unsendable(None)
        if _PATH_MARK in metadata:
            for item in parsed.properties:
                if item.key == PATH_PROPERTY and item.value == self._incarnation:
                    # It has been here: sending it on would be a circle.
                    raise Unsendable(None)
        fields = self._fields
        fields.sequence_id = sequence_id
        fields.highest_sequence_id = sequence_id
        # Partial, because publish_time is required and must stay the original's.
        extended = build_entry(metadata + fields.SerializePartialToString(), payload)
        if len(extended) > self._size_max:
            raise Unsendable(f"{len(extended)} bytes; the cloud takes {self._size_max}")
        return extended
