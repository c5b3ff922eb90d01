"""What a person sees of a message: readable, and without power over the terminal."""

from __future__ import annotations

import json

import pytest

from gateway.cli.output import message_as_json, payload_as_text, print_message
from gateway.message import Message, MessageId


def _message(
    payload: bytes = b"x", key: str | None = None, redelivery_count: int = 0, event_time_ms: int = 0
) -> Message:
    return Message(
        topic="persistent://plant/hall7/t",
        message_id=MessageId(1, 2, -1, 3, 4),
        payload=payload,
        key=key,
        properties={},
        publish_time_ms=1_795_514_043_012,
        event_time_ms=event_time_ms,
        producer_name="p",
        sequence_id=7,
        redelivery_count=redelivery_count,
    )


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b'{"c": 21.5}', '{"c": 21.5}'),
        ("21 °C ✓".encode(), "21 °C ✓"),
        (b"a\tb\nc\r\n", "a\tb\nc"),
        (b"", ""),
        (b"\xff\x00", "[2 bytes] ff 00"),
        (b"\x1b]0;title\x07", "[10 bytes] 1b 5d 30 3b 74 69 74 6c 65 07"),
        ("\u202eesrever".encode(), "[10 bytes] e2 80 ae 65 73 72 65 76 65 72"),
        ("\x9b2J".encode(), "[4 bytes] c2 9b 32 4a"),
        (b"\x00" * 33, "[33 bytes] " + "00 " * 32 + "…"),
    ],
)
def test_payload_is_shown_as_text_or_as_bytes(payload: bytes, shown: str) -> None:
    """Text is shown as it is; what would steer the terminal, or is no text, as its size and first bytes."""
    assert payload_as_text(payload) == shown


def test_line_shows_time_id_and_key_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """A device chooses its key, but not what the terminal does with it."""
    print_message(_message(key="a\x9b2J\n", redelivery_count=2), as_json=False)
    assert capsys.readouterr().out == "2026-11-24 09:54:03.012Z 1:2:-1:3 a\\x9b2J\\n (redelivery 2)  x\n"


def test_line_shows_the_time_of_the_event_where_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """What the device said about time goes before when it was published."""
    print_message(_message(event_time_ms=1_000), as_json=False)
    assert capsys.readouterr().out.startswith("1970-01-01 00:00:01.000Z ")


def test_json_line_is_one_line_whatever_the_payload(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads line by line gets one object from each."""
    print_message(_message(b"a\nb\x1b[2J"), as_json=True)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line)["payload"] == "a\nb\x1b[2J"
    assert message_as_json(_message(b"\xff"))["payload_base64"] == "/w=="
