"""A subscription: what of a topic was acknowledged, and who receives the rest.

The cursor's changes ride with the next commit group: losing them in a crash means that entries are delivered again,
never that one is lost. Whoever must know that an acknowledgement is durable (ACK_RESPONSE, seek) waits for that
group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.broker.consumer import Consumer
from gateway.broker.dispatch import Dispatcher, SharedDispatcher, SingleActiveDispatcher
from gateway.errors import ConsumerBusy, LogError, NotAllowed, StorageUnavailable
from gateway.limits import BATCH_MESSAGES_MAX
from gateway.log import PendingGroup
from gateway.log.records import SubscriptionRecord
from gateway.message import SubscriptionType
from gateway.metadata.cursor import CursorState
from gateway.wire.acks import WORD_BITS, mask_of_words

if TYPE_CHECKING:
    from gateway.broker.topic import Topic

RECORD_SIZE = 512
"""Bytes that a subscription's records are taken to need in a group."""


class Subscription:
    """One subscription of one topic partition."""

    def __init__(
        self,
        topic: Topic,
        name: str,
        cursor: CursorState,
        *,
        subscription_id: int,
        subscription_type: SubscriptionType = SubscriptionType.exclusive,
    ) -> None:
        self.topic = topic
        self.name = name
        self.subscription_id = subscription_id
        """Its number in the journal; 0: not durable, gone with its last consumer."""
        self.cursor = cursor
        self.subscription_type = subscription_type
        """Taken from the first consumer that connects; not durable."""
        self.consumers: list[Consumer] = []
        self.rewinds = 0
        """Counts the times that the read position was put back: what was read before is then not delivered."""
        self.deleted = False
        self.dispatcher: Dispatcher = self._new_dispatcher()
        self._riding = False
        self._waiting: list[Callable[[LogError | None], None]] = []

    @property
    def durable(self) -> bool:
        return self.subscription_id != 0

    def wake(self) -> None:
        """Deliver what can be delivered now."""
        if self.consumers:
            self.dispatcher.wake()

    # Consumers

    def check_joinable(self, subscription_type: SubscriptionType) -> None:
        """Raises: ConsumerBusy, NotAllowed, as `add_consumer` would."""
        if subscription_type is SubscriptionType.key_shared:
            raise NotAllowed("key_shared subscriptions are not supported by this version")
        if not self.consumers:
            return
        if subscription_type is not self.subscription_type:
            raise ConsumerBusy(
                f"subscription '{self.name}' of {self.topic.name} is {self.subscription_type.name} "
                "while consumers are connected"
            )
        if subscription_type is SubscriptionType.exclusive:
            raise ConsumerBusy(f"subscription '{self.name}' of {self.topic.name} has its exclusive consumer")

    def add_consumer(self, consumer: Consumer, subscription_type: SubscriptionType) -> None:
        """Let a consumer in. Raises: ConsumerBusy, NotAllowed."""
        self.check_joinable(subscription_type)
        if subscription_type is not self.subscription_type:
            self.subscription_type = subscription_type
            # A read of the old one may be under way still: what it brings, the new one reads as well.
            self.dispatcher.paused = True
            self.dispatcher = self._new_dispatcher()
        self.consumers.append(consumer)
        self.dispatcher.add(consumer)

    def remove_consumer(self, consumer: Consumer) -> None:
        """Let a consumer go; what it holds goes back to the others."""
        if consumer.closed:
            return
        consumer.closed = True
        self.consumers.remove(consumer)
        self.dispatcher.remove(consumer)
        self.wake()

    def close_consumers(self) -> None:
        """Take all consumers away: their peers subscribe again."""
        for consumer in tuple(self.consumers):
            self.remove_consumer(consumer)
            consumer.owner.consumer_closed(consumer)

    # Acknowledgements

    def acknowledge(self, entry_id: int, ack_set: list[int] | None = None, batch_size: int = 0) -> None:
        """Acknowledge an entry, or the messages of its batch whose bits in `ack_set` are 0."""
        if not 0 <= entry_id < self.topic.durable_end:
            return
        if ack_set:
            # C++ clients leave the batch's size out: then the set's own words say how far it reaches.
            size = batch_size if batch_size > 0 else len(ack_set) * WORD_BITS
            if size > BATCH_MESSAGES_MAX:
                return
            whole = self.cursor.ack_batch(entry_id, size, mask_of_words(ack_set, size))
        else:
            self.cursor.ack(entry_id)
            whole = True
        if whole:
            self.dispatcher.acknowledged(entry_id)
        self._changed()

    def acknowledge_cumulative(self, entry_id: int, ack_set: list[int] | None = None, batch_size: int = 0) -> None:
        """Acknowledge everything before an entry, and the entry itself unless `ack_set` keeps messages of it."""
        if entry_id < 0 or self.subscription_type not in (SubscriptionType.exclusive, SubscriptionType.failover):
            return
        if ack_set:
            self.cursor.ack_cumulative(min(entry_id - 1, self.topic.durable_end - 1))
            self.acknowledge(entry_id, ack_set, batch_size)
        else:
            self.cursor.ack_cumulative(min(entry_id, self.topic.durable_end - 1))
        self._changed()

    def when_acks_durable(self, callback: Callable[[LogError | None], None]) -> None:
        """Call back when all acknowledgements so far are durable, which they become with the next group."""
        if not self.durable:
            callback(None)
            return
        self._waiting.append(callback)
        self._changed()

    def add_changes(self, group: PendingGroup) -> None:
        """Write what changed since the last call into a group."""
        self._riding = False
        waiting, self._waiting = self._waiting, []
        if self.deleted or not self.durable:
            return
        record = self.cursor.take_changes(self.subscription_id)
        if record is not None:
            group.add_record(record)
        for callback in waiting:
            group.when_durable(callback)

    def _changed(self) -> None:
        if self.durable and not self._riding:
            self._riding = True
            self.topic.journal.ride(self.add_changes)

    # Moving and deleting

    async def seek(self, entry_id: int) -> None:
        """Make `entry_id` the next entry, durably, and take all consumers away.

        The consumers are closed only when the new position is durable: a client subscribes again 100 ms after its
        close, and must find the new position then.
        """
        if self.durable:
            # A refusal comes before anything has changed: a cursor that was moved would ride with the next group.
            self.topic.check_room(RECORD_SIZE)
        self.dispatcher.paused = True
        try:
            self.cursor.reset(entry_id - 1)
            await self._commit_changes()
        finally:
            self.dispatcher.rewind()
            self.close_consumers()
            self.dispatcher.paused = False

    async def delete(self, *, by: Consumer | None = None, force: bool = False) -> None:
        """Delete the subscription, durably. Raises: ConsumerBusy while anybody else is connected and not `force`."""
        if not force and any(consumer is not by for consumer in self.consumers):
            raise ConsumerBusy(f"subscription '{self.name}' of {self.topic.name} has other consumers")
        if self.durable:
            self.topic.check_room(RECORD_SIZE)
        await self.dispatcher.stop()
        self.deleted = True
        self.topic.subscriptions.pop(self.name, None)
        for consumer in tuple(self.consumers):
            self.remove_consumer(consumer)
            if consumer is not by:
                consumer.owner.consumer_closed(consumer)
        if self.durable:
            record = SubscriptionRecord(
                self.subscription_id, self.topic.ledger_id, self.name, self.cursor.mark_delete, deleted=True
            )
            await self.topic.commit(lambda group: group.add_record(record), RECORD_SIZE)

    async def _commit_changes(self) -> None:
        if self.durable:
            await self.topic.commit(self.add_changes, RECORD_SIZE)

    # Figures

    @property
    def backlog_entries(self) -> int:
        """Entries stored and not acknowledged."""
        last = self.topic.durable_end - 1
        return max(0, last - self.cursor.mark_delete - self.cursor.acked_between(self.cursor.mark_delete, last))

    @property
    def backlog_messages(self) -> int:
        """Messages stored and not acknowledged; entries acknowledged out of order count as one message each."""
        last = self.topic.durable_end - 1
        messages = self.topic.reader.messages_between(self.topic.ledger_id, self.cursor.mark_delete, last)
        return max(0, messages - self.cursor.acked_between(self.cursor.mark_delete, last))

    @property
    def unacked_messages(self) -> int:
        return sum(consumer.unacked_messages for consumer in self.consumers)

    def _new_dispatcher(self) -> Dispatcher:
        if self.subscription_type is SubscriptionType.shared:
            return SharedDispatcher(self)
        return SingleActiveDispatcher(self)


async def durable(add: Callable[[PendingGroup], None], group: PendingGroup) -> None:
    """Add to a group and wait for it. Raises: StorageUnavailable."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(error: LogError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(StorageUnavailable(str(error), hint=error.hint))

    add(group)
    group.when_durable(finish)
    await done
