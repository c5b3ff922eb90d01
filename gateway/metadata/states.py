"""What the views say about a topic, its subscriptions and its producers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.metadata.cursor import CursorState


class ProducerState(NamedTuple):
    """What deduplication remembers of a named producer."""

    last_sequence_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A durable subscription. The cursor belongs to the caller."""

    subscription_id: int
    name: str
    cursor: CursorState


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic (or one partition of one) as of the last durable group."""

    name: str
    ledger_id: int
    """0: a partitioned topic, whose partitions are topics of their own."""
    partitions: int
    next_entry_id: int
    properties: dict[str, str] = field(default_factory=dict)
    subscriptions: tuple[SubscriptionState, ...] = ()
    producers: dict[str, ProducerState] = field(default_factory=dict)


class TopicSummary(NamedTuple):
    """A topic in a list."""

    name: str
    ledger_id: int
    partitions: int
    next_entry_id: int
