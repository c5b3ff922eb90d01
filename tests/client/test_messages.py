"""Messages out of entries and into them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.api import ReceivedEntry
from gateway.client.chunks import ChunkAssembler
from gateway.client.messages import ENCRYPTED, decode_entry, encode_entry
from gateway.errors import ProtocolError
from gateway.message import Entry, Message, MessageId, OutgoingMessage, Position
from gateway.wire.batch import BatchBuilder, encode_fields, encode_stamp
from gateway.wire.compression import CompressionType, compress
from gateway.wire.entry import build_entry, check_entry, parse_metadata, split_entry
from gateway.wire.metadata import MessageMetadata, SingleMessageMetadata

TOPIC = "persistent://plant/hall7/temperature-partition-2"
texts = st.text(st.characters(codec="utf-8"), max_size=30)


def received(data: bytes, *, ack_set: tuple[int, ...] = (), redelivery_count: int = 0) -> ReceivedEntry:
    return ReceivedEntry(TOPIC, Entry(Position(7, 9), data, 1), 2, redelivery_count, ack_set)


def entry(payload: bytes = b"", **fields: Any) -> bytes:
    metadata = MessageMetadata(**{"producer_name": "p", "sequence_id": 1, "publish_time": 2} | fields)
    return build_entry(metadata.SerializeToString(), payload)


def batch(*singles: tuple[dict[str, Any], bytes], **fields: Any) -> bytes:
    """An entry as any client might write it, through protobuf."""
    parts = []
    for single_fields, payload in singles:
        single = SingleMessageMetadata(payload_size=len(payload), **single_fields).SerializeToString()
        parts += [len(single).to_bytes(4, "big"), single, payload]
    return entry(b"".join(parts), **{"num_messages_in_batch": len(singles)} | fields)


def payloads(messages: list[Message]) -> list[bytes]:
    return [message.payload for message in messages]


@given(
    st.builds(
        OutgoingMessage,
        payload=st.binary(max_size=200),
        key=st.none() | texts,
        properties=st.dictionaries(texts, texts, max_size=4),
        event_time_ms=st.integers(0, 2**63 - 1),
        ordering_key=st.none() | st.binary(max_size=20),
    ),
    texts,
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)
def test_message_comes_back_from_its_entry(
    message: OutgoingMessage, producer: str, sequence_id: int, time: int
) -> None:
    """All that an application says about a message arrives; an empty key is a key, and no key is none."""
    data = encode_entry(message, producer_name=producer, sequence_id=sequence_id, publish_time_ms=time)
    check_entry(data)
    assert decode_entry(received(data, redelivery_count=3)) == [
        Message(
            TOPIC,
            MessageId(7, 9, 2),
            message.payload,
            message.key,
            message.properties,
            time,
            message.event_time_ms,
            producer,
            sequence_id,
            3,
        )
    ]
    metadata = parse_metadata(data)
    assert (metadata.ordering_key if metadata.HasField("ordering_key") else None) == message.ordering_key
    assert not metadata.HasField("num_messages_in_batch")


@pytest.mark.parametrize(
    "message",
    [
        OutgoingMessage(b"", key="\udc80"),
        OutgoingMessage(b"", properties={"a": "\ud800"}),
        OutgoingMessage(b"", event_time_ms=-1),
        OutgoingMessage(b"", event_time_ms=2**64),
    ],
)
def test_message_that_no_entry_can_hold_is_refused(message: OutgoingMessage) -> None:
    """Half of a surrogate pair (a byte on a command line that is not UTF-8), a time before 1970: our side's mistake."""
    with pytest.raises(ProtocolError) as refused:
        encode_entry(message, producer_name="p", sequence_id=0, publish_time_ms=0)
    assert refused.value.local


# Batches


@pytest.mark.parametrize("compression", CompressionType)
def test_batch_becomes_its_messages(compression: CompressionType) -> None:
    """Each with its own key, properties, time, id within the batch and sequence id; the producer is the entry's."""
    builder = BatchBuilder("the producer", compression)
    builder.add(b"one", encode_fields([("a", "b")], key="k"), encode_stamp([], event_time_ms=5))
    builder.add(b"two")
    data = builder.finish(sequence_id=40, publish_time_ms=6, key="all")
    assert decode_entry(received(data)) == [
        Message(TOPIC, MessageId(7, 9, 2, 0, 2), b"one", "k", {"a": "b"}, 6, 5, "the producer", 40),
        Message(TOPIC, MessageId(7, 9, 2, 1, 2), b"two", None, {}, 6, 0, "the producer", 41),
    ]


def test_batch_of_one_is_a_batch() -> None:
    """Its acknowledgement names an index: what counts is that the field is there."""
    (message,) = decode_entry(received(batch(({}, b"alone"))))
    assert message.message_id == MessageId(7, 9, 2, 0, 1)


