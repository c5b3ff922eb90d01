"""Entries: what is appended to their metadata wins, and nothing else of them changes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ChecksumMismatch, ProtocolError
from gateway.wire.entry import build_entry, check_entry, extend_metadata, parse_metadata, split_entry
from gateway.wire.metadata import MessageMetadata, text_of

UNKNOWN_FIELD = b"\xfa\x7f\x03new"
"""Field 2047, of a version of the protocol that is yet to come."""
ids = st.integers(0, 2**63 - 1)


def encoded(**fields: object) -> bytes:
    described = {"producer_name": "device", "sequence_id": 3, "publish_time": 1_000} | fields
    data: bytes = MessageMetadata(**described).SerializeToString()
    return data


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_entry_splits_into_what_it_was_built_of(metadata: bytes, payload: bytes) -> None:
    """Byte for byte, whatever the two are."""
    entry = build_entry(metadata, payload)
    check_entry(entry)
    assert split_entry(entry) == (metadata, payload)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_check_notices_each_flipped_bit(payload: bytes, data: st.DataObject) -> None:
    """In the checksum, in the size, in the metadata and in the payload."""
    entry = bytearray(build_entry(encoded(), payload))
    entry[data.draw(st.integers(0, len(entry) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolError):
        check_entry(bytes(entry))


def test_check_tells_damage_from_what_is_no_entry() -> None:
    """A wrong checksum is a damaged message; a wrong shape is a peer that speaks something else."""
    entry = build_entry(encoded(), b"payload")
    with pytest.raises(ChecksumMismatch):
        check_entry(entry[:-1] + b"D")
    for no_entry in (b"", entry[:9], b"\x0e\x02" + entry[2:]):
        with pytest.raises(ProtocolError) as caught:
            check_entry(no_entry)
        assert not isinstance(caught.value, ChecksumMismatch)


@given(st.binary(max_size=64))
def test_parsing_anything_raises_nothing_else(data: bytes) -> None:
    """Neither struct's nor protobuf's errors leave the module."""
    for parse in (split_entry, parse_metadata, check_entry):
        with contextlib.suppress(ProtocolError):
            parse(data)


@given(ids, ids, st.text(st.characters(codec="utf-8"), max_size=50), st.binary(max_size=50))
def test_extension_is_what_a_reader_sees(sequence_id: int, original_id: int, name: str, payload: bytes) -> None:
    """The last occurrence of a field wins: name and ids are the new ones, everything else is the original's."""
    original = build_entry(
        encoded(sequence_id=original_id, highest_sequence_id=1, partition_key="key", num_messages_in_batch=7), payload
    )
    extended = extend_metadata(original, producer_name=name, sequence_id=sequence_id)
    check_entry(extended)
    metadata = parse_metadata(extended)
    assert (metadata.producer_name, metadata.sequence_id, metadata.highest_sequence_id) == (
        name,
        sequence_id,
        sequence_id,
    )
    assert (metadata.publish_time, metadata.partition_key, metadata.num_messages_in_batch) == (1_000, "key", 7)


@given(st.binary(max_size=50))
def test_extension_leaves_the_original_bytes(payload: bytes) -> None:
    """It is appended: fields that this version does not know stay where they are, and so does the payload."""
    metadata = encoded() + UNKNOWN_FIELD
    extended = extend_metadata(
        build_entry(metadata, payload),
        producer_name="replicator",
        sequence_id=9,
        schema_version=b"\0" * 8,
        properties=(("origin", "gateway-7"),),
    )
    after, payload_after = split_entry(extended)
    assert after.startswith(metadata)
    assert payload_after == payload
    read = parse_metadata(extended)
    assert read.schema_version == b"\0" * 8
    assert [(item.key, item.value) for item in read.properties] == [("origin", "gateway-7")]


def test_extension_twice_ends_with_the_second() -> None:
    """From one gateway through another to the cloud."""
    entry = build_entry(encoded(), b"x")
    for number, name in enumerate(("first", "second")):
        entry = extend_metadata(entry, producer_name=name, sequence_id=number)
    metadata = parse_metadata(entry)
    assert (metadata.producer_name, metadata.sequence_id, metadata.highest_sequence_id) == ("second", 1, 1)


def test_metadata_without_a_required_field_is_unreadable() -> None:
    """Consumers would choke on it, so it is refused before it is stored."""
    with pytest.raises(ProtocolError):
        parse_metadata(build_entry(b"", b"x"))


def test_texts_that_are_not_utf8_are_shown_and_not_refused() -> None:
    """C++ publishers write bytes into names and keys, and Pulsar takes them."""
    metadata = b"\x0a\x02\xff\xfe" + encoded()[8:]
    assert text_of(parse_metadata(build_entry(metadata, b"")).producer_name) == "\\xff\\xfe"
