"""Entries on their way out: extended, never encoded anew; some never go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.messages import encode_entry
from gateway.errors import ChecksumMismatch
from gateway.message import OutgoingMessage
from gateway.replication.extension import Extension, Unsendable
from gateway.wire.entry import build_entry, check_entry, parse_metadata, split_entry

UNKNOWN_FIELD = b"\xfa\x7d\x03new"
"""Field 2015 of a later version, length-delimited."""
MARKER = b"\xa0\x01\x05"
"""marker_type (20) = 5."""


def entry(payload: bytes = b"x", *, path: str | None = None, appended: bytes = b"") -> bytes:
    properties = {"unit": "K"} if path is None else {"unit": "K", "headwater.path": path}
    data = encode_entry(
        OutgoingMessage(payload, "key", properties, 77),
        producer_name="device",
        sequence_id=5_000_029,
        publish_time_ms=9,
    )
    metadata, body = split_entry(data)
    return build_entry(metadata + appended, body)


def extension(size_max: int = 1 << 20) -> Extension:
    return Extension("headwater/hall-7/a1/3", incarnation="a1", size_max=size_max)


@given(st.binary(max_size=200), st.integers(0, 2**28))
def test_extension_appends_and_changes_nothing_else(payload: bytes, sequence_id: int) -> None:
    """The original's metadata and payload stand there byte for byte, and the checksum is right."""
    original = entry(payload, appended=UNKNOWN_FIELD)
    extended = extension().extend(original, sequence_id)
    check_entry(extended)
    metadata, body = split_entry(extended)
    assert body == payload
    assert metadata.startswith(split_entry(original)[0])
    parsed = parse_metadata(extended)
    assert (parsed.producer_name, parsed.sequence_id) == ("headwater/hall-7/a1/3", sequence_id)
    assert parsed.highest_sequence_id == sequence_id
    assert (parsed.publish_time, parsed.event_time, parsed.partition_key) == (9, 77, "key")
    assert [(item.key, item.value) for item in parsed.properties] == [("unit", "K"), ("headwater.path", "a1")]


def test_extension_is_the_same_whatever_went_before() -> None:
    """What is kept for encoding carries nothing from one entry to the next."""
    one = extension()
    first = one.extend(entry(b"a"), 1)
    one.extend(entry(b"b" * 500), 2**28)
    assert one.extend(entry(b"a"), 1) == first == extension().extend(entry(b"a"), 1)


def test_extension_overrides_the_devices_highest_id() -> None:
    """Left in, Pulsar swallowed fresh entries for it."""
    original = entry(appended=b"\xc0\x01\xe8\x07")
    assert parse_metadata(original).highest_sequence_id == 1_000
    assert parse_metadata(extension().extend(original, 3)).highest_sequence_id == 3


def test_extension_stops_a_circle() -> None:
    """An entry that was here before goes no further, without an alarm; another gateway's mark does not stop it."""
    with pytest.raises(Unsendable) as caught:
        extension().extend(entry(path="a1"), 0)
    assert caught.value.reason is None
    paths = [item.value for item in parse_metadata(extension().extend(entry(path="b2"), 0)).properties]
    assert paths == ["K", "b2", "a1"]


def test_extension_stops_markers() -> None:
    """A broker's own bookkeeping: the cloud would confirm it and deliver it to nobody."""
    with pytest.raises(Unsendable) as caught:
        extension().extend(entry(appended=MARKER), 0)
    assert caught.value.reason is None


def test_extension_names_what_is_too_large() -> None:
    """With both sizes, and only if the extended entry is."""
    data = entry(b"x" * 1_000)
    size = len(extension().extend(data, 0))
    extension(size).extend(data, 0)
    with pytest.raises(Unsendable, match=f"{size} bytes; the cloud takes {size - 1}"):
        extension(size - 1).extend(data, 0)


def test_extension_refuses_unreadable_metadata() -> None:
    """It is parked with its reason instead of stopping all that follows."""
    with pytest.raises(Unsendable, match="unreadable"):
        extension().extend(build_entry(b"\xff\xff", b"x"), 0)


def test_extension_does_not_repair_damage() -> None:
    """A new checksum over damaged bytes would make them look right: the log checks what it reads, so it can't come
    here."""
    damaged = entry()[:-1] + b"y"
    with pytest.raises(ChecksumMismatch):
        check_entry(damaged)
