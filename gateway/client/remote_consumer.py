"""Consumers and readers at a broker, over Pulsar's protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from gateway.client.api import Consumer, ConsumerOptions, Reader, ReceivedEntry
from gateway.client.remote_connection import RemoteConnection
from gateway.errors import GatewayError, ProtocolError
from gateway.message import LATEST, Entry, InitialPosition, MessageId, Position, SubscriptionType
from gateway.names import TopicName
from gateway.wire import commands
from gateway.wire.acks import mask_of_words, still_unacked, words_of_mask
from gateway.wire.commands import AckType, CommandType
from gateway.wire.connection import UNSIGNED
from gateway.wire.entry import parse_metadata

SEEK_CLOSE_TIMEOUT_S = 10.0
PARTLY_ACKED_MAX = 10_000
"""Batches acknowledged in part that one consumer remembers; the oldest is forgotten, and delivered again some day."""


class RemoteInbox:
    """A consumer at a broker, and what arrived for it and was not taken yet."""

    def __init__(
        self,
        connection: RemoteConnection,
        topic: str,
        subscription: str,
        options: ConsumerOptions,
        *,
        start: Position | None = None,
    ) -> None:
        self.connection = connection
        self.topic = topic
        self.subscription = subscription
        self.consumer_id = 0
        self._options = options
        self._start = start
        """Where a reader begins; None: a durable subscription."""
        self._queue: deque[ReceivedEntry] = deque()
        self._arrived = asyncio.Event()
        self._taken = 0
        self._error: GatewayError | None = None
        self._seeking: asyncio.Future[None] | None = None
        self._partly_acked: dict[Position, int] = {}
        """Batches that are acknowledged in part, and the mask of what is not."""
        self._partition = TopicName.parse(topic).partition

    async def join(self) -> None:
        """Subscribe. Raises: BrokerError, ProtocolError."""
        options = self._options
        self.consumer_id = self.connection.add_consumer(self)
        command = commands.CommandSubscribe(
            topic=self.topic,
            subscription=self.subscription,
            subType=int(options.subscription_type),
            consumer_id=self.consumer_id,
            request_id=0,
            priority_level=options.priority_level,
            initialPosition=int(options.initial_position),
            durable=self._start is None,
        )
        if options.name:
            command.consumer_name = options.name
        if self._start is not None:
            command.start_message_id.ledgerId = self._start.ledger_id & UNSIGNED
            command.start_message_id.entryId = self._start.entry_id & UNSIGNED
            if self._start == LATEST:
                command.initialPosition = int(InitialPosition.latest)
        try:
            await self.connection.request(CommandType.SUBSCRIBE, command)
        except BaseException:
            self.connection.forget(self.consumer_id)
            raise
        self._flow(max(1, options.receiver_queue_size))

    async def take(self) -> ReceivedEntry:
        """Wait for an entry and take it. Raises: ProtocolError when the consumer is closed."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        return self._pop()

    @property
    def holds_entries(self) -> bool:
        """Whether `take` would return at once."""
        return bool(self._queue)

    def take_available(self, entries_max: int) -> list[ReceivedEntry]:
        return [self._pop() for _ in range(min(entries_max, len(self._queue)))]

    def _pop(self) -> ReceivedEntry:
        received = self._queue.popleft()
        self._taken += _charged(received)
        if self._taken * 2 >= self._options.receiver_queue_size:
            self._flow(self._taken)
            self._taken = 0
        return received

    def _flow(self, messages: int) -> None:
        self.connection.send(
            CommandType.FLOW, commands.CommandFlow(consumer_id=self.consumer_id, messagePermits=messages)
        )

    def acknowledge(self, message_id: MessageId, kind: AckType) -> None:
        command = commands.CommandAck(consumer_id=self.consumer_id, ack_type=int(kind))
        wire_id = command.message_id.add(ledgerId=message_id.ledger_id, entryId=message_id.entry_id)
        if message_id.batch_index >= 0 and message_id.batch_size > 1:
            remaining = self._remaining(message_id, cumulative=kind is AckType.cumulative)
            if remaining:
                wire_id.ack_set.extend(remaining)
                wire_id.batch_size = message_id.batch_size
        self.connection.send(CommandType.ACK, command)

    def _remaining(self, message_id: MessageId, *, cumulative: bool) -> tuple[int, ...]:
        """What an entry's acknowledgements so far leave, as an ack_set; empty: nothing.

        The last one must name the whole entry: a broker that does not keep acknowledgements within batches, which is
        Pulsar's default, waits for that.
        """
        size = message_id.batch_size
        words = still_unacked(message_id.batch_index, size, cumulative=cumulative)
        mask = mask_of_words(words, size) & self._partly_acked.pop(message_id.position, -1)
        if mask:
            while len(self._partly_acked) >= PARTLY_ACKED_MAX:
                self._partly_acked.pop(next(iter(self._partly_acked)))
            self._partly_acked[message_id.position] = mask
        return words_of_mask(mask)

    @property
    def keeps_order(self) -> bool:
        """Whether asking for one entry again brings all that follow again, too."""
        return self._options.subscription_type in (SubscriptionType.exclusive, SubscriptionType.failover)

    def redeliver(self, entries: Sequence[MessageId]) -> None:
        if self.keeps_order:
            self._give_back()
        command = commands.CommandRedeliverUnacknowledgedMessages(consumer_id=self.consumer_id)
        for entry in entries:
            command.message_ids.add(ledgerId=entry.ledger_id, entryId=entry.entry_id)
        self.connection.send(CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES, command)

    async def seek(self, command: Any) -> None:
        """Move the subscription. The broker closes the consumer on the way; it subscribes again."""
        command.consumer_id = self.consumer_id
        self._seeking = asyncio.get_running_loop().create_future()
        try:
            await self.connection.request(CommandType.SEEK, command)
            try:
                async with asyncio.timeout(SEEK_CLOSE_TIMEOUT_S):
                    await self._seeking
            except TimeoutError:
                raise ProtocolError("the broker did not close the consumer after a seek") from None
        finally:
            self._seeking = None
        self._queue.clear()
        self._partly_acked.clear()
        self._taken = 0
        if self._start is not None:
            # The cursor that was moved must be found again, not made anew where the reader once began.
            self._start = LATEST
        await self.join()

    async def last_message_id(self) -> Any:
        command = commands.CommandGetLastMessageId(consumer_id=self.consumer_id, request_id=0)
        return await self.connection.request(CommandType.GET_LAST_MESSAGE_ID, command)

    async def close(self) -> None:
        if self._error is None:
            close = commands.CommandCloseConsumer(consumer_id=self.consumer_id, request_id=0)
            # Where it is closed with the connection, that is what was asked for.
            with contextlib.suppress(ProtocolError):
                await self.connection.request(CommandType.CLOSE_CONSUMER, close)
        self.connection.forget(self.consumer_id)
        self.closed(ProtocolError("the consumer is closed"))

    def _give_back(self) -> None:
        """Drop what was not taken: it is delivered again, and was charged for."""
        self._taken += sum(map(_charged, self._queue))
        self._queue.clear()
        self._flow(self._taken)
        self._taken = 0

    # ConsumerSink

    def message(self, command: Any, data: bytes) -> None:
        message_id = command.message_id
        metadata = parse_metadata(data)
        entry = Entry(Position(message_id.ledgerId, message_id.entryId), data, max(1, metadata.num_messages_in_batch))
        self._queue.append(
            ReceivedEntry(self.topic, entry, self._partition, command.redelivery_count, tuple(command.ack_set))
        )
        self._arrived.set()

    def closed(self, error: GatewayError) -> None:
        if self._seeking is not None and self.connection.error is None:
            if not self._seeking.done():
                self._seeking.set_result(None)
            return
        if self._error is None:
            self._error = error
        self._arrived.set()


