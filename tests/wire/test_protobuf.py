"""Classes built from tables: what they encode is what protobuf's own compiler would."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError, EncodeError

from gateway.wire.protobuf import build_classes

TABLE = """
Inner
  text 1 ! string
Outer
  name 1 ? string
  number 2 ! uint64
  words 3 * int64
  inner 4 ? Inner
  color 5 ? Color = green
  small 6 ? int32 = -1
  flag 7 ? bool = true
  blob 8 ? bytes
  signed 9 ? sint64
enum Color
  red 0
  green 1
"""

classes = build_classes("tests.tables", TABLE)
Outer = classes["Outer"]


def test_fields_are_encoded_as_the_protocol_says() -> None:
    """Tags, varints, negative numbers, nesting; repeated numbers one by one (not packed), as proto2 does."""
    message = Outer(
        name="é", number=300, words=[1, -1], inner={"text": "t"}, color=0, small=-2, flag=False, blob=b"\xff", signed=-1
    )
    assert message.SerializeToString() == b"".join(
        (
            b"\x0a\x02\xc3\xa9",
            b"\x10\xac\x02",
            b"\x18\x01\x18" + b"\xff" * 9 + b"\x01",
            b"\x22\x03\x0a\x01t",
            b"\x28\x00",
            b"\x30\xfe" + b"\xff" * 8 + b"\x01",
            b"\x38\x00",
            b"\x42\x01\xff",
            b"\x48\x01",
        )
    )


def test_packed_numbers_are_read_too() -> None:
    """A peer may pack repeated numbers; a reader must take both."""
    assert list(Outer.FromString(b"\x10\x01\x1a\x02\x05\x06").words) == [5, 6]


def test_defaults_and_presence_are_those_of_the_table() -> None:
    """A field that is not there reads as its default, and one can tell."""
    message = Outer.FromString(b"\x10\x01")
    assert (message.color, message.small, message.flag, message.name) == (1, -1, True, "")
    assert not message.HasField("small")
    assert Outer.FromString(b"\x10\x01\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").HasField("small")


def test_required_field_is_missed_both_ways() -> None:
    """A message without a required field is not sent; one that was received says so; nested ones included."""
    with pytest.raises(EncodeError):
        Outer().SerializeToString()
    with pytest.raises(EncodeError):
        Outer(number=1, inner={}).SerializeToString()
    for data in (b"", b"\x10\x01\x22\x00"):
        assert not Outer.FromString(data).IsInitialized()


def test_unknown_fields_survive() -> None:
    """What a newer peer says in fields that the table lacks is passed on."""
    data = b"\x10\x01\xfa\x06\x03new"
    assert Outer.FromString(data).SerializeToString() == data


def test_text_that_is_not_utf8_is_refused_unless_told_otherwise() -> None:
    """Whoever reads a text gets a str. Where a table takes any bytes, they come out as they are, and go out so."""
    data = b"\x0a\x01\xff\x10\x01"
    with pytest.raises(DecodeError):
        Outer.FromString(data)
    lenient = build_classes("tests.lenient", TABLE, verify_texts=False)["Outer"]
    assert lenient.FromString(data).name == b"\xff"
    assert lenient.FromString(data).SerializeToString() == data


@pytest.mark.parametrize(
    "table",
    ["  name 1 ? string", "Message\n  name 1 ? string of", "Message\n  name 1 ? Missing", "Message\n  name x ? string"],
)
def test_mistake_in_a_table_is_found_at_once(table: str) -> None:
    """A field outside of a message, words that mean nothing, a type that is not there, a number that is none."""
    with pytest.raises((AssertionError, TypeError, ValueError)):
        build_classes("tests.broken", table)
