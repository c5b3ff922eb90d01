"""The journal's bytes, against golden files: a change of any byte of the format fails here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ClockQuality
from gateway.log.format import (
    NO_SEGMENT,
    DirectoryItem,
    SegmentHeader,
    decode_directory,
    decode_group_header,
    decode_segment_header,
    decode_varint,
    encode_directory,
    encode_segment_header,
    encode_varint,
)
from gateway.log.frames import ClockFacts, encode_group, make_compressor
from gateway.log.records import (
    AckRecord,
    CleanStopRecord,
    PolicyRecord,
    ProducerRecord,
    StateRecord,
    SubscriptionRecord,
    TopicRecord,
    encode_record,
)

GOLDEN = Path(__file__).parent / "golden"
SALT = bytes(range(100, 116))
HEADER = SegmentHeader(4096, 7, bytes(range(16)), SALT, bytes(range(16, 32)), 6, 81920, 0xDEADBEEF)
CLOCK = ClockFacts(bytes(range(16, 32)), 123_456_789_000, 1_800_000_000_123_456_789, ClockQuality.unsynchronised)
RECORDS = [
    TopicRecord(3, "persistent://public/default/t", properties={"b": "2", "a": "1"}),
    SubscriptionRecord(9, 3, "sub", 41),
    AckRecord(9, 44, ((46, 47), (50, 50)), ((52, 10, 0b1111100001),), reset=True),
    ProducerRecord(3, "device-1", -1, 2),
    PolicyRecord("public/default", '{"retention": 1}'),
    StateRecord("function/clean", "key", b"\x00\xff"),
    StateRecord("function/clean", "gone", None),
    CleanStopRecord(),
]


def golden_group(*, compress: bool) -> bytes:
    """A group with every kind of record and three ledgers; compressed, with entries larger than a frame too."""
    runs: list[tuple[int, int, list[object]]] = []
    shapes = ((300, 5, 40, 90), (2, 1000, 900 if compress else 9, 120), (7, 0, 2, 70_000 if compress else 700))
    for ledger_id, first, count, size in shapes:
        flat: list[object] = []
        for index in range(count):
            data = (b'{"device":%d,"n":%d}' % (ledger_id, index)).ljust(size, b" ")
            flat += (data, 1 + index % 3, CLOCK.boottime_ns - index * 1_000_000)
        runs.append((ledger_id, first, flat))
    group = encode_group(
        runs,
        [encode_record(record) for record in RECORDS],
        CLOCK,
        compressor=make_compressor() if compress else None,
        align=4096,
    )
    return group.placed(salt=SALT, group_number=12, previous_crc=0x01020304, align=4096)[0]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("segment-header.bin", encode_segment_header(HEADER)[0]),
        ("group-plain.bin", golden_group(compress=False)),
        ("group-zstd.bin", golden_group(compress=True)),
    ],
)
def test_format_matches_golden_file(name: str, made: bytes) -> None:
    """Bytes that older versions wrote are the bytes that this version writes. HEADWATER_GOLDEN=write makes them anew.

    The compressed one depends on the zstd library too: when only that one differs after an update of it, make it anew.
    """
    path = GOLDEN / name
    if os.environ.get("HEADWATER_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(made)
    assert path.read_bytes() == made


def test_segment_header_survives_the_loss_of_either_copy() -> None:
    """It stands twice in its unit, whatever the unit's size; without both there is none."""
    for align in (4096, 8192, 65536):
        header = HEADER._replace(align=align)
        packed, crc = encode_segment_header(header)
        assert len(packed) == align
        expected = header._replace(crc=crc)
        broken = bytearray(packed)
        assert decode_segment_header(bytes(broken)) == expected
        broken[20] ^= 1
        assert decode_segment_header(bytes(broken)) == expected
        broken[align // 2 + 20] ^= 1
        assert decode_segment_header(bytes(broken)) is None
        broken[20] ^= 1
        assert decode_segment_header(bytes(broken)) == expected


def test_segment_header_of_the_first_segment_has_no_predecessor() -> None:
    """The number that stands for none is no segment's."""
    packed, _ = encode_segment_header(HEADER._replace(previous_number=NO_SEGMENT))
    header = decode_segment_header(packed)
    assert header is not None
    assert header.previous_number == NO_SEGMENT


def test_group_header_is_refused_under_another_salt() -> None:
    """The salt is compared whole: a payload that imitates a group would have to guess 16 bytes."""
    packed = golden_group(compress=True)[:128]
    assert decode_group_header(packed, SALT) is not None
    for index in range(16):
        other = bytearray(SALT)
        other[index] ^= 1
        assert decode_group_header(packed, bytes(other)) is None


def test_group_header_with_any_flipped_bit_is_refused() -> None:
    """Its CRC covers all of it."""
    packed = golden_group(compress=True)[:128]
    for bit in range(128 * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_group_header(bytes(flipped), SALT) is None


@given(
    st.lists(
        st.builds(
            DirectoryItem,
            *[st.integers(0, 2**63) for _ in range(2)],
            *[st.integers(0, 2**32) for _ in range(2)],
            st.integers(0, 65535),
            st.integers(0, 2**23),
        )
    )
)
def test_directory_is_read_as_it_was_written(items: list[DirectoryItem]) -> None:
    """Any numbers, any count."""
    assert decode_directory(encode_directory(items)) == items


@given(st.integers(0, 2**64))
def test_varint_is_read_as_it_was_written(value: int) -> None:
    """And the offset behind it is right."""
    packed = encode_varint(value)
    assert decode_varint(b"x" + packed + b"y", 1) == (value, 1 + len(packed))