class RemoteConsumer(Consumer):
    """A consumer at a broker."""

    def __init__(self, inbox: RemoteInbox) -> None:
        super().__init__()
        self.inbox = inbox
        self.topic = inbox.topic
        self.subscription = inbox.subscription

    async def receive_entry(self) -> ReceivedEntry:
        return await self.inbox.take()

    def acknowledge(self, message_id: MessageId) -> None:
        for entry in self._entries_of(message_id):
            self.inbox.acknowledge(entry, AckType.individual)

    def acknowledge_cumulative(self, message_id: MessageId) -> None:
        self.inbox.acknowledge(message_id, AckType.cumulative)

    def negative_acknowledge(self, message_id: MessageId) -> None:
        self._forget_opened(None if self.inbox.keeps_order else message_id)
        self.inbox.redeliver(self._entries_of(message_id))

    async def seek(self, position: Position) -> None:
        command = commands.CommandSeek(consumer_id=0, request_id=0)
        command.message_id.ledgerId = position.ledger_id & UNSIGNED
        command.message_id.entryId = position.entry_id & UNSIGNED
        self._opened.clear()
        await self.inbox.seek(command)

    async def last_message_id(self) -> MessageId:
        last = (await self.inbox.last_message_id()).last_message_id
        return _message_id(last)

    async def unsubscribe(self) -> None:
        command = commands.CommandUnsubscribe(consumer_id=self.inbox.consumer_id, request_id=0)
        await self.inbox.connection.request(CommandType.UNSUBSCRIBE, command)
        self.inbox.connection.forget(self.inbox.consumer_id)
        self.inbox.closed(ProtocolError("the subscription was deleted"))

    async def close(self) -> None:
        await self.inbox.close()


class RemoteReader(Reader):
    """A reader at a broker."""

    def __init__(self, inbox: RemoteInbox, start: Position) -> None:
        super().__init__()
        self.topic = inbox.topic
        self.inbox = inbox
        self._last_read: Position | None = None
        self._start = start

    async def read_entry(self) -> ReceivedEntry:
        received = await self.inbox.take()
        self._last_read = received.entry.position
        return received

    async def read_entries(self, entries_max: int) -> Sequence[ReceivedEntry]:
        entries = [await self.inbox.take(), *self.inbox.take_available(entries_max - 1)]
        self._last_read = entries[-1].entry.position
        return entries

    async def has_entry_available(self) -> bool:
        if self.inbox.holds_entries:
            # Without a question to the broker for each entry, which halved the rate of reading up to the end.
            return True
        answer = await self.inbox.last_message_id()
        last = _message_id(answer.last_message_id).position
        if last.entry_id < 0:
            return False
        if self._last_read is not None:
            return last > self._last_read
        return last > _message_id(answer.consumer_mark_delete_position).position

    async def close(self) -> None:
        await self.inbox.close()


def _charged(received: ReceivedEntry) -> int:
    """The permits that an entry has used: its messages that are still to be delivered."""
    messages = received.entry.messages
    return mask_of_words(received.ack_set, messages).bit_count() if received.ack_set else messages


def _message_id(wire_id: Any) -> MessageId:
    ledger_id, entry_id = wire_id.ledgerId, wire_id.entryId
    return MessageId(
        ledger_id - 2**64 if ledger_id >= 2**63 else ledger_id,
        entry_id - 2**64 if entry_id >= 2**63 else entry_id,
        wire_id.partition,
        wire_id.batch_index,
        wire_id.batch_index + 1 if wire_id.batch_index >= 0 else 0,
    )
