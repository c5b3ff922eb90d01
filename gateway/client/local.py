"""The door inside the daemon's own process: a client that calls the broker directly.

It keeps the same promises as `remote`, and one more: `commit`, because it shares the log's process.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from functools import partial

from gateway.broker.broker import Broker, state_size
from gateway.broker.consumer import Consumer as BrokerConsumer
from gateway.broker.producer import Producer as BrokerProducer
from gateway.broker.seek import first_entry_published_since
from gateway.broker.subscription import Subscription
from gateway.broker.topic import DUPLICATE, Topic, wait_for_last_group
from gateway.client.api import (
    RECEIVER_QUEUE_SIZE,
    Client,
    Commit,
    Consumer,
    ConsumerOptions,
    Producer,
    ProducerOptions,
    Reader,
    ReceivedEntry,
    TopicInfo,
)
from gateway.errors import BrokerError, LogError, NotAllowed, ProducerFenced, StorageUnavailable
from gateway.limits import ATOMIC_UNIT_SIZE_MAX, CONNECTION_WRITE_BUFFER_MAX
from gateway.log import PendingGroup, StoredEntry
from gateway.log.records import StateRecord
from gateway.message import LATEST, Entry, InitialPosition, MessageId, Position, SubscriptionType
from gateway.names import NamespaceName, TopicName
from gateway.wire.acks import mask_of_words, still_unacked
from gateway.wire.entry import parse_metadata

DUPLICATE_POSITION = Position(-1, -1)


class LocalClient(Client):
    """A client of the broker in this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ids = itertools.count()
        self._open: set[LocalProducer | LocalConsumer | LocalReader] = set()

    async def create_producer(self, topic: str, options: ProducerOptions = ProducerOptions()) -> LocalProducer:
        opened = await self._broker.topic(TopicName.parse(topic))
        self._broker.check_accepting()
        producer = LocalProducer(self._open, opened)
        await producer.open(options.name or self._broker.new_producer_name(), generated_name=options.name is None)
        self._open.add(producer)
        return producer

    async def subscribe(
        self, topic: str, subscription: str, options: ConsumerOptions = ConsumerOptions()
    ) -> LocalConsumer:
        opened = await self._broker.topic(TopicName.parse(topic))
        present = opened.subscriptions.get(subscription)
        if present is None:
            earliest = options.initial_position is InitialPosition.earliest
            present = await opened.subscription(
                subscription,
                next_entry_id=0 if earliest else opened.durable_end,
                new_subscription_id=self._broker.new_subscription_id,
            )
        consumer = LocalConsumer(self._open, present, options, next(self._ids))
        consumer.inbox.join()
        self._open.add(consumer)
        return consumer

    async def create_reader(
        self,
        topic: str,
        start: Position = LATEST,
        *,
        since_ms: int | None = None,
        receiver_queue_size: int = RECEIVER_QUEUE_SIZE,
    ) -> LocalReader:
        opened = await self._broker.topic(TopicName.parse(topic))
        identity = next(self._ids)
        first = opened.first_from(start) if since_ms is None else await first_entry_published_since(opened, since_ms)
        subscription = opened.reader_subscription(f"reader-{id(self):x}-{identity}", next_entry_id=first)
        reader = LocalReader(self._open, subscription, receiver_queue_size, identity)
        reader.inbox.join()
        self._open.add(reader)
        return reader

    async def topics(self, namespace: str) -> list[TopicInfo]:
        summaries = await self._broker.list_topics(NamespaceName.parse(namespace))
        return [
            TopicInfo(summary.name, summary.ledger_id, self._broker.log.reader.last_entry_id(summary.ledger_id))
            for summary in summaries
            if summary.ledger_id
        ]

    async def partitions(self, topic: str) -> int:
        return await self._broker.partitions(TopicName.parse(topic))

    async def commit(self, commit: Commit) -> list[Position]:
        state = [StateRecord(change.owner, change.key, change.value) for change in commit.state]
        outputs = [(_local(output.producer), output) for output in commit.outputs]
        size = state_size(state) + sum(len(output.data) + 64 for _, output in outputs)
        if size > ATOMIC_UNIT_SIZE_MAX:
            raise NotAllowed(f"an atomic commit of {size} bytes; at most {ATOMIC_UNIT_SIZE_MAX} fit into one group")
        for producer, _ in outputs:
            producer.check_open()
        acks = [(_local_consumer(ack.consumer), ack) for ack in commit.acks]
        self._broker.check_accepting()
        positions: list[Position] = []

        def add(group: PendingGroup) -> None:
            # Nothing in here yields: what is appended, acknowledged and stored stands in one group.
            for producer, output in outputs:
                positions.append(producer.append(output.data, output.sequence_id, output.messages))
            for consumer, ack in acks:
                consumer.take_ack(ack.message_id, cumulative=ack.cumulative)
            for subscription in {consumer.inbox.subscription for consumer, _ in acks}:
                subscription.add_changes(group)
            for record in state:
                group.add_record(record)

        await self._broker.commit(size + 256 * len(acks), add)
        return positions

    async def load_state(self, owner: str) -> dict[str, bytes]:
        return await self._broker.load_state(owner)

    async def close(self) -> None:
        for opened in tuple(self._open):
            await opened.close()


