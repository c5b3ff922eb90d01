"""State records: read as they were written, and unknown kinds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LogError
from gateway.log.records import (
    SKIPPABLE,
    AckRecord,
    CleanStopRecord,
    PolicyRecord,
    ProducerRecord,
    Record,
    RecordKind,
    StateRecord,
    SubscriptionRecord,
    TopicRecord,
    decode_record,
    encode_record,
)

ids = st.integers(0, 2**63 - 1)
names = st.text(max_size=20)
masks = st.integers(1, 200).flatmap(lambda size: st.tuples(ids, st.just(size), st.integers(0, (1 << size) - 1)))


@st.composite
def acks(draw: st.DrawFn) -> AckRecord:
    mark = draw(st.integers(-1, 2**40))
    ranges = []
    end = mark
    for skipped, length in draw(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), max_size=8)):
        first = end + 1 + skipped
        end = first + length - 1
        ranges.append((first, end))
    return AckRecord(draw(ids), mark, tuple(ranges), tuple(draw(st.lists(masks, max_size=4))), draw(st.booleans()))


records = st.one_of(
    acks(),
    st.builds(TopicRecord, ids, names, st.integers(0, 1000), st.booleans(), st.dictionaries(names, names, max_size=4)),
    st.builds(SubscriptionRecord, ids, ids, names, st.integers(-1, 2**40), st.booleans()),
    st.builds(ProducerRecord, ids, names, st.integers(-(2**63), 2**63 - 1), ids),
    st.builds(PolicyRecord, names, names),
    st.builds(StateRecord, names, names, st.none() | st.binary(max_size=40)),
    st.just(CleanStopRecord()),
)


@given(records)
def test_record_is_read_as_it_was_written(record: Record) -> None:
    """Every field, whatever its value."""
    assert decode_record(*encode_record(record)) == record


def test_unknown_kind_is_refused() -> None:
    """Going on without it would bring the views up wrong."""
    with pytest.raises(LogError, match="unknown kind 99"):
        decode_record(99, b"")


def test_unknown_kind_that_may_be_skipped_is_skipped() -> None:
    """The writer said so in bit 7."""
    assert decode_record(SKIPPABLE | 99, b"") is None


def test_kinds_are_numbered_for_ever() -> None:
    """Names and numbers as they are on disks out there."""
    assert {kind.name: kind.value for kind in RecordKind} == {
        "entry": 1, "ack": 2, "subscription": 3, "topic": 4, "policy": 5, "schema": 6, "producer": 7, "state": 8,
        "function": 9, "mqtt_session": 10, "mqtt_qos2": 11, "mqtt_retained": 12, "replication_confirmed": 13,
        "replication_start_bound": 14, "replication_lane": 15, "clock_anchor": 16, "gap": 17, "thinned": 18,
        "packed": 19, "offloaded": 20, "clean_stop": 21, "fleet_release": 22,
    }  # fmt: skip
