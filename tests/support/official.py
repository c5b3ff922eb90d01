"""Shorthand for the official Pulsar client, judged by which the gateway speaks Pulsar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pulsar

RECEIVE_TIMEOUT_MS = 10_000


@contextlib.contextmanager
def client(service_url: str, **options: Any) -> Iterator[Any]:
    """A client that says little and is closed."""
    opened = pulsar.Client(
        service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error), operation_timeout_seconds=20, **options
    )
    try:
        yield opened
    finally:
        opened.close()


def read_all(opened: Any, topic: str) -> list[Any]:
    """Every message that a topic holds now, in order."""
    reader = opened.create_reader(topic, pulsar.MessageId.earliest)
    messages = []
    while reader.has_message_available():
        messages.append(reader.read_next(RECEIVE_TIMEOUT_MS))
    reader.close()
    return messages


def facts(message: Any) -> tuple[bytes, str, dict[str, str], int]:
    """What must survive replication: payload, key, properties but for the mark of the way, event time."""
    properties = {key: value for key, value in message.properties().items() if key != "headwater.path"}
    return message.data(), message.partition_key(), properties, message.event_timestamp()