class LocalProducer(Producer):
    """A producer whose entries go straight into the pending commit group."""

    def __init__(self, registry: set[LocalProducer | LocalConsumer | LocalReader], topic: Topic) -> None:
        self.topic = topic.full_name
        self.name = ""
        self.last_sequence_id = -1
        self._registry = registry
        self._topic = topic
        self._producer: BrokerProducer | None = None
        self._group: PendingGroup | None = None
        self._waiting: list[tuple[asyncio.Future[Position], Position]] = []
        self._loop = asyncio.get_running_loop()

    async def open(self, name: str, *, generated_name: bool) -> None:
        """Take the name. Raises: ProducerBusy."""
        self._producer = await self._topic.add_producer(
            self, producer_id=id(self), name=name, generated_name=generated_name, epoch=0
        )
        await wait_for_last_group(self._topic)
        self.name = name
        self.last_sequence_id = self._producer.last_sequence_id

    def check_open(self) -> BrokerProducer:
        """Raises: ProducerFenced when the broker took the producer away, or it was closed."""
        if self._producer is None or self._producer.closed:
            raise ProducerFenced(f"producer '{self.name}' of {self.topic} is closed")
        return self._producer

    def append(self, data: bytes, sequence_id: int, messages: int) -> Position:
        """Append without waiting; DUPLICATE_POSITION if it is stored. Raises: StorageUnavailable, ProducerFenced."""
        entry_id = self._topic.append(self.check_open(), data, sequence_id, messages)
        return DUPLICATE_POSITION if entry_id == DUPLICATE else Position(self._topic.ledger_id, entry_id)

    def send_entry(
        self, data: bytes, *, sequence_id: int, highest_sequence_id: int | None = None, messages: int = 1
    ) -> asyncio.Future[Position]:
        future: asyncio.Future[Position] = self._loop.create_future()
        key = sequence_id if highest_sequence_id is None else max(sequence_id, highest_sequence_id)
        self.last_sequence_id = max(self.last_sequence_id, key)
        try:
            position = self.append(data, key, messages)
        except BrokerError as error:
            future.set_exception(error)
            return future
        group = self._topic.last_group
        if group is None:
            future.set_result(position)
            return future
        if group is not self._group:
            self._group = group
            self._waiting = []
            group.when_durable(partial(self._group_done, self._waiting))
        self._waiting.append((future, position))
        return future

    async def flush(self) -> None:
        await wait_for_last_group(self._topic)

    async def close(self) -> None:
        self._registry.discard(self)
        if self._producer is not None:
            await wait_for_last_group(self._topic)
            self._topic.remove_producer(self._producer)

    def _group_done(self, waiting: list[tuple[asyncio.Future[Position], Position]], error: LogError | None) -> None:
        if waiting is self._waiting:
            self._group = None
        for future, position in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(position)
            else:
                future.set_exception(StorageUnavailable(str(error), hint=error.hint))

    # ProducerOwner

    async def is_alive(self) -> bool:
        return True

    def producer_closed(self, producer: BrokerProducer) -> None:
        """Nothing to tell: the next send says so."""


