"""Batches: entries built from templates, read back by protobuf's rules; payloads opened, however broken they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.limits import BATCH_MESSAGES_MAX
from gateway.wire import batch
from gateway.wire.batch import (
    BatchBuilder,
    BatchTemplate,
    encode_fields,
    encode_head,
    encode_stamp,
    encode_varint,
    open_batch,
    open_payload,
)
from gateway.wire.compression import CompressionType
from gateway.wire.entry import parse_metadata, split_entry
from tests.connectors.entries import read_entry

texts = st.text(st.characters(codec="utf-8"), max_size=300)


def message(fields: bytes, stamp: bytes, payload: bytes) -> list[bytes]:
    return [encode_head(len(payload), len(fields) + len(stamp)), fields, stamp, payload]


@given(
    st.lists(
        st.tuples(st.dictionaries(texts, texts, max_size=4), st.none() | texts, st.binary(max_size=300)), min_size=1
    ),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**50),
)
def test_template_builds_an_entry_that_reads_back(
    messages: list[tuple[dict[str, str], str | None, bytes]], sequence_id: int, time_ms: int
) -> None:
    """Payloads, keys, properties and times of any content and size come back, message by message."""
    stamp = encode_stamp([("arrival_ms", str(time_ms))], event_time_ms=time_ms)
    parts = []
    for properties, key, payload in messages:
        parts += message(encode_fields(properties.items(), key=key), stamp, payload)
    data = BatchTemplate("the producer").encode(
        parts, sequence_id=sequence_id, publish_time_ms=time_ms, messages=len(messages), key=None
    )
    entry = read_entry(data)
    assert (entry.producer_name, entry.sequence_id, entry.publish_time_ms) == ("the producer", sequence_id, time_ms)
    assert entry.key is None
    for read, (properties, key, payload) in zip(entry.messages, messages, strict=True):
        assert read.payload == payload
        assert read.key == key
        assert read.event_time_ms == time_ms
        assert read.properties == {**properties, "arrival_ms": str(time_ms)}


def test_template_marks_an_entry_of_one_key() -> None:
    """Key_shared subscriptions route an entry by its own key; an empty key is a key."""
    parts = message(b"", encode_stamp([], event_time_ms=1), b"p")
    for key in ("k", ""):
        data = BatchTemplate("p").encode(parts, sequence_id=0, publish_time_ms=0, messages=1, key=key)
        assert read_entry(data).key == key


def test_stamp_has_no_event_time_before_1970() -> None:
    """A clock that was never set may be there; an unsigned field could not say so."""
    assert encode_stamp([], event_time_ms=-5) == b""
    data = BatchTemplate("p").encode([], sequence_id=0, publish_time_ms=-5, messages=0, key=None)
    assert read_entry(data).publish_time_ms == 0


# Building


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.sampled_from(CompressionType))
def test_builder_makes_entries_that_open_again(payloads: list[bytes], compression: CompressionType) -> None:
    """Whatever the compression, the messages of an entry come out as they went in, read by protobuf."""
    builder = BatchBuilder("the producer", compression)
    fields = encode_fields([("unit", "°C")], key="k", ordering_key=b"\x00o")
    for payload in payloads:
        builder.add(payload, fields, encode_stamp([], event_time_ms=7))
    size, messages = builder.size, builder.messages
    entry = builder.finish(sequence_id=5, publish_time_ms=6, key="k")
    metadata = parse_metadata(entry)
    assert (metadata.producer_name, metadata.sequence_id, metadata.publish_time) == ("the producer", 5, 6)
    assert (metadata.partition_key, metadata.num_messages_in_batch) == ("k", messages)
    assert metadata.HasField("num_messages_in_batch")
    inflated = open_payload(metadata, split_entry(entry)[1])
    assert len(inflated) == size
    opened = open_batch(inflated, messages)
    assert [payload for _, payload in opened] == payloads
    for single, _ in opened:
        assert (single.partition_key, single.ordering_key, single.event_time) == ("k", b"\x00o", 7)
        assert [(item.key, item.value) for item in single.properties] == [("unit", "°C")]


def test_builder_begins_anew_with_each_entry() -> None:
    """Nothing of one entry is in the next."""
    builder = BatchBuilder("p")
    builder.add(b"first")
    builder.finish(sequence_id=0, publish_time_ms=1)
    assert (builder.size, builder.messages) == (0, 0)
    builder.add(b"second")
    entry = read_entry(builder.finish(sequence_id=1, publish_time_ms=1))
    assert [message.payload for message in entry.messages] == [b"second"]


def test_builder_makes_no_batch_that_nobody_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an empty one nor one above the bound that readers have."""
    builder = BatchBuilder("p")
    with pytest.raises(AssertionError):
        builder.finish(sequence_id=0, publish_time_ms=1)
    monkeypatch.setattr(batch, "BATCH_MESSAGES_MAX", 2)
    builder.add(b"")
    builder.add(b"")
    with pytest.raises(AssertionError):
        builder.add(b"")


# Opening


def single(payload: bytes, payload_size: int | None = None) -> bytes:
    """One message of a batch, by hand, that claims a size of its payload."""
    size = len(payload) if payload_size is None else payload_size
    field = b"\x18" + encode_varint(size % 2**64)
    return len(field).to_bytes(4, "big") + field + payload


@given(st.binary(max_size=100), st.integers(-1, 5))
def test_opening_garbage_raises_protocol_error_only(data: bytes, messages: int) -> None:
    """Bytes that are no batch are refused."""
    try:
        opened = open_batch(data, messages)
    except ProtocolError:
        return
    assert len(opened) == messages


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_opening_a_damaged_batch_raises_protocol_error_only(payloads: list[bytes], data: st.DataObject) -> None:
    """A changed byte may change a payload; whatever else it does is refused."""
    payload = bytearray(b"".join(map(single, payloads)))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        opened = open_batch(bytes(payload), len(payloads))
    except ProtocolError:
        return
    assert len(opened) == len(payloads)


@pytest.mark.parametrize(
    ("payload", "messages"),
    [
        (single(b"a"), 2),
        (single(b"a") + single(b"b"), 1),
        (single(b"a", 2), 1),
        (single(b"a", -1), 1),
        (single(b"", -1) + single(b"a"), 2),
        (single(b"a", 2**31 - 1), 1),
        (b"\xff\xff\xff\xff" + single(b"a")[4:], 1),
        (b"\x00\x00\x00", 1),
        (single(b"a"), 0),
        (single(b"a"), -1),
        (single(b"a"), BATCH_MESSAGES_MAX + 1),
    ],
)
def test_batch_whose_sizes_and_counts_do_not_fit_is_refused(payload: bytes, messages: int) -> None:
    """Too few messages, too many, payloads that end elsewhere than they say: an entry is opened whole or not at all."""
    with pytest.raises(ProtocolError):
        open_batch(payload, messages)
