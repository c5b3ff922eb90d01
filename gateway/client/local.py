"""The door inside the daemon's own process: a client that calls the broker directly.

It keeps the same promises as `remote`, and one more: `commit`, because it shares the log's process.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

from gateway.broker.broker import Broker, state_size
from gateway.broker.producer import Producer as BrokerProducer
from gateway.broker.seek import first_entry_published_since
from gateway.broker.topic import DUPLICATE, Topic, wait_for_last_group
from gateway.client.api import (
    RECEIVER_QUEUE_SIZE,
    Client,
    Commit,
    Consumer,
    ConsumerOptions,
    Producer,
    ProducerOptions,
    TopicInfo,
)
from gateway.client.local_consumer import LocalConsumer, LocalReader, Opened
from gateway.errors import BrokerError, LogError, NotAllowed, ProducerFenced, StorageUnavailable
from gateway.limits import ATOMIC_UNIT_SIZE_MAX
from gateway.log import PendingGroup
from gateway.log.records import StateRecord
from gateway.message import LATEST, InitialPosition, Position
from gateway.names import NamespaceName, TopicName

DUPLICATE_POSITION = Position(-1, -1)


class LocalClient(Client):
    """A client of the broker in this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ids = itertools.count()
        self._open: set[Opened] = set()

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
        last_entry_id = self._broker.log.reader.last_entry_id
        ledgers = await self._broker.ledgers(NamespaceName.parse(namespace))
        return [TopicInfo(name, ledger_id, last_entry_id(ledger_id)) for name, ledger_id in sorted(ledgers.items())]

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
        for consumer, _ in acks:
            consumer.inbox.check_open()
        self._broker.check_accepting()
        positions: list[Position] = []

        def add(group: PendingGroup) -> None:
            # Nothing in here yields: what is appended, acknowledged and stored stands in one group.
            for producer, output in outputs:
                positions.append(producer.append(output.data, output.sequence_id, output.messages, group))
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

    def __init__(self, registry: set[Opened], topic: Topic) -> None:
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

    def append(self, data: bytes, sequence_id: int, messages: int, group: PendingGroup | None = None) -> Position:
        """Append without waiting; DUPLICATE_POSITION if it is stored. `group`: as Topic.append.

        Raises: StorageUnavailable, ProducerFenced.
        """
        entry_id = self._topic.append(self.check_open(), data, sequence_id, messages, group)
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


def _local(producer: Producer) -> LocalProducer:
    if not isinstance(producer, LocalProducer):
        raise NotAllowed("a commit takes producers of this gateway only")
    return producer


def _local_consumer(consumer: Consumer) -> LocalConsumer:
    if not isinstance(consumer, LocalConsumer):
        raise NotAllowed("a commit takes consumers of this gateway only")
    return consumer
