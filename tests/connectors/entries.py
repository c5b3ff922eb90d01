"""Reads entries by protobuf's rules and nothing of ours, so that our templates can't agree with themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

import google_crc32c


@dataclass
class ReadMessage:
    """A message of a batch."""

    payload: bytes
    key: str | None = None
    event_time_ms: int = 0
    properties: dict[str, str] = field(default_factory=dict)


@dataclass
class ReadEntry:
    """An entry, opened."""

    producer_name: str
    sequence_id: int
    publish_time_ms: int
    messages_in_batch: int
    key: str | None
    messages: list[ReadMessage]


def read_entry(data: bytes) -> ReadEntry:
    """Open an entry and check its checksum and counts."""
    assert data[:2] == b"\x0e\x01"
    assert int.from_bytes(data[2:6]) == google_crc32c.value(data[6:])
    size = int.from_bytes(data[6:10])
    metadata = _fields(data[10 : 10 + size])
    payload = data[10 + size :]
    messages = []
    while payload:
        single_size = int.from_bytes(payload[:4])
        single = _fields(payload[4 : 4 + single_size])
        start = 4 + single_size
        stop = start + _number(single, 3)
        messages.append(
            ReadMessage(
                payload[start:stop],
                _text(single, 2),
                _number(single, 5),
                {_text_of(pair, 1): _text_of(pair, 2) for pair in map(_fields, _all(single, 1))},
            )
        )
        payload = payload[stop:]
    assert len(messages) == _number(metadata, 11)
    return ReadEntry(
        _text_of(metadata, 1),
        _number(metadata, 2),
        _number(metadata, 3),
        _number(metadata, 11),
        _text(metadata, 6),
        messages,
    )


Fields = list[tuple[int, int | bytes]]


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, offset


def _fields(data: bytes) -> Fields:
    fields: Fields = []
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        value, offset = _varint(data, offset)
        if tag & 7 == 2:
            assert offset + value <= len(data)
            fields.append((tag >> 3, data[offset : offset + value]))
            offset += value
        else:
            assert tag & 7 == 0
            fields.append((tag >> 3, value))
    return fields


def _all(fields: Fields, number: int) -> list[bytes]:
    return [value for field_number, value in fields if field_number == number and isinstance(value, bytes)]


def _text(fields: Fields, number: int) -> str | None:
    values = _all(fields, number)
    return values[-1].decode() if values else None


def _text_of(fields: Fields, number: int) -> str:
    text = _text(fields, number)
    assert text is not None
    return text


def _number(fields: Fields, number: int) -> int:
    return next((value for field_number, value in fields if field_number == number and isinstance(value, int)), 0)
