"""One connection's side of the broker: every command of a client, and what it is answered.

SEND, ACK and FLOW are handled at once, in the turn of the loop in which they arrive; everything that must wait for
the catalogue or the log is done by one task per connection, in the order of arrival. How a refusal must look so that
clients survive it is written in `docs/protocol.md`; where a rule seems odd, it is there because a client was seen to
hang without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from gateway import __version__
from gateway.broker import answers
from gateway.broker.broker import Broker
from gateway.broker.consumer import Consumer
from gateway.broker.producer import Producer, deduplication_key
from gateway.broker.receipts import ReceiptLine
from gateway.broker.seek import first_entry_published_since
from gateway.broker.subscription import Subscription
from gateway.broker.topic import DUPLICATE, Topic, wait_for_last_group
from gateway.errors import (
    BrokerError,
    GatewayError,
    LogError,
    NotAllowed,
    ProtocolError,
    ServerError,
    StorageUnavailable,
    TopicNotFound,
)
from gateway.limits import (
    ACK_IDS_MAX,
    BATCH_MESSAGES_MAX,
    CONNECTION_WRITE_BUFFER_MAX,
    ENTRY_SIZE_MAX,
    HANDLES_PER_CONNECTION_MAX,
    MIB,
    NAME_LENGTH_MAX,
)
from gateway.log import StoredEntry
from gateway.message import InitialPosition, Position, SubscriptionType
from gateway.names import Domain, NamespaceName, TopicName
from gateway.wire.commands import AccessMode, AckType, CommandType
from gateway.wire.connection import SERVER_NAME, Connection, Event
from gateway.wire.entry import parse_metadata

logger = logging.getLogger(__name__)

REQUESTS_SIZE_MAX = 8 * MIB
"""Bytes of commands of one connection that wait for their turn."""
REQUESTS_PER_TURN = 64
"""Requests carried out before others have a turn of the event loop."""
REQUESTS_WAITING_MAX = 10_000
"""Commands of one connection that wait for their turn; more than that is no client but a flood."""
MODE_NON_PERSISTENT = 1
"""CommandGetTopicsOfNamespace.mode."""
SEQUENCE_ID_MAX = 2**63 - 1
"""Clients hold them as signed integers."""
SEND = int(CommandType.SEND)
ACK = int(CommandType.ACK)
FLOW = int(CommandType.FLOW)
CONNECT = int(CommandType.CONNECT)


class Session:
    """A client's producers and consumers. The server hands in commands and is told when there is something to write."""

    def __init__(
        self,
        broker: Broker,
        connection: Connection,
        *,
        flush: Callable[[], None],
        probe: Callable[[], Awaitable[bool]],
        fail: Callable[[str], None],
    ) -> None:
        self.broker = broker
        self.connection = connection
        self.writable = True
        """False while the socket takes nothing; the server sets it and wakes the consumers."""
        self.room = asyncio.Event()
        """Cleared while the peer leaves too much unread: then no request is answered. The server's to change."""
        self.room.set()
        self.receipts = ReceiptLine(connection, flush=flush, on_failure=self._send_away_producers)
        self.producers: dict[int, Producer] = {}
        self.consumers: dict[int, Consumer] = {}
        self._topics: dict[int, Topic] = {}
        """Topic by producer id."""
        self._closed_producers: set[int] = set()
        """Ids that the broker closed: what the client had already sent for them is dropped without an answer."""
        self._sought: set[Subscription] = set()
        """Subscriptions whose consumers the broker took away: readers' cursors among them are kept for their return."""
        self._flush = flush
        self._probe = probe
        self._fail = fail
        """Closes the connection, with the reason."""
        self._requests: deque[tuple[int, Any]] = deque()
        self._requests_size = 0
        """Bytes of `_requests`."""
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._unsent = 0
        """Bytes of entries delivered since the last write to the socket."""
        self._handlers: dict[int, Callable[[Any], Awaitable[None]]] = {
            CommandType.PRODUCER: self._producer,
            CommandType.CLOSE_PRODUCER: self._close_producer,
            CommandType.SUBSCRIBE: self._subscribe,
            CommandType.CLOSE_CONSUMER: self._close_consumer,
            CommandType.UNSUBSCRIBE: self._unsubscribe,
            CommandType.SEEK: self._seek,
            CommandType.GET_LAST_MESSAGE_ID: self._get_last_message_id,
            CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES: self._redeliver,
            CommandType.PARTITIONED_METADATA: self._partitioned_metadata,
            CommandType.LOOKUP: self._lookup,
            CommandType.GET_TOPICS_OF_NAMESPACE: self._get_topics,
            CommandType.CONSUMER_STATS: self._consumer_stats,
            CommandType.FLOW: self._late_flow,
        }

    # Commands in

    def handle(self, events: list[Event]) -> None:
        """Carry out what arrived. Raises: ProtocolError for what closes the connection."""
        for kind, command, entry in events:
            if kind == SEND:
                self._send(command, entry)
            elif kind == ACK:
                self._ack(command)
            elif kind == FLOW and command.consumer_id in self.consumers:
                consumer = self.consumers[command.consumer_id]
                consumer.permits += command.messagePermits
                consumer.subscription.wake()
            elif kind == CONNECT:
                self.connection.connected(server_version=f"{SERVER_NAME} {__version__}")
            else:
                self._enqueue(kind, command)

    def wake_consumers(self) -> None:
        """Go on delivering after the socket took nothing for a while."""
        for consumer in tuple(self.consumers.values()):
            consumer.subscription.wake()

    def flushed(self) -> bool:
        """What was delivered went to the socket. Returns whether delivery had stopped for it."""
        stopped = self._unsent > CONNECTION_WRITE_BUFFER_MAX
        self._unsent = 0
        return stopped

    async def close(self) -> None:
        """The connection is gone: its producers leave, what its consumers hold goes back."""
        self._closed = True
        self.receipts.close()
        self._requests.clear()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for producer_id, producer in tuple(self.producers.items()):
            self._topics[producer_id].remove_producer(producer)
        for consumer in tuple(self.consumers.values()):
            self._let_go(consumer)
        for subscription in self._sought:
            subscription.topic.drop_if_unused(subscription)
        self._sought.clear()
        self.producers.clear()
        self.consumers.clear()

    def _enqueue(self, kind: int, command: Any) -> None:
        self._requests_size += command.ByteSize()
        if len(self._requests) >= REQUESTS_WAITING_MAX or self._requests_size > REQUESTS_SIZE_MAX:
            raise ProtocolError("the peer floods requests without waiting for answers")
        self._requests.append((kind, command))
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        done = 0
        try:
            while self._requests:
                kind, command = self._requests.popleft()
                self._requests_size -= command.ByteSize()
                await self.room.wait()
                done += 1
                if done % REQUESTS_PER_TURN == 0:
                    await asyncio.sleep(0)
                handler = self._handlers.get(kind)
                if handler is None:
                    self._reply(answers.unsupported(kind, command))
                    continue
                try:
                    await handler(command)
                except GatewayError as error:
                    self._reply(answers.refusal(kind, command, error))
        except Exception:
            # Our own fault. The client would wait for an answer for ever; a closed connection it knows how to handle.
            logger.critical("a request of type %d could not be carried out", kind, exc_info=True)
            self._fail("an internal error")
        finally:
            self._worker = None

    def _reply(self, answer: tuple[CommandType, Any] | None) -> None:
        if answer is not None and not self._closed:
            self.connection.send(*answer)
            self._flush()

    # Publishing

    async def _producer(self, command: Any) -> None:
        present = self.producers.get(command.producer_id)
        if present is not None and not present.closed:
            # The client gave up waiting for our answer and asks again.
            self._reply(answers.producer_success(command.request_id, present))
            return
        if command.producer_access_mode != AccessMode.shared:
            raise NotAllowed("exclusive producers are not supported by this version")
        self._check_room()
        topic = await self.broker.topic(_topic_name(command.topic))
        name = command.producer_name or self.broker.new_producer_name()
        if len(name.encode()) > NAME_LENGTH_MAX:
            raise NotAllowed("a producer's name is longer than 255 bytes")
        if len(command.initial_subscription_name.encode()) > NAME_LENGTH_MAX:
            raise NotAllowed("a subscription's name is longer than 255 bytes")
        self.broker.check_accepting()
        producer = await topic.add_producer(
            self,
            producer_id=command.producer_id,
            name=name,
            generated_name=not command.producer_name or not command.user_provided_producer_name,
            epoch=command.epoch,
        )
        try:
            if command.initial_subscription_name:
                await topic.subscription(
                    command.initial_subscription_name,
                    next_entry_id=0,
                    new_subscription_id=self.broker.new_subscription_id,
                )
            # What is still on its way to the disk under this name counts as last, but only once it is there.
            await wait_for_last_group(topic)
        except BaseException:
            topic.remove_producer(producer)
            raise
        if producer.closed:
            raise BrokerError(f"producer '{name}' was taken away while it connected", code=ServerError.ServiceNotReady)
        self.producers[command.producer_id] = producer
        self._topics[command.producer_id] = topic
        self._closed_producers.discard(command.producer_id)
        self._reply(answers.producer_success(command.request_id, producer))

    def _send(self, command: Any, entry: bytes | None) -> None:
        producer_id = command.producer_id
        producer = self.producers.get(producer_id)
        if producer is None or producer.closed:
            if producer_id in self._closed_producers:
                return
            raise ProtocolError("the peer sent an entry for a producer that it has not created")
        sequence_id = command.sequence_id
        if entry is None:
            self._send_error(producer_id, sequence_id, ServerError.ChecksumError, "the checksum is wrong")
            return
        if len(entry) > ENTRY_SIZE_MAX:
            raise ProtocolError(f"the peer sent an entry of {len(entry)} bytes")
        try:
            metadata = parse_metadata(entry)
        except ProtocolError as error:
            # A consumer would choke on it: it is refused like a damaged one, and the client goes on.
            self._send_error(producer_id, sequence_id, ServerError.ChecksumError, str(error))
            return
        messages = metadata.num_messages_in_batch
        if not 0 < messages <= BATCH_MESSAGES_MAX:
            # Nobody could open it, and what it claims would be charged to every consumer's permits.
            self._send_error(producer_id, sequence_id, ServerError.ChecksumError, "a batch that nobody can open")
            return
        if command.HasField("txnid_most_bits"):
            self._send_error(producer_id, sequence_id, ServerError.NotAllowedError, "Transactions are not enabled")
            return
        highest = command.highest_sequence_id if command.HasField("highest_sequence_id") else None
        key: int | None = sequence_id if highest is None else deduplication_key(sequence_id, highest)
        if sequence_id > SEQUENCE_ID_MAX or (highest or 0) > SEQUENCE_ID_MAX:
            raise ProtocolError(f"the peer sent the sequence id {sequence_id}")
        topic = self._topics[producer_id]
        if command.is_chunk and metadata.chunk_id != metadata.num_chunks_from_msg - 1:
            # All chunks of a message carry one id. It counts as stored when the last chunk is: after a crash in
            # between, all come again, and whoever puts them together takes each once.
            key = None
        try:
            entry_id = topic.append(producer, entry, key, messages)
        except (StorageUnavailable, NotAllowed) as error:
            # Any SEND_ERROR but a checksum's makes clients reconnect in a hot loop. Taking the producer away makes them
            # ask for it again with growing pauses, and keep what they have not been given a receipt for.
            logger.warning("producer '%s' of %s is sent away: %s", producer.name, topic.full_name, error)
            topic.remove_named_producer(producer.name)
            return
        ledger_id = topic.ledger_id
        if entry_id == DUPLICATE:
            ledger_id = -1
        self.receipts.add(topic.last_group, (producer, sequence_id, highest, ledger_id, entry_id, topic.partition))

    def _send_error(self, producer_id: int, sequence_id: int, code: ServerError, message: str) -> None:
        self.receipts.refuse(answers.send_error(producer_id, sequence_id, code, message))

    def _send_away_producers(self) -> None:
        """Take all producers of this connection away: they come back."""
        for producer_id, producer in tuple(self.producers.items()):
            self._topics[producer_id].remove_named_producer(producer.name)

    async def _close_producer(self, command: Any) -> None:
        producer = self.producers.pop(command.producer_id, None)
        if producer is not None:
            topic = self._topics.pop(command.producer_id)
            try:
                await wait_for_last_group(topic)
            finally:
                topic.remove_producer(producer)
        self._reply(answers.success(command.request_id))

    # ProducerOwner

    async def is_alive(self) -> bool:
        return not self._closed and await self._probe()

    def producer_closed(self, producer: Producer) -> None:
        if len(self._closed_producers) >= HANDLES_PER_CONNECTION_MAX:
            # What a client sent for the oldest of them arrived long ago.
            self._closed_producers.clear()
        self._closed_producers.add(producer.producer_id)
        self.producers.pop(producer.producer_id, None)
        self._topics.pop(producer.producer_id, None)
        self._reply(answers.close_producer(producer.producer_id))

    # Consuming

    async def _subscribe(self, command: Any) -> None:
        present = self.consumers.get(command.consumer_id)
        if present is not None and not present.closed:
            self._reply(answers.success(command.request_id))
            return
        self._check_room()
        if not 0 < len(command.subscription.encode()) <= NAME_LENGTH_MAX:
            raise NotAllowed("a subscription's name is between 1 and 255 bytes long")
        if len(command.consumer_name.encode()) > NAME_LENGTH_MAX:
            raise NotAllowed("a consumer's name is longer than 255 bytes")
        if command.read_compacted:
            raise NotAllowed("compacted topics are not supported by this version")
        subscription_type = _subscription_type(command.subType)
        topic = await self.broker.topic(_topic_name(command.topic), create=command.force_topic_creation)
        subscription = topic.subscriptions.get(command.subscription)
        if subscription is not None:
            subscription.check_joinable(subscription_type)
        if command.durable:
            first = 0 if command.initialPosition == InitialPosition.earliest else topic.durable_end
            subscription = await topic.subscription(
                command.subscription, next_entry_id=first, new_subscription_id=self.broker.new_subscription_id
            )
        elif subscription is None:
            first = topic.durable_end
            if command.start_message_rollback_duration_sec:
                since_ms = (
                    self.broker.clock.wall_ns() // 1_000_000 - command.start_message_rollback_duration_sec * 1_000
                )
                first = await first_entry_published_since(topic, since_ms)
            elif command.HasField("start_message_id"):
                first = topic.first_from(_position(command.start_message_id))
            elif command.initialPosition == InitialPosition.earliest:
                first = 0
            subscription = topic.reader_subscription(command.subscription, next_entry_id=first)
        if self._closed:
            topic.drop_if_unused(subscription)
            return
        consumer = Consumer(
            self,
            subscription,
            consumer_id=command.consumer_id,
            name=command.consumer_name or f"consumer-{command.consumer_id}",
            priority_level=command.priority_level,
            epoch=command.consumer_epoch if command.HasField("consumer_epoch") else None,
        )
        subscription.check_joinable(subscription_type)
        self.consumers[command.consumer_id] = consumer
        self._sought.discard(subscription)
        # SUCCESS first: older Go clients drop what overtakes it.
        self._reply(answers.success(command.request_id))
        subscription.add_consumer(consumer, subscription_type)

    async def _late_flow(self, command: Any) -> None:
        """FLOW that arrived behind a SUBSCRIBE which was still being carried out."""
        consumer = self.consumers.get(command.consumer_id)
        if consumer is not None:
            consumer.permits += command.messagePermits
            consumer.subscription.wake()

    def _ack(self, command: Any) -> None:
        consumer = self.consumers.get(command.consumer_id)
        if consumer is None:
            return
        if command.HasField("txnid_most_bits"):
            self._reply(answers.ack_response(command, NotAllowed("Transactions are not enabled")))
            return
        if len(command.message_id) > ACK_IDS_MAX:
            raise ProtocolError(f"an ACK of {len(command.message_id)} ids")
        subscription = consumer.subscription
        ledger_id = subscription.topic.ledger_id
        cumulative = command.ack_type == AckType.cumulative
        if command.HasField("validation_error"):
            logger.warning(
                "consumer '%s' of %s dropped a damaged message: validation error %d",
                consumer.name,
                subscription.topic.full_name,
                command.validation_error,
            )
        for message_id in command.message_id:
            if message_id.ledgerId != ledger_id:
                continue
            acknowledge = subscription.acknowledge_cumulative if cumulative else subscription.acknowledge
            # Signed: who acknowledges up to the middle of the very first batch means everything before it, entry -1.
            acknowledge(_position(message_id).entry_id, message_id.ack_set, message_id.batch_size)
        if command.HasField("request_id"):
            subscription.when_acks_durable(partial(self._acks_durable, command))
        if consumer.pending or not consumer.ready:
            subscription.wake()

    def _acks_durable(self, command: Any, error: LogError | None) -> None:
        refusal = None if error is None else StorageUnavailable(str(error))
        self._reply(answers.ack_response(command, refusal))

    async def _redeliver(self, command: Any) -> None:
        consumer = self.consumers.get(command.consumer_id)
        if consumer is None:
            return
        subscription = consumer.subscription
        if command.HasField("consumer_epoch"):
            consumer.epoch = command.consumer_epoch
        ledger_id = subscription.topic.ledger_id
        entry_ids = [message_id.entryId for message_id in command.message_ids if message_id.ledgerId == ledger_id]
        subscription.dispatcher.redeliver(consumer, entry_ids if command.message_ids else None)
        subscription.wake()

    async def _close_consumer(self, command: Any) -> None:
        consumer = self.consumers.pop(command.consumer_id, None)
        if consumer is not None:
            self._let_go(consumer)
        self._reply(answers.success(command.request_id))

    async def _unsubscribe(self, command: Any) -> None:
        consumer = self._consumer(command.consumer_id)
        await consumer.subscription.delete(by=consumer, force=command.force)
        self.consumers.pop(command.consumer_id, None)
        self._reply(answers.success(command.request_id))

    async def _seek(self, command: Any) -> None:
        subscription = self._consumer(command.consumer_id).subscription
        topic = subscription.topic
        if command.HasField("message_id"):
            first = topic.first_from(_position(command.message_id))
        else:
            first = await first_entry_published_since(topic, command.message_publish_time)
        # seek() closes the consumers and returns at once: CLOSE_CONSUMER and SUCCESS leave together, in that order.
        await subscription.seek(first)
        self._reply(answers.success(command.request_id))

    async def _get_last_message_id(self, command: Any) -> None:
        consumer = self._consumer(command.consumer_id)
        topic = consumer.subscription.topic
        last = topic.last_position
        batch_index = -1
        if last.entry_id >= 0:
            result = await topic.reader.read(topic.ledger_id, last.entry_id, entries_max=1, size_max=1)
            if result.entries:
                metadata = parse_metadata(result.entries[0].data)
                if metadata.HasField("num_messages_in_batch"):
                    batch_index = metadata.num_messages_in_batch - 1
        mark_delete = Position(topic.ledger_id, consumer.subscription.cursor.mark_delete)
        self._reply(answers.last_message_id(command.request_id, last, topic.partition, batch_index, mark_delete))

    async def _consumer_stats(self, command: Any) -> None:
        self._reply(answers.consumer_stats(command.request_id, self._consumer(command.consumer_id)))

    # ConsumerOwner

    def deliver(self, consumer: Consumer, entry: StoredEntry, redelivery_count: int, ack_set: tuple[int, ...]) -> None:
        topic = consumer.subscription.topic
        self.connection.send_message(
            consumer.consumer_id,
            topic.ledger_id,
            entry.entry_id,
            topic.partition,
            redelivery_count,
            ack_set,
            consumer.epoch,
            entry.data,
        )
        self._unsent += len(entry.data)
        if self._unsent > CONNECTION_WRITE_BUFFER_MAX:
            self.writable = False
        self._flush()

    def consumer_closed(self, consumer: Consumer) -> None:
        self.consumers.pop(consumer.consumer_id, None)
        if not consumer.subscription.durable:
            self._sought.add(consumer.subscription)
        self._reply(answers.close_consumer(consumer.consumer_id))

    def active_changed(self, consumer: Consumer, active: bool) -> None:
        if consumer.subscription.subscription_type is SubscriptionType.failover:
            self._reply(answers.active_consumer_change(consumer.consumer_id, active))

    # Lookups

    async def _partitioned_metadata(self, command: Any) -> None:
        name = _topic_name(command.topic)
        partitions = await self.broker.partitions(name)
        if not partitions and not command.metadata_auto_creation_enabled and not await self.broker.exists(name):
            raise TopicNotFound(f"{name} does not exist")
        self._reply(answers.partitions(command.request_id, partitions))

    async def _lookup(self, command: Any) -> None:
        _topic_name(command.topic)
        if command.advertised_listener_name:
            raise NotAllowed(f"there is no listener named '{command.advertised_listener_name}'")
        self._reply(answers.lookup(command.request_id))

    async def _get_topics(self, command: Any) -> None:
        names: list[str] = []
        if command.mode != MODE_NON_PERSISTENT:
            summaries = await self.broker.list_topics(NamespaceName.parse(command.namespace))
            names = [summary.name for summary in summaries if summary.ledger_id]
        self._reply(answers.topics(command.request_id, names))

    # Small things

    def _consumer(self, consumer_id: int) -> Consumer:
        consumer = self.consumers.get(consumer_id)
        if consumer is None:
            raise BrokerError(
                f"there is no consumer {consumer_id} on this connection", code=ServerError.NotAllowedError
            )
        return consumer

    def _let_go(self, consumer: Consumer) -> None:
        subscription = consumer.subscription
        subscription.remove_consumer(consumer)
        subscription.topic.drop_if_unused(subscription)

    def _check_room(self) -> None:
        if len(self.producers) + len(self.consumers) >= HANDLES_PER_CONNECTION_MAX:
            raise NotAllowed(f"more than {HANDLES_PER_CONNECTION_MAX} producers and consumers on one connection")


def _topic_name(text: str) -> TopicName:
    name = TopicName.parse(text)
    if name.domain is not Domain.persistent:
        raise NotAllowed("non-persistent topics are not supported by this version")
    return name


def _subscription_type(value: int) -> SubscriptionType:
    try:
        subscription_type = SubscriptionType(value)
    except ValueError:
        raise NotAllowed(f"there is no subscription type {value}") from None
    if subscription_type is SubscriptionType.key_shared:
        # Refused before anything is created: a durable subscription that nobody can join would keep its backlog.
        raise NotAllowed("key_shared subscriptions are not supported by this version")
    return subscription_type


def _position(message_id: Any) -> Position:
    """A position from the wire, where minus one is 2^64 - 1."""
    ledger_id, entry_id = message_id.ledgerId, message_id.entryId
    return Position(
        ledger_id - 2**64 if ledger_id >= 2**63 else ledger_id, entry_id - 2**64 if entry_id >= 2**63 else entry_id
    )
