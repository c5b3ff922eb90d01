"""How answers look: tables and times for people, JSON for programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gateway.message import Message

HEX_PREVIEW_BYTES = 32


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False))


def counted(number: int, noun: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as they need; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(head[index]), *(len(row[index]) for row in cells), 0) for index in range(len(head))]
    numeric = [bool(rows) and all(isinstance(row[index], int | float) for row in rows) for index in range(len(head))]

    def line(parts: Sequence[str]) -> str:
        return "  ".join(
            part.rjust(width) if right else part.ljust(width)
            for part, width, right in zip(parts, widths, numeric, strict=True)
        ).rstrip()

    click.echo(line(head))
    for row in cells:
        click.echo(line(row))


def print_message(message: Message, *, as_json: bool) -> None:
    """One message: what a person wants to see, or one JSON object."""
    if as_json:
        print_json(message_as_json(message))
        return
    time_ms = message.event_time_ms or message.publish_time_ms
    moment = datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    key = f" {_visible(message.key)}" if message.key is not None else ""
    redelivered = f" (redelivery {message.redelivery_count})" if message.redelivery_count else ""
    click.echo(f"{moment}Z {message.message_id}{key}{redelivered}  {payload_as_text(message.payload)}")


def message_as_json(message: Message) -> dict[str, Any]:
    """A message as a program reads it."""
    described: dict[str, Any] = {
        "topic": message.topic,
        "message_id": str(message.message_id),
        "key": message.key,
        "properties": message.properties,
        "publish_time_ms": message.publish_time_ms,
        "event_time_ms": message.event_time_ms or None,
        "producer_name": message.producer_name,
        "sequence_id": message.sequence_id,
        "redelivery_count": message.redelivery_count,
    }
    try:
        described["payload"] = message.payload.decode()
    except UnicodeDecodeError:
        described["payload_base64"] = base64.b64encode(message.payload).decode()
    return described


def payload_as_text(payload: bytes) -> str:
    """A payload for people: text as it is, unless it holds what steers a terminal; else its size and first bytes."""
    try:
        text = payload.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = None
    if text is not None and all(character.isprintable() or character in "\t\n" for character in text):
        return text
    preview = payload[:HEX_PREVIEW_BYTES].hex(" ")
    more = " …" if len(payload) > HEX_PREVIEW_BYTES else ""
    return f"[{len(payload)} bytes] {preview}{more}"


def _visible(text: str) -> str:
    """A device's word without what would steer the terminal it is printed on."""
    return text if text.isprintable() else repr(text)[1:-1]
