"""The promise of the door to topics: what a client, a producer, a consumer and a reader do, wherever the broker is.

`local` keeps it in the daemon's own process, `remote` over Pulsar's protocol; one contract suite runs over both.
Entries pass through as bytes: the implementations move entries, this module turns them into messages where a caller
wants messages. It never knows how a broker stores anything.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.client.chunks import ChunkAssembler
from gateway.client.messages import decode_entry, encode_entry
from gateway.errors import GatewayError
from gateway.message import (
    EARLIEST,
    LATEST,
    Entry,
    InitialPosition,
    Message,
    MessageId,
    OutgoingMessage,
    Position,
    SubscriptionType,
)

RECEIVER_QUEUE_SIZE = 1_000
"""Messages a consumer asks for ahead of `receive`. Source: Pulsar's clients."""


ReceiptCallback = Callable[[int, Position, GatewayError | None], None]
"""Called with the sequence id, and the entry's position (Position(-1, -1): a duplicate) or the error."""


class TopicInfo(NamedTuple):
    """A topic that exists."""

    name: str
    """Full name. A partitioned topic appears as its partitions."""
    ledger_id: int
    """-1 where the broker does not say (over the wire)."""
    last_entry_id: int
    """Of the last durable entry; -1: none, or not said."""


class ReceivedEntry(NamedTuple):
    """An entry on its way to one consumer."""

    topic: str
    entry: Entry
    partition: int
    """-1: the topic is not partitioned."""
    redelivery_count: int
    ack_set: tuple[int, ...]
    """Signed 64-bit words, bit i set: message i is still to be delivered. Empty: all are."""


class Ack(NamedTuple):
    """An acknowledgement inside a commit."""

    consumer: Consumer
    message_id: MessageId
    cumulative: bool = False


class Output(NamedTuple):
    """An entry to publish inside a commit."""

    producer: Producer
    data: bytes
    """A whole entry, from the CRC32C magic on."""
    sequence_id: int
    messages: int = 1


class StateChange(NamedTuple):
    """A keyed value that an owner keeps in the log: `value` None deletes the key."""

    owner: str
    """Who keeps it, such as `replication/cloud` or `function/clean`."""
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Changes that become durable together or not at all."""

    acks: Sequence[Ack] = ()
    outputs: Sequence[Output] = ()
    state: Sequence[StateChange] = ()


@dataclass(frozen=True, slots=True)
class ProducerOptions:
    """How a producer introduces itself."""

    name: str | None = None
    """Stable across restarts where deduplication is wanted; None: the broker invents one."""
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How a consumer takes part in a subscription."""

    subscription_type: SubscriptionType = SubscriptionType.exclusive
    initial_position: InitialPosition = InitialPosition.latest
    """Where the subscription begins, if this creates it."""
    name: str = ""
    receiver_queue_size: int = RECEIVER_QUEUE_SIZE
    """Messages asked for ahead; at least 1."""
    priority_level: int = 0


class Producer(ABC):
    """Publishes to one topic. `topic`, `name` and `last_sequence_id` are known from creation on."""

    topic: str
    name: str
    last_sequence_id: int
    """The highest sequence id the broker holds under this name (-1: none), then the last one given out here."""

    @abstractmethod
    def send_entry(
        self, data: bytes, *, sequence_id: int, highest_sequence_id: int | None = None, messages: int = 1
    ) -> asyncio.Future[Position]:
        """Publish one entry, from its CRC32C magic on, as it is.

        The future's result is the entry's position, when it is durable; Position(-1, -1) for a duplicate. Entries of
        one producer are stored in the order of the calls. Raises (from the future): StorageUnavailable,
        ProducerFenced, BrokerError; ProtocolError if the connection was lost before the receipt, so that the caller
        doesn't know.
        """

    async def send(self, message: OutgoingMessage) -> MessageId:
        """Publish one message and return when it is durable. Raises: as `send_entry`."""
        self.last_sequence_id += 1
        data = encode_entry(
            message,
            producer_name=self.name,
            sequence_id=self.last_sequence_id,
            # What a publisher says about its own clock, as every Pulsar client does; nothing is ordered by it.
            publish_time_ms=time.time_ns() // 1_000_000,
        )
        position = await self.send_entry(data, sequence_id=self.last_sequence_id)
        return MessageId(position.ledger_id, position.entry_id)

    def publish(self, data: bytes, *, sequence_id: int, messages: int, on_receipt: ReceiptCallback) -> None:
        """As `send_entry`, for callers with thousands of entries under way: a call instead of a future for each.

        `on_receipt` is called on the event loop with the sequence id and the position, or with the error.
        Raises: GatewayError where nothing was sent, so that `on_receipt` is not called.
        """

        def settle(future: asyncio.Future[Position]) -> None:
            error = future.exception()
            if error is None:
                on_receipt(sequence_id, future.result(), None)
            else:
                assert isinstance(error, GatewayError)
                on_receipt(sequence_id, EARLIEST, error)

        self.send_entry(data, sequence_id=sequence_id, messages=messages).add_done_callback(settle)

    @abstractmethod
    async def flush(self) -> None:
        """Return when everything sent so far is durable or has failed."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the name. What was sent and not confirmed is confirmed or fails first."""