class Inbox:
    """What a subscription delivered to a local consumer or reader and was not taken yet."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        identity: int,
        subscription_type: SubscriptionType,
        name: str,
        queue_size: int,
        priority_level: int = 0,
    ) -> None:
        self.subscription = subscription
        self._identity = identity
        self._subscription_type = subscription_type
        self._name = name
        self._queue_size = max(1, queue_size)
        self._priority_level = priority_level
        self._entries: deque[tuple[ReceivedEntry, int]] = deque()
        self._held_bytes = 0
        self._taken = 0
        """Messages taken since permits were last given back."""
        self._consumer: BrokerConsumer | None = None
        self._arrived = asyncio.Event()
        self.closed = False

    def join(self) -> None:
        """Become a consumer of the subscription. Raises: ConsumerBusy, NotAllowed."""
        self.writable = True
        consumer = BrokerConsumer(
            self,
            self.subscription,
            consumer_id=self._identity,
            name=self._name,
            priority_level=self._priority_level,
        )
        self.subscription.add_consumer(consumer, self._subscription_type)
        self._consumer = consumer
        consumer.permits += self._queue_size
        self.subscription.wake()

    @property
    def consumer(self) -> BrokerConsumer:
        assert self._consumer is not None
        return self._consumer

    async def take(self) -> ReceivedEntry:
        """Wait for an entry and take it. Raises: BrokerError when the consumer is closed."""
        while not self._entries:
            if self.closed:
                raise NotAllowed(f"the consumer of {self.subscription.topic.full_name} is closed")
            self._arrived.clear()
            await self._arrived.wait()
        return self._pop()

    def take_available(self, entries_max: int) -> list[ReceivedEntry]:
        """Take what is there, without waiting."""
        return [self._pop() for _ in range(min(entries_max, len(self._entries)))]

    def _pop(self) -> ReceivedEntry:
        received, messages = self._entries.popleft()
        self._held_bytes -= len(received.entry.data)
        self._taken += messages
        if self._taken * 2 >= self._queue_size or not self._entries:
            self.consumer.permits += self._taken
            self._taken = 0
            self.writable = self._held_bytes < CONNECTION_WRITE_BUFFER_MAX
            if not self.closed:
                asyncio.get_running_loop().call_soon(self.subscription.wake)
        return received

    def leave(self) -> None:
        """Stop consuming; waiting takers are told."""
        self.closed = True
        if self._consumer is not None:
            self.subscription.remove_consumer(self._consumer)
        self.subscription.topic.drop_if_unused(self.subscription)
        self._arrived.set()

    def give_back(self) -> None:
        """Forget what was delivered and not taken: it comes again. Its permits are there again, too."""
        self.consumer.permits += self._taken + sum(messages for _, messages in self._entries)
        self._forget()

    def _forget(self) -> None:
        self._entries.clear()
        self._held_bytes = 0
        self._taken = 0
        self.writable = True

    # ConsumerOwner

    writable = True

    def deliver(
        self, consumer: BrokerConsumer, entry: StoredEntry, redelivery_count: int, ack_set: tuple[int, ...]
    ) -> None:
        topic = self.subscription.topic
        received = ReceivedEntry(
            topic.full_name,
            Entry(Position(topic.ledger_id, entry.entry_id), entry.data, entry.messages),
            topic.partition,
            redelivery_count,
            ack_set,
        )
        charged = mask_of_words(ack_set, entry.messages).bit_count() if ack_set else entry.messages
        self._entries.append((received, charged))
        self._held_bytes += len(entry.data)
        self.writable = self._held_bytes < CONNECTION_WRITE_BUFFER_MAX
        self._arrived.set()

    def consumer_closed(self, consumer: BrokerConsumer) -> None:
        """After a seek: come back, as a remote client would. After a deletion or unloading: closed."""
        self._forget()
        subscription = self.subscription
        if subscription.deleted or subscription.topic.subscriptions.get(subscription.name) is not subscription:
            self.closed = True
            self._arrived.set()
        else:
            asyncio.get_running_loop().call_soon(self._join_again)

    def _join_again(self) -> None:
        if not self.closed:
            try:
                self.join()
            except BrokerError:
                self.closed = True
                self._arrived.set()

    def active_changed(self, consumer: BrokerConsumer, active: bool) -> None:
        """Nobody asks."""


class LocalConsumer(Consumer):
    """A consumer inside the daemon."""

    def __init__(
        self,
        registry: set[LocalProducer | LocalConsumer | LocalReader],
        subscription: Subscription,
        options: ConsumerOptions,
        identity: int,
    ) -> None:
        super().__init__()
        self.topic = subscription.topic.full_name
        self.subscription = subscription.name
        self._registry = registry
        self.inbox = Inbox(
            subscription,
            identity=identity,
            subscription_type=options.subscription_type,
            name=options.name or f"local-{identity}",
            queue_size=options.receiver_queue_size,
            priority_level=options.priority_level,
        )

    async def receive_entry(self) -> ReceivedEntry:
        return await self.inbox.take()

    def acknowledge(self, message_id: MessageId) -> None:
        self.take_ack(message_id, cumulative=False)

    def acknowledge_cumulative(self, message_id: MessageId) -> None:
        self.take_ack(message_id, cumulative=True)

    def take_ack(self, message_id: MessageId, *, cumulative: bool) -> None:
        """Move the cursor; durable with the next commit group."""
        if cumulative:
            self._take_ack(message_id, cumulative=True)
            return
        for entry in self._entries_of(message_id):
            self._take_ack(entry, cumulative=False)

    def _take_ack(self, message_id: MessageId, *, cumulative: bool) -> None:
        subscription = self.inbox.subscription
        ack_set: list[int] | None = None
        if message_id.batch_index >= 0 and message_id.batch_size > 1:
            ack_set = still_unacked(message_id.batch_index, message_id.batch_size, cumulative=cumulative)
        acknowledge = subscription.acknowledge_cumulative if cumulative else subscription.acknowledge
        acknowledge(message_id.entry_id, ack_set, message_id.batch_size)

    def negative_acknowledge(self, message_id: MessageId) -> None:
        subscription = self.inbox.subscription
        if subscription.subscription_type in (SubscriptionType.exclusive, SubscriptionType.failover):
            self.inbox.give_back()
            self._forget_opened(None)
        else:
            self._forget_opened(message_id)
        entry_ids = [entry.entry_id for entry in self._entries_of(message_id)]
        subscription.dispatcher.redeliver(self.inbox.consumer, entry_ids)
        asyncio.get_running_loop().call_soon(subscription.wake)

    async def seek(self, position: Position) -> None:
        subscription = self.inbox.subscription
        await subscription.seek(subscription.topic.first_from(position))
        self._opened.clear()

    async def last_message_id(self) -> MessageId:
        return await last_message_id(self.inbox.subscription.topic)

    async def unsubscribe(self) -> None:
        await self.inbox.subscription.delete(by=self.inbox.consumer)
        await self.close()

    async def close(self) -> None:
        self._registry.discard(self)
        self.inbox.leave()


class LocalReader(Reader):
    """A reader inside the daemon. It acknowledges what it takes, so that its cursor holds no more than its queue."""

    def __init__(
        self,
        registry: set[LocalProducer | LocalConsumer | LocalReader],
        subscription: Subscription,
        queue_size: int,
        identity: int,
    ) -> None:
        super().__init__()
        self.topic = subscription.topic.full_name
        self._registry = registry
        self._next_entry_id = subscription.cursor.mark_delete + 1
        self.inbox = Inbox(
            subscription,
            identity=identity,
            subscription_type=SubscriptionType.exclusive,
            name=subscription.name,
            queue_size=queue_size,
        )

    async def read_entry(self) -> ReceivedEntry:
        received = await self.inbox.take()
        self._moved_to(received.entry.position.entry_id)
        return received

    async def read_entries(self, entries_max: int) -> Sequence[ReceivedEntry]:
        """Wait for an entry and take it with those that are there already, `entries_max` at most."""
        entries = [await self.inbox.take(), *self.inbox.take_available(entries_max - 1)]
        self._moved_to(entries[-1].entry.position.entry_id)
        return entries

    async def has_entry_available(self) -> bool:
        return self._next_entry_id < self.inbox.subscription.topic.durable_end

    async def close(self) -> None:
        self._registry.discard(self)
        self.inbox.leave()

    def _moved_to(self, entry_id: int) -> None:
        self._next_entry_id = entry_id + 1
        self.inbox.subscription.acknowledge_cumulative(entry_id)


async def last_message_id(topic: Topic) -> MessageId:
    """The last durable message of a topic."""
    last = topic.last_position
    if last.entry_id < 0:
        return MessageId(-1, -1, topic.partition)
    result = await topic.reader.read(topic.ledger_id, last.entry_id, entries_max=1, size_max=1)
    batch_size = 0
    if result.entries:
        metadata = parse_metadata(result.entries[0].data)
        if metadata.HasField("num_messages_in_batch"):
            batch_size = metadata.num_messages_in_batch
    return MessageId(last.ledger_id, last.entry_id, topic.partition, batch_size - 1, batch_size)


def _local(producer: Producer) -> LocalProducer:
    if not isinstance(producer, LocalProducer):
        raise NotAllowed("a commit takes producers of this gateway only")
    return producer


def _local_consumer(consumer: Consumer) -> LocalConsumer:
    if not isinstance(consumer, LocalConsumer):
        raise NotAllowed("a commit takes consumers of this gateway only")
    return consumer
