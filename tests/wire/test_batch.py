"""Entries built from templates, read back by protobuf's rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.batch import BatchTemplate, encode_fields, encode_head, encode_stamp
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
