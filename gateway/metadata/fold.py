"""Gathers what committed groups change, so that the views are brought up to date once for many groups. Pure.

A fold is what lies between two journal positions, coalesced: of ten thousand acks one cursor delta remains. Applying
folds one after the other gives the same views as applying their groups one by one, wherever the cuts lie; a test holds
that against views made from the journal alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.log.positions import BEFORE_JOURNAL, JournalPosition, Run
from gateway.log.records import (
    AckRecord,
    PolicyRecord,
    ProducerRecord,
    Record,
    StateRecord,
    SubscriptionRecord,
    TopicRecord,
)
from gateway.metadata.cursor import CursorState

RECORD_WEIGHT = 400
"""Bytes of memory that a record leaves in a fold, with names and dictionaries; a state record's value comes on top."""


class CursorChange:
    """Acknowledgements to add to a cursor, or to replace it with."""

    __slots__ = ("cursor", "reset")

    def __init__(self, cursor: CursorState, reset: bool) -> None:
        self.cursor = cursor
        self.reset = reset
        """The cursor replaces what was there."""

    def apply(self, record: AckRecord) -> None:
        """Add a later delta."""
        self.cursor.apply(record)
        self.reset = self.reset or record.reset

    def record(self, subscription_id: int) -> AckRecord:
        """The change as one delta."""
        return self.cursor.snapshot(subscription_id, reset=self.reset)


class Fold:
    """The changes of consecutive groups. Every field says what is true at the end, not how it came about."""

    def __init__(self, position: JournalPosition = BEFORE_JOURNAL) -> None:
        self.position = position
        """Of the last group that was applied; at first, where the fold begins."""
        self.groups = 0
        self.weight = 0
        """Bytes of memory, roughly; an upper bound, because what replaces something counts again."""
        self.topics: dict[str, TopicRecord] = {}
        """By name; a deleted one says so."""
        self.deleted_ledgers: set[int] = set()
        """Ledgers whose subscriptions and producers go."""
        self.next_entry_ids: dict[int, int] = {}
        """By ledger id."""
        self.subscriptions: dict[int, SubscriptionRecord] = {}
        """By id; a deleted one says so."""
        self.cursors: dict[int, CursorChange] = {}
        """By subscription id."""
        self.producers: dict[tuple[int, str], tuple[int, int]] = {}
        """(ledger id, name) -> (last sequence id, epoch)."""
        self.policies: dict[str, str] = {}
        """Namespace -> JSON; empty: the namespace is deleted."""
        self.state: dict[tuple[str, str], bytes | None] = {}
        """(owner, key) -> value; None: deleted."""
        self.ledger_id_max = 0
        self.subscription_id_max = 0

    @property
    def empty(self) -> bool:
        """No group was applied."""
        return not self.groups

    def apply(self, position: JournalPosition, runs: Iterable[Run], records: Iterable[Record]) -> None:
        """Add a group: its records in order, then its entries."""
        assert position > self.position, "groups are folded in the order of the journal"
        self.position = position
        self.groups += 1
        for record in records:
            self.weight += RECORD_WEIGHT
            if isinstance(record, AckRecord):
                self._ack(record)
            elif isinstance(record, ProducerRecord):
                self.producers[record.ledger_id, record.name] = (record.last_sequence_id, record.epoch)
            elif isinstance(record, StateRecord):
                self.state[record.owner, record.key] = record.value
                self.weight += len(record.value or b"")
            elif isinstance(record, SubscriptionRecord):
                self._subscription(record)
            elif isinstance(record, TopicRecord):
                self._topic(record)
            elif isinstance(record, PolicyRecord):
                self.policies[record.namespace] = record.policies
        for ledger_id, first_entry_id, entries, _ in runs:
            next_entry_id = first_entry_id + entries
            if next_entry_id > self.next_entry_ids.get(ledger_id, 0):
                self.next_entry_ids[ledger_id] = next_entry_id

    def append(self, later: Fold) -> None:
        """Add a fold of the groups that follow."""
        for ledger_id in later.deleted_ledgers:
            self.deleted_ledgers.add(ledger_id)
            self._forget_ledger(ledger_id)
        self.topics.update(later.topics)
        self.policies.update(later.policies)
        self.state.update(later.state)
        self.producers.update(later.producers)
        for ledger_id, next_entry_id in later.next_entry_ids.items():
            self.next_entry_ids[ledger_id] = max(next_entry_id, self.next_entry_ids.get(ledger_id, 0))
        for subscription_id, subscription in later.subscriptions.items():
            self.subscriptions[subscription_id] = subscription
            self.cursors.pop(subscription_id, None)
        for subscription_id, change in later.cursors.items():
            self._ack(change.record(subscription_id))
        self.ledger_id_max = max(self.ledger_id_max, later.ledger_id_max)
        self.subscription_id_max = max(self.subscription_id_max, later.subscription_id_max)
        self.position = max(self.position, later.position)
        self.groups += later.groups
        self.weight += later.weight

    def _ack(self, record: AckRecord) -> None:
        change = self.cursors.get(record.subscription_id)
        if change is None:
            change = self.cursors[record.subscription_id] = CursorChange(CursorState(), False)
        change.apply(record)

    def _subscription(self, record: SubscriptionRecord) -> None:
        subscription_id = record.subscription_id
        self.subscription_id_max = max(self.subscription_id_max, subscription_id)
        self.subscriptions[subscription_id] = record
        if record.deleted:
            self.cursors.pop(subscription_id, None)
        else:
            self.cursors[subscription_id] = CursorChange(CursorState(record.mark_delete), True)

    def _topic(self, record: TopicRecord) -> None:
        self.ledger_id_max = max(self.ledger_id_max, record.ledger_id)
        self.topics[record.name] = record
        if record.deleted:
            self.deleted_ledgers.add(record.ledger_id)
            self._forget_ledger(record.ledger_id)

    def _forget_ledger(self, ledger_id: int) -> None:
        self.next_entry_ids.pop(ledger_id, None)
        for key in [key for key in self.producers if key[0] == ledger_id]:
            del self.producers[key]
        for subscription in [one for one in self.subscriptions.values() if one.ledger_id == ledger_id]:
            self.subscriptions[subscription.subscription_id] = replace(subscription, deleted=True)
            self.cursors.pop(subscription.subscription_id, None)
