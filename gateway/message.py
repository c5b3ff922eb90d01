"""Messages as applications see them, and where they stand in a topic. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Position(NamedTuple):
    """Where an entry stands. Compares as signed integers, ledger first."""

    ledger_id: int
    entry_id: int


EARLIEST = Position(-1, -1)
"""Before the first entry. Source: Pulsar's MessageId.earliest."""
LATEST = Position(2**63 - 1, 2**63 - 1)
"""After the last entry. Source: Pulsar's MessageId.latest."""


class MessageId(NamedTuple):
    """Where a message stands: an entry, and the index within its batch."""

    ledger_id: int
    entry_id: int
    partition: int = -1
    """-1: the topic is not partitioned."""
    batch_index: int = -1
    """-1: the entry is no batch."""
    batch_size: int = 0
    """Messages in the entry's batch; 0: the entry is no batch."""

    @property
    def position(self) -> Position:
        return Position(self.ledger_id, self.entry_id)

    def __str__(self) -> str:
        """`ledger:entry:partition[:batch index]`, as Pulsar prints it."""
        text = f"{self.ledger_id}:{self.entry_id}:{self.partition}"
        return text if self.batch_index < 0 else f"{text}:{self.batch_index}"


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """What an application asks to publish."""

    payload: bytes
    key: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    event_time_ms: int = 0
    """Milliseconds since 1970; 0: none."""
    ordering_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What an application receives."""

    topic: str
    """The full name, partition included."""
    message_id: MessageId
    payload: bytes
    key: str | None
    properties: dict[str, str]
    publish_time_ms: int
    event_time_ms: int
    producer_name: str
    sequence_id: int
    redelivery_count: int = 0


class SubscriptionType(IntEnum):
    """Who gets an entry of a subscription. Values: PulsarApi.proto, CommandSubscribe.SubType."""

    exclusive = 0
    shared = 1
    failover = 2
    key_shared = 3


class InitialPosition(IntEnum):
    """Where a new subscription begins. Values: PulsarApi.proto, CommandSubscribe.InitialPosition."""

    latest = 0
    earliest = 1


class Entry(NamedTuple):
    """What a topic stores and a consumer is sent: opaque bytes with their place."""

    position: Position
    data: bytes
    """From the CRC32C magic (0x0e01) on: checksum, metadata, payload, exactly as the producer sent them."""
    messages: int
    """Messages in the entry's batch; 1 if it is none."""
