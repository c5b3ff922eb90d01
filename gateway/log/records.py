"""State records: every kind of change of durable state that the journal knows, named before its first byte is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar


class RecordKind(IntEnum):
    """Numbers are final."""

    ack = 2
    subscription = 3
    topic = 4
    policy = 5
    producer = 7
    state = 8
    clean_stop = 21


@dataclass(frozen=True, slots=True)
class Record:
    kind: ClassVar[RecordKind]


@dataclass(frozen=True, slots=True)
class TopicRecord(Record):
    kind = RecordKind.topic
    ledger_id: int
    name: str
    partitions: int = 0
    deleted: bool = False
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubscriptionRecord(Record):
    kind = RecordKind.subscription
    subscription_id: int
    ledger_id: int
    name: str
    mark_delete: int = -1
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class AckRecord(Record):
    kind = RecordKind.ack
    subscription_id: int
    mark_delete: int
    ranges: tuple[tuple[int, int], ...] = ()
    """Entries acknowledged beyond mark_delete: (first, last), both inclusive."""
    batches: tuple[tuple[int, int, int], ...] = ()
    """(entry id, batch size, bit mask of the messages still unacknowledged)."""
    reset: bool = False
    """Forget what was acknowledged before (seek)."""


@dataclass(frozen=True, slots=True)
class ProducerRecord(Record):
    kind = RecordKind.producer
    ledger_id: int
    name: str
    last_sequence_id: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRecord(Record):
    kind = RecordKind.policy
    namespace: str
    policies: str = "{}"
    """JSON object; empty: the namespace is deleted."""


@dataclass(frozen=True, slots=True)
class StateRecord(Record):
    kind = RecordKind.state
    owner: str
    key: str
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class CleanStopRecord(Record):
    kind = RecordKind.clean_stop
