"""State records: every kind of change of durable state that the journal knows, named before its first byte is written.

In a frame a record is its kind, its length and its body, a protobuf message of the table below; numbers are final,
fields are only ever added. A reader refuses a kind that it does not know, because it would bring the views up wrong,
unless bit 7 of the kind byte says that it may be skipped. Records hold deltas, never whole states.

`state` is one kind for whoever keeps keyed values: functions, replication, MQTT sessions. Numbers of kinds of their own
are kept for these, so that a later need of a tighter form does not renumber anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

from gateway.errors import LogError
from gateway.wire.protobuf import build_classes

SKIPPABLE = 0x80
"""Bit of the kind byte: a reader that does not know the kind goes on without it."""


class RecordKind(IntEnum):
    """Kinds by number. Those without a class below are reserved for the part that will write them."""

    entry = 1
    """Never a state record: entries lie in columns (`frames.py`)."""
    ack = 2
    subscription = 3
    topic = 4
    policy = 5
    schema = 6
    producer = 7
    state = 8
    function = 9
    mqtt_session = 10
    mqtt_qos2 = 11
    mqtt_retained = 12
    replication_confirmed = 13
    replication_start_bound = 14
    replication_lane = 15
    clock_anchor = 16
    gap = 17
    thinned = 18
    packed = 19
    offloaded = 20
    clean_stop = 21
    fleet_release = 22


@dataclass(frozen=True, slots=True)
class Record:
    """A change of durable state."""

    kind: ClassVar[RecordKind]


@dataclass(frozen=True, slots=True)
class TopicRecord(Record):
    """A topic or partition was created, changed or deleted."""

    kind = RecordKind.topic
    ledger_id: int
    """From 1, never reused; 0: a partitioned topic, whose partitions are topics of their own."""
    name: str
    """Full name, partition included."""
    partitions: int = 0
    """Of a partitioned topic; else 0."""
    deleted: bool = False
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubscriptionRecord(Record):
    """A durable subscription was created or deleted."""

    kind = RecordKind.subscription
    subscription_id: int
    """From 1, never reused."""
    ledger_id: int
    name: str
    mark_delete: int = -1
    """Entries up to this one count as acknowledged from the start."""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class AckRecord(Record):
    """Acknowledgements of one subscription since its last record: individual, cumulative, batch index."""

    kind = RecordKind.ack
    subscription_id: int
    mark_delete: int
    """All entries up to this one are acknowledged."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Entries acknowledged beyond mark_delete: (first, last), both inclusive, ascending."""
    batches: tuple[tuple[int, int, int], ...] = ()
    """(entry id, batch size, bit mask of the messages still unacknowledged)."""
    reset: bool = False
    """Forget what was acknowledged before (seek)."""


@dataclass(frozen=True, slots=True)
class ProducerRecord(Record):
    """What deduplication must remember of a named producer that the group touched."""

    kind = RecordKind.producer
    ledger_id: int
    name: str
    last_sequence_id: int
    """Signed 64 bits."""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRecord(Record):
    """A namespace's policies were set."""

    kind = RecordKind.policy
    namespace: str
    """tenant/namespace."""
    policies: str = "{}"
    """JSON object; empty: the namespace is deleted."""


@dataclass(frozen=True, slots=True)
class StateRecord(Record):
    """A keyed value that an owner keeps in the log was set or deleted."""

    kind = RecordKind.state
    owner: str
    """Such as `replication/cloud` or `function/clean`."""
    key: str
    value: bytes | None = None
    """None: deleted."""


@dataclass(frozen=True, slots=True)
class CleanStopRecord(Record):
    """The gateway ended in order; nothing was in flight. Writing may go on in the same segment."""

    kind = RecordKind.clean_stop


_TABLE = """
Property
  key 1 ? string
  value 2 ? string
Topic
  ledger_id 1 ? uint64
  name 2 ? string
  partitions 3 ? uint32
  deleted 4 ? bool
  properties 5 * Property
Subscription
  subscription_id 1 ? uint64
  ledger_id 2 ? uint64
  name 3 ? string
  mark_delete 4 ? sint64
  deleted 5 ? bool
Batch
  entry_id 1 ? uint64
  size 2 ? uint32
  unacked 3 ? bytes
Ack
  subscription_id 1 ? uint64
  mark_delete 2 ? sint64
  ranges 3 * uint64
  batches 4 * Batch
  reset 5 ? bool
Producer
  ledger_id 1 ? uint64
  name 2 ? string
  last_sequence_id 3 ? sint64
  epoch 4 ? uint64
Policy
  namespace 1 ? string
  policies 2 ? string
State
  owner 1 ? string
  key 2 ? string
  value 3 ? bytes
  deleted 4 ? bool
"""
_messages = build_classes("headwater.records", _TABLE)
_Topic, _Subscription, _Ack = _messages["Topic"], _messages["Subscription"], _messages["Ack"]
_Producer, _Policy, _State = _messages["Producer"], _messages["Policy"], _messages["State"]