@given(st.integers(1, 150), st.data())
def test_batch_leaves_out_what_is_acknowledged(size: int, data: st.DataObject) -> None:
    """Only messages whose bit is set are delivered, and they keep their index."""
    left = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    mask = sum(1 << index for index in left)
    words = tuple(
        int.from_bytes((mask >> shift & 2**64 - 1).to_bytes(8, "big"), "big", signed=True)
        for shift in range(0, size, 64)
    )
    whole = batch(*(({}, b"%d" % index) for index in range(size)))
    messages = decode_entry(received(whole, ack_set=words))
    assert payloads(messages) == [b"%d" % index for index in sorted(left)]
    assert [message.message_id.batch_index for message in messages] == sorted(left)


def test_batch_leaves_out_what_was_compacted() -> None:
    """A message that compaction emptied is not one with an empty payload."""
    messages = decode_entry(received(batch(({"compacted_out": True}, b""), ({}, b""), ({}, b"c"))))
    assert [(message.message_id.batch_index, message.payload) for message in messages] == [(1, b""), (2, b"c")]


def test_batch_may_say_each_sequence_id() -> None:
    """What a message says of itself counts more than its place."""
    messages = decode_entry(received(batch(({"sequence_id": 90}, b""), ({}, b""), sequence_id=5)))
    assert [message.sequence_id for message in messages] == [90, 6]


# Keys and texts


def test_key_of_bytes_is_decoded() -> None:
    """Java's clients send keys that are bytes as base64, and say so; what is not UTF-8 in them is shown escaped."""
    for key, shown in ((b"plain", "plain"), (b"\xff\x00k", "\\xff\x00k"), (b"", "")):
        encoded = base64.b64encode(key).decode()
        data = entry(partition_key=encoded, partition_key_b64_encoded=True)
        assert decode_entry(received(data))[0].key == shown
        (message,) = decode_entry(received(batch(({"partition_key": encoded, "partition_key_b64_encoded": True}, b""))))
        assert message.key == shown


@pytest.mark.parametrize("key", ["no base64!", "abc", "é"])
def test_key_that_is_not_base64_although_it_says_so_is_refused(key: str) -> None:
    """Letters outside of ASCII included, which Python reports in another way."""
    with pytest.raises(ProtocolError, match="base64"):
        decode_entry(received(entry(partition_key=key, partition_key_b64_encoded=True)))


def test_texts_that_are_not_utf8_are_shown_escaped() -> None:
    """Publishers in C++ may put any bytes into keys and properties."""
    metadata, _ = split_entry(entry())
    strange = metadata + b"\x32\x02\xffk" + b"\x22\x08\x0a\x02\xfen\x12\x02\xfdv"
    (message,) = decode_entry(received(build_entry(strange, b"")))
    assert (message.key, message.properties) == ("\\xffk", {"\\xfen": "\\xfdv"})


# What is not opened, or can't be


def test_encrypted_entry_stays_whole() -> None:
    """Compressed and batched before it was encrypted, it is handed over as it came, and says so."""
    keys = [{"key": "k", "value": b"v"}]
    data = entry(b"secret", encryption_keys=keys, num_messages_in_batch=5, compression=1, uncompressed_size=99)
    (message,) = decode_entry(received(data), ChunkAssembler())
    assert (message.payload, message.properties[ENCRYPTED]) == (b"secret", "true")
    assert message.message_id == MessageId(7, 9, 2)


def test_chunks_become_one_message_inflated_at_the_end() -> None:
    """The payload is compressed, then cut: no chunk can be inflated by itself."""
    original = b"temperature " * 50
    whole = compress(CompressionType.zstd, original)
    halves = [whole[:10], whole[10:]]
    chunks = ChunkAssembler()
    fields = {"uuid": "u", "num_chunks_from_msg": 2, "total_chunk_msg_size": len(whole), "partition_key": "k"}
    fields |= {"compression": int(CompressionType.zstd), "uncompressed_size": len(original)}
    entries = [received(entry(half, chunk_id=number, **fields)) for number, half in enumerate(halves)]
    assert decode_entry(entries[0], chunks) == []
    (message,) = decode_entry(entries[1], chunks)
    assert (message.payload, message.key) == (original, "k")
    assert payloads(decode_entry(entries[0])) == halves[:1], "without an assembler, chunks come as they were sent"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        build_entry(b"\xff", b""),
        entry(b"x", compression=9, uncompressed_size=1),
        entry(b"x", compression=1, uncompressed_size=1),
        entry(b"x", num_messages_in_batch=0),
        entry(b"x", num_messages_in_batch=-3),
        batch(({}, b"a"), num_messages_in_batch=2),
    ],
)
def test_entry_that_can_not_be_opened_is_a_protocol_error(data: bytes) -> None:
    """Whatever is wrong with an entry, its reader is told so in one way."""
    with pytest.raises(ProtocolError):
        decode_entry(received(data))


@given(st.binary(max_size=150), st.binary(max_size=50))
def test_garbage_raises_protocol_error_only(metadata: bytes, payload: bytes) -> None:
    """Metadata and payloads of any content."""
    head, _ = split_entry(entry())
    for data in (metadata, build_entry(metadata, payload), build_entry(head + metadata, payload)):
        try:
            messages = decode_entry(received(data), ChunkAssembler())
        except ProtocolError:
            continue
        for message in messages:
            assert message.key is None or isinstance(message.key, str)
            assert all(isinstance(text, str) for pair in message.properties.items() for text in pair)