class Consumer(ABC):
    """Receives a subscription's share of one topic. Not safe for concurrent `receive` calls."""

    topic: str
    subscription: str

    def __init__(self) -> None:
        self._opened: deque[Message] = deque()
        self._chunks = ChunkAssembler()

    @abstractmethod
    async def receive_entry(self) -> ReceivedEntry:
        """Wait for the next entry and take it, whole. Raises: BrokerError, ProtocolError when the consumer was
        closed."""

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises: as `receive_entry`; ProtocolError also for an entry that can't be opened (damaged, or in a compression
        that is not installed). It stays unacknowledged, and the next call goes on behind it.
        """
        while not self._opened:
            received = await self.receive_entry()
            self._opened.extend(decode_entry(received, self._chunks))
        return self._opened.popleft()

    def _forget_opened(self, message_id: MessageId | None) -> None:
        """Drop what is here, opened, of an entry that will come again (None: of all that will)."""
        if message_id is None:
            self._opened.clear()
        else:
            kept = [message for message in self._opened if message.message_id.position != message_id.position]
            self._opened = deque(kept)

    def _entries_of(self, message_id: MessageId) -> list[MessageId]:
        """Where a message stands: more than one entry if it came in chunks. To be asked once, when it is done with."""
        others = self._chunks.take_places(message_id.position)
        return [*(MessageId(*place, message_id.partition) for place in others), message_id]

    @abstractmethod
    def acknowledge(self, message_id: MessageId) -> None:
        """Say that this message is done with. Durable with the next commit; a crash before that redelivers it.

        A `batch_index` acknowledges one message of a batch, its absence the whole entry; for a message that came in
        chunks, the entries of all of them.
        """

    @abstractmethod
    def acknowledge_cumulative(self, message_id: MessageId) -> None:
        """Say that all messages up to and including this one are done with (exclusive and failover only)."""

    @abstractmethod
    def negative_acknowledge(self, message_id: MessageId) -> None:
        """Ask for this message's entry to be delivered again, at once, its redelivery count one higher."""

    @abstractmethod
    async def seek(self, position: Position) -> None:
        """Move the subscription so that the entry at `position` is the next; durable on return."""

    @abstractmethod
    async def last_message_id(self) -> MessageId:
        """The last durable message of the topic; entry id -1: the topic is empty."""

    @abstractmethod
    async def unsubscribe(self) -> None:
        """Delete the subscription and close; durable on return. Raises: ConsumerBusy while others are connected."""

    @abstractmethod
    async def close(self) -> None:
        """Leave; what was delivered and not acknowledged goes back to the subscription."""


class Reader(ABC):
    """Reads one topic from a place on, without a subscription that outlives it."""

    topic: str

    def __init__(self) -> None:
        self._opened: deque[Message] = deque()
        self._chunks = ChunkAssembler()

    @abstractmethod
    async def read_entry(self) -> ReceivedEntry:
        """Wait for the next entry and take it, whole. Raises: as Consumer.receive_entry."""

    async def read(self) -> Message:
        """Wait for the next message.

        Raises: as `read_entry`; ProtocolError also for an entry that can't be opened. The next call goes on behind it.
        """
        while not self._opened:
            received = await self.read_entry()
            self._opened.extend(decode_entry(received, self._chunks))
        return self._opened.popleft()

    @property
    def has_opened_messages(self) -> bool:
        """Whether `read` would return a message of a batch that is already here."""
        return bool(self._opened)

    async def read_entries(self, entries_max: int) -> Sequence[ReceivedEntry]:
        """Wait for an entry and take it, with those that are there already: `entries_max` at most."""
        return [await self.read_entry()]

    @abstractmethod
    async def has_entry_available(self) -> bool:
        """Whether `read_entry` would return a stored entry without waiting for a new one to be published."""

    @abstractmethod
    async def close(self) -> None:
        """Leave."""


class Client(ABC):
    """A way to topics."""

    @abstractmethod
    async def create_producer(self, topic: str, options: ProducerOptions = ProducerOptions()) -> Producer:
        """Open `topic` for publishing; it is created if its namespace allows. Raises: BrokerError."""

    @abstractmethod
    async def subscribe(self, topic: str, subscription: str, options: ConsumerOptions = ConsumerOptions()) -> Consumer:
        """Join a durable subscription, which is created durably if missing. Raises: ConsumerBusy, BrokerError."""

    @abstractmethod
    async def create_reader(
        self,
        topic: str,
        start: Position = LATEST,
        *,
        since_ms: int | None = None,
        receiver_queue_size: int = RECEIVER_QUEUE_SIZE,
    ) -> Reader:
        """Read from the entry at `start` (inclusive) on; EARLIEST: from the first, LATEST: what is published from now
        on.

        `since_ms` (milliseconds since 1970) goes before `start`: from the first entry published at or after that time.
        """

    @abstractmethod
    async def topics(self, namespace: str) -> list[TopicInfo]:
        """The persistent topics of `tenant/namespace`, by name; partitions one by one. Empty if it does not exist."""

    @abstractmethod
    async def partitions(self, topic: str) -> int:
        """The number of partitions; 0: the topic is not partitioned, or does not exist."""

    @abstractmethod
    async def commit(self, commit: Commit) -> list[Position]:
        """Make acks, outputs and state durable together, and return the outputs' positions in order.

        One refused output (quota, fencing, a name not allowed) refuses the whole: nothing of it is applied. A duplicate
        output is skipped and reported as Position(-1, -1). Only what shares the log's process can promise this.
        Raises: BrokerError; NotAllowed where the broker is remote.
        """

    @abstractmethod
    async def load_state(self, owner: str) -> dict[str, bytes]:
        """All keys that `owner` committed. Raises: NotAllowed where the broker is remote."""

    @abstractmethod
    async def close(self) -> None:
        """Close what this client opened."""
