"""One topic partition: the end of its ledger, who publishes to it, and its subscriptions.

Two facts about an entry have one owner here. *Appended*: it has its id and waits in a commit group; nobody sees it.
*Durable*: its group was synced; from then on consumers, readers and the replicator may have it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from gateway.broker.producer import Producer, ProducerOwner
from gateway.broker.settings import NamespacePolicy
from gateway.broker.subscription import RECORD_SIZE, Subscription, durable
from gateway.clock import Clock
from gateway.errors import LogError, NotAllowed, ProducerBusy, StorageUnavailable
from gateway.limits import LEDGER_ENTRIES_MAX, PRODUCERS_REMEMBERED_MAX
from gateway.log import Journal, PendingGroup, Reader
from gateway.log.records import SubscriptionRecord
from gateway.message import Position
from gateway.metadata.cursor import CursorState
from gateway.metadata.states import TopicState
from gateway.names import TopicName

ENTRY_OVERHEAD = 32
"""Bytes that an entry is taken to need in a group beyond its own."""
DUPLICATE = -1
"""In place of an entry id: the entry is already stored."""


class Topic:
    """A topic partition that is open. All methods belong to the event loop's thread."""

    def __init__(
        self,
        name: TopicName,
        state: TopicState,
        *,
        journal: Journal,
        reader: Reader,
        clock: Clock,
        policy: NamespacePolicy,
    ) -> None:
        self.name = name
        self.full_name = str(name)
        self.ledger_id = state.ledger_id
        self.partition = name.partition
        self.journal = journal
        self.reader = reader
        self.policy = policy
        self.next_entry_id = state.next_entry_id
        """The id that the next entry gets; ids up to it are appended."""
        self.durable_end = state.next_entry_id
        """Entries below this id are durable. Never above next_entry_id."""
        self.last_group: PendingGroup | None = None
        """The group that holds the last appended entry, until it is durable."""
        self.producers: dict[str, Producer] = {}
        """Connected producers by name."""
        self.subscriptions: dict[str, Subscription] = {}
        self._creating: dict[str, asyncio.Task[Subscription]] = {}
        """Of `subscriptions`, those that are not durable yet."""
        self._boottime_ns = clock.boottime_ns
        self._sequence_ids: OrderedDict[str, int] = OrderedDict(
            (producer_name, producer.last_sequence_id) for producer_name, producer in state.producers.items()
        )
        """Last sequence id by producer name, least recently connected first."""
        for kept in state.subscriptions:
            self.subscriptions[kept.name] = Subscription(
                self, kept.name, kept.cursor, subscription_id=kept.subscription_id
            )

    # Publishing

    async def add_producer(
        self, owner: ProducerOwner, *, producer_id: int, name: str, generated_name: bool, epoch: int
    ) -> Producer:
        """Let a producer in under `name`; a successor replaces its predecessor.

        Raises: ProducerBusy while another producer of that name is connected and answers.
        """
        # After a power cut at the device the old connection may be half open for as long as TCP likes: ask it. Whoever
        # took the name over during the asking is asked in its turn.
        asked = None
        while (present := self.producers.get(name)) is not asked:
            if present is None or self._succeeds(present, owner, producer_id, epoch):
                break
            if await present.owner.is_alive() and self.producers.get(name) is present:
                raise ProducerBusy(f"producer '{name}' is already connected to {self.full_name}")
            asked = present
        self.remove_named_producer(name)
        last_sequence_id = self._sequence_ids.get(name, -1) if self.policy.deduplication else -1
        producer = Producer(
            owner,
            producer_id=producer_id,
            name=name,
            generated_name=generated_name,
            epoch=epoch,
            last_sequence_id=last_sequence_id,
        )
        self.producers[name] = producer
        return producer

    def remove_named_producer(self, name: str) -> None:
        """Take the producer of that name away, if there is one: its peer is told."""
        present = self.producers.get(name)
        if present is not None:
            self.remove_producer(present)
            present.owner.producer_closed(present)

    def remove_producer(self, producer: Producer) -> None:
        """Let a producer go. Its last sequence id is remembered."""
        if producer.closed:
            return
        producer.closed = True
        del self.producers[producer.name]
        self._sequence_ids[producer.name] = producer.last_sequence_id
        self._sequence_ids.move_to_end(producer.name)
        while len(self._sequence_ids) > PRODUCERS_REMEMBERED_MAX:
            self._sequence_ids.popitem(last=False)

    def append(
        self, producer: Producer, data: bytes, key: int | None, messages: int, group: PendingGroup | None = None
    ) -> int:
        """Append an entry to the pending commit group and give it its id; DUPLICATE if `key` was stored before.

        `key` None: the entry is not looked up and not remembered (a chunk that is not the last of its message).
        `group` is the pending one, with room for the entry, where the entry is part of an atomic change: asked for
        entry by entry, a group is closed when it is large, in the middle of the change.

        `self.last_group` tells when it (or what it duplicates) is durable: None means that it already is.
        Raises: StorageUnavailable.
        """
        if key is not None and key <= producer.last_sequence_id and self.policy.deduplication:
            return DUPLICATE
        entry_id = self.next_entry_id
        if entry_id >= LEDGER_ENTRIES_MAX:
            raise NotAllowed(f"{self.full_name} holds {LEDGER_ENTRIES_MAX} entries, the most that one ledger can")
        if group is None:
            try:
                group = self.journal.group(len(data) + ENTRY_OVERHEAD)
            except LogError as error:
                raise StorageUnavailable(str(error), hint=error.hint) from error
        group.add_entry(self.ledger_id, entry_id, data, messages, self._boottime_ns())
        self.next_entry_id = entry_id + 1
        if key is not None:
            producer.last_sequence_id = key
            if not producer.generated_name:
                group.producers[self.ledger_id, producer.name] = (key, producer.epoch)
        if group is not self.last_group:
            self.last_group = group
            self.journal.commit_within(self.policy.commit_interval_ns, self.full_name)
        return entry_id

    def committed(self, next_entry_id: int) -> None:
        """Entries below `next_entry_id` are durable: let consumers have them."""
        self.durable_end = next_entry_id
        if next_entry_id == self.next_entry_id:
            self.last_group = None
        for subscription in tuple(self.subscriptions.values()):
            subscription.wake()

    # Subscriptions

    async def subscription(
        self, name: str, *, next_entry_id: int, new_subscription_id: Callable[[], int]
    ) -> Subscription:
        """The durable subscription of that name; a new one begins at `next_entry_id` and is durable on return.

        Raises: StorageUnavailable.
        """
        creating = self._creating.get(name)
        if creating is None:
            present = self.subscriptions.get(name)
            if present is not None:
                return present
            subscription = Subscription(
                self, name, CursorState(next_entry_id - 1), subscription_id=new_subscription_id()
            )
            self.subscriptions[name] = subscription
            creating = asyncio.get_running_loop().create_task(self._create(subscription))
            self._creating[name] = creating
        # Whoever asked first may be gone before it is durable; it comes to be all the same, for the others and on disk.
        return await asyncio.shield(creating)

    async def _create(self, subscription: Subscription) -> Subscription:
        name = subscription.name
        record = SubscriptionRecord(subscription.subscription_id, self.ledger_id, name, subscription.cursor.mark_delete)
        try:
            await self.commit(lambda group: group.add_record(record), RECORD_SIZE)
        except BaseException:
            if self.subscriptions.get(name) is subscription:
                del self.subscriptions[name]
            raise
        finally:
            del self._creating[name]
        return subscription

    def reader_subscription(self, name: str, *, next_entry_id: int) -> Subscription:
        """A subscription without durability, as readers use; it begins at `next_entry_id`, if it is new."""
        present = self.subscriptions.get(name)
        if present is not None:
            return present
        subscription = Subscription(self, name, CursorState(next_entry_id - 1), subscription_id=0)
        self.subscriptions[name] = subscription
        return subscription

    def drop_if_unused(self, subscription: Subscription) -> None:
        """Forget a subscription that is not durable and has no consumer."""
        if not subscription.durable and not subscription.consumers:
            subscription.dispatcher.paused = True
            self.subscriptions.pop(subscription.name, None)

    def first_from(self, position: Position) -> int:
        """The entry id at which reading from `position` (inclusive) begins: stored, or the next one to be."""
        if position.ledger_id < self.ledger_id:
            return max(0, self.reader.first_entry_id(self.ledger_id))
        if position.ledger_id > self.ledger_id:
            return self.durable_end
        return min(max(0, position.entry_id), self.durable_end)

    # Life

    def check_room(self, size: int) -> None:
        """Raises: StorageUnavailable where `commit` would."""
        try:
            self.journal.group(size, essential=True)
        except LogError as error:
            raise StorageUnavailable(str(error), hint=error.hint) from error

    async def commit(self, add: Callable[[PendingGroup], None], size: int) -> None:
        """Add records to the pending group and return when they are durable. Raises: StorageUnavailable."""
        try:
            group = self.journal.group(size, essential=True)
        except LogError as error:
            raise StorageUnavailable(str(error), hint=error.hint) from error
        self.journal.commit_within(0, self.full_name)
        await durable(add, group)

    async def close(self) -> None:
        """Take everybody away and read nothing more; durable subscriptions stay."""
        for producer in tuple(self.producers.values()):
            self.remove_producer(producer)
            producer.owner.producer_closed(producer)
        for subscription in tuple(self.subscriptions.values()):
            await subscription.dispatcher.stop()
            subscription.close_consumers()

    @property
    def last_position(self) -> Position:
        """Of the last durable entry; Position(-1, -1): the topic is empty."""
        return Position(self.ledger_id, self.durable_end - 1) if self.durable_end else Position(-1, -1)

    @staticmethod
    def _succeeds(present: Producer, owner: ProducerOwner, producer_id: int, epoch: int) -> bool:
        if present.owner is owner:
            return present.producer_id == producer_id
        return present.generated_name and epoch > present.epoch


async def wait_for_last_group(topic: Topic) -> None:
    """Return when everything appended to the topic so far is durable. Raises: StorageUnavailable."""
    if topic.last_group is not None:
        await durable(lambda group: None, topic.last_group)