def encode_record(record: Record) -> tuple[int, bytes]:
    """The kind byte and the body of a record."""
    return record.kind, _ENCODERS[type(record)](record)


def decode_record(kind: int, body: bytes) -> Record | None:
    """Read a record. None: an unknown kind that may be skipped. Raises: LogError for one that may not."""
    decoder = _DECODERS.get(kind)
    if decoder is not None:
        return decoder(body)  # type: ignore[no-any-return]
    if kind & SKIPPABLE:
        return None
    raise LogError(
        f"the journal holds records of the unknown kind {kind}", hint="it was written by a newer version: use that one"
    )


def decode_ack(body: bytes) -> AckRecord:
    """Read the body of an ack record."""
    message = _Ack.FromString(body)
    values = iter(message.ranges)
    ranges = []
    after = message.mark_delete
    for skipped, length in zip(values, values, strict=True):
        first = after + 1 + skipped
        after = first + length - 1
        ranges.append((first, after))
    return AckRecord(
        message.subscription_id,
        message.mark_delete,
        tuple(ranges),
        tuple((batch.entry_id, batch.size, int.from_bytes(batch.unacked, "little")) for batch in message.batches),
        message.reset,
    )


def _encode_ack(record: AckRecord) -> bytes:
    message = _Ack(subscription_id=record.subscription_id, mark_delete=record.mark_delete, reset=record.reset)
    after = record.mark_delete
    for first, last in record.ranges:
        # Distance and length rather than ids: one byte each, most of the time.
        message.ranges.append(first - after - 1)
        message.ranges.append(last - first + 1)
        after = last
    for entry_id, size, unacked in record.batches:
        message.batches.add(entry_id=entry_id, size=size, unacked=unacked.to_bytes((size + 7) // 8, "little"))
    return bytes(message.SerializeToString())


def _encode_topic(record: TopicRecord) -> bytes:
    message = _Topic(ledger_id=record.ledger_id, name=record.name, partitions=record.partitions, deleted=record.deleted)
    for key, value in sorted(record.properties.items()):
        message.properties.add(key=key, value=value)
    return bytes(message.SerializeToString())


def _decode_topic(body: bytes) -> TopicRecord:
    message = _Topic.FromString(body)
    properties = {one.key: one.value for one in message.properties}
    return TopicRecord(message.ledger_id, message.name, message.partitions, message.deleted, properties)


def _encode_subscription(record: SubscriptionRecord) -> bytes:
    message = _Subscription(
        subscription_id=record.subscription_id,
        ledger_id=record.ledger_id,
        name=record.name,
        mark_delete=record.mark_delete,
        deleted=record.deleted,
    )
    return bytes(message.SerializeToString())


def _decode_subscription(body: bytes) -> SubscriptionRecord:
    message = _Subscription.FromString(body)
    return SubscriptionRecord(
        message.subscription_id, message.ledger_id, message.name, message.mark_delete, message.deleted
    )


def _encode_producer(record: ProducerRecord) -> bytes:
    message = _Producer(
        ledger_id=record.ledger_id, name=record.name, last_sequence_id=record.last_sequence_id, epoch=record.epoch
    )
    return bytes(message.SerializeToString())


def _decode_producer(body: bytes) -> ProducerRecord:
    message = _Producer.FromString(body)
    return ProducerRecord(message.ledger_id, message.name, message.last_sequence_id, message.epoch)


def _encode_policy(record: PolicyRecord) -> bytes:
    return bytes(_Policy(namespace=record.namespace, policies=record.policies).SerializeToString())


def _decode_policy(body: bytes) -> PolicyRecord:
    message = _Policy.FromString(body)
    return PolicyRecord(message.namespace, message.policies)


def _encode_state(record: StateRecord) -> bytes:
    deleted = record.value is None
    return bytes(_State(owner=record.owner, key=record.key, value=record.value, deleted=deleted).SerializeToString())


def _decode_state(body: bytes) -> StateRecord:
    message = _State.FromString(body)
    return StateRecord(message.owner, message.key, None if message.deleted else message.value)


def _encode_clean_stop(record: CleanStopRecord) -> bytes:
    return b""


def _decode_clean_stop(body: bytes) -> CleanStopRecord:
    return CleanStopRecord()


_ENCODERS: dict[type[Record], Any] = {
    TopicRecord: _encode_topic,
    SubscriptionRecord: _encode_subscription,
    AckRecord: _encode_ack,
    ProducerRecord: _encode_producer,
    PolicyRecord: _encode_policy,
    StateRecord: _encode_state,
    CleanStopRecord: _encode_clean_stop,
}
_DECODERS: dict[int, Any] = {
    RecordKind.topic: _decode_topic,
    RecordKind.subscription: _decode_subscription,
    RecordKind.ack: decode_ack,
    RecordKind.producer: _decode_producer,
    RecordKind.policy: _decode_policy,
    RecordKind.state: _decode_state,
    RecordKind.clean_stop: _decode_clean_stop,
}
