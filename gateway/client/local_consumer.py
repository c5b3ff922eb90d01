"""Consumers and readers inside the daemon: what a subscription delivers waits in an inbox until it is taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Protocol

from gateway.broker.consumer import Consumer as BrokerConsumer
from gateway.broker.subscription import Subscription
from gateway.broker.topic import Topic
from gateway.client.api import Consumer, ConsumerOptions, Reader, ReceivedEntry
from gateway.errors import BrokerError, NotAllowed
from gateway.limits import CONNECTION_WRITE_BUFFER_MAX
from gateway.log import StoredEntry
from gateway.message import Entry, MessageId, Position, SubscriptionType
from gateway.wire.acks import mask_of_words, still_unacked
from gateway.wire.entry import parse_metadata


class Opened(Hashable, Protocol):
    """What a client opened and closes with itself."""

    async def close(self) -> None: ...


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

    def check_open(self) -> None:
        """Raises: NotAllowed when the consumer is closed."""
        if self.closed:
            raise NotAllowed(f"the consumer of {self.subscription.topic.full_name} is closed")

    async def take(self) -> ReceivedEntry:
        """Wait for an entry and take it. Raises: BrokerError when the consumer is closed."""
        while not self._entries:
            self.check_open()
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
        registry: set[Opened],
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
        registry: set[Opened],
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
