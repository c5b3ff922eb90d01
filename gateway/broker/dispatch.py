"""Which consumer of a subscription gets which entry, and when entries go out again.

Two ways: one active consumer gets everything in order (exclusive, failover), or all share (shared). A dispatcher
reads the log from its *read position* on; nothing it knows survives a restart: what was not acknowledged is simply
read again.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from gateway.broker.consumer import Consumer
from gateway.errors import LogError
from gateway.limits import DISPATCH_ENTRIES_MAX, MIB
from gateway.log import ReadResult, StoredEntry
from gateway.wire.acks import words_of_mask

if TYPE_CHECKING:
    from gateway.broker.subscription import Subscription

logger = logging.getLogger(__name__)

READ_AGAIN_S = 1.0
"""Pause after a read that failed."""
READ_SIZE_MAX = 1 * MIB
"""Bytes read for one subscription in one step."""


class Dispatcher(ABC):
    """Moves entries of one subscription from the log to its consumers, as fast as they give permits."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.next_entry_id = subscription.cursor.next_unacked(0)
        """The read position: the next entry never yet delivered since the subscription was opened or rewound."""
        self.paused = False
        """True while the cursor is being moved by a seek."""
        self._reading: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Deliver what can be delivered now. Called whenever entries, permits, consumers or room appear."""
        while self._reading is None and not self.paused and self._any_ready():
            stretch = self._next_stretch()
            if stretch is None:
                return
            first_entry_id, entries_max = stretch
            topic = self.subscription.topic
            entries = topic.reader.cached(topic.ledger_id, first_entry_id, entries_max, READ_SIZE_MAX)
            if entries is None:
                self._reading = asyncio.get_running_loop().create_task(self._read(first_entry_id, entries_max))
                return
            self._hand_out(ReadResult(entries, entries[-1].entry_id + 1), first_entry_id, entries_max)

    async def stop(self) -> None:
        """Deliver nothing more; a read that is under way is abandoned."""
        self.paused = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _read(self, first_entry_id: int, entries_max: int) -> None:
        topic = self.subscription.topic
        rewinds = self.subscription.rewinds
        try:
            result = await topic.reader.read(
                topic.ledger_id, first_entry_id, entries_max=entries_max, size_max=READ_SIZE_MAX
            )
        except LogError as error:
            # Nothing is skipped: the device may answer later, and who waits is better off than who misses something.
            logger.error("%s can't be read from entry %d on: %s", topic.full_name, first_entry_id, error)
            asyncio.get_running_loop().call_later(READ_AGAIN_S, self.wake)
            return
        finally:
            self._reading = None
        # What was read before a seek or a rewind belongs to a position that nobody is at any more.
        if rewinds == self.subscription.rewinds and not self.paused:
            self._hand_out(result, first_entry_id, entries_max)
        self.wake()

    def _deliver(self, consumer: Consumer, entry: StoredEntry, redelivery_count: int) -> int:
        """Hand over what of an entry is not acknowledged. Returns the messages charged."""
        partial = self.subscription.cursor.batches.get(entry.entry_id)
        if partial is None:
            consumer.deliver(entry, messages=entry.messages, redelivery_count=redelivery_count, ack_set=())
            return entry.messages
        _, still_unacked = partial
        messages = still_unacked.bit_count()
        consumer.deliver(
            entry, messages=messages, redelivery_count=redelivery_count, ack_set=words_of_mask(still_unacked)
        )
        return messages

    @abstractmethod
    def add(self, consumer: Consumer) -> None:
        """A consumer joined."""

    @abstractmethod
    def remove(self, consumer: Consumer) -> None:
        """A consumer left: what it holds goes back."""

    @abstractmethod
    def redeliver(self, consumer: Consumer, entry_ids: list[int] | None) -> None:
        """Deliver again what this consumer holds of `entry_ids` (None: all of it)."""

    @abstractmethod
    def acknowledged(self, entry_id: int) -> None:
        """An entry is wholly acknowledged."""

    @abstractmethod
    def rewind(self) -> None:
        """Begin again at the cursor, as after a seek."""

    @abstractmethod
    def _any_ready(self) -> bool: ...

    @abstractmethod
    def _next_stretch(self) -> tuple[int, int] | None:
        """What to read next: first entry id and number of entries at most; None: nothing is there."""

    @abstractmethod
    def _hand_out(self, result: ReadResult, first_entry_id: int, entries_max: int) -> None:
        """Deliver what was read."""

    def _new_entries(self) -> tuple[int, int] | None:
        available = self.subscription.topic.durable_end - self.next_entry_id
        return (self.next_entry_id, min(available, DISPATCH_ENTRIES_MAX)) if available > 0 else None


class SingleActiveDispatcher(Dispatcher):
    """Exclusive and failover: one consumer gets every entry, in order; the others wait for it to leave."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self.active: Consumer | None = None

    def add(self, consumer: Consumer) -> None:
        self._choose()
        consumer.owner.active_changed(consumer, consumer is self.active)

    def remove(self, consumer: Consumer) -> None:
        if consumer is self.active:
            self.active = None
            self.rewind()
        self._choose()

    def redeliver(self, consumer: Consumer, entry_ids: list[int] | None) -> None:
        # Order is the promise here, so single entries can't go back: everything unacknowledged goes out again.
        if consumer is self.active:
            self.rewind()

    def acknowledged(self, entry_id: int) -> None:
        pass

    def rewind(self) -> None:
        self.subscription.rewinds += 1
        self.next_entry_id = self.subscription.cursor.mark_delete + 1

    def _choose(self) -> None:
        consumers = self.subscription.consumers
        best = min(consumers, key=lambda consumer: (consumer.priority_level, consumer.name), default=None)
        if best is self.active:
            return
        previous, self.active = self.active, best
        if previous is not None:
            self.rewind()
            previous.owner.active_changed(previous, False)
        if best is not None:
            best.owner.active_changed(best, True)

    def _any_ready(self) -> bool:
        return self.active is not None and self.active.ready

    def _next_stretch(self) -> tuple[int, int] | None:
        return self._new_entries()

    def _hand_out(self, result: ReadResult, first_entry_id: int, entries_max: int) -> None:
        consumer, cursor = self.active, self.subscription.cursor
        if consumer is None:
            return
        for entry in result.entries:
            if not consumer.ready:
                self.next_entry_id = entry.entry_id
                return
            if not cursor.contains(entry.entry_id):
                self._deliver(consumer, entry, 0)
        self.next_entry_id = max(self.next_entry_id, result.next_entry_id)


class SharedDispatcher(Dispatcher):
    """Shared: each entry goes to one of the consumers in turn, and back to any of them if it is not acknowledged."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self.holders: dict[int, Consumer] = {}
        """Who holds an entry that was delivered and is not acknowledged."""
        self.redelivery_counts: dict[int, int] = {}
        """Of entries that were put back by a negative acknowledgement at least once."""
        self._replay: list[int] = []
        """Heap of entry ids that go out again, before new ones."""
        self._replay_ids: set[int] = set()
        self._turn = 0

    def add(self, consumer: Consumer) -> None:
        pass

    def remove(self, consumer: Consumer) -> None:
        self._put_back(consumer, list(consumer.pending), count=False)

    def redeliver(self, consumer: Consumer, entry_ids: list[int] | None) -> None:
        self._put_back(consumer, list(consumer.pending) if entry_ids is None else entry_ids, count=True)

    def acknowledged(self, entry_id: int) -> None:
        holder = self.holders.pop(entry_id, None)
        if holder is not None:
            holder.drop_pending(entry_id)
        self.redelivery_counts.pop(entry_id, None)

    def rewind(self) -> None:
        self.subscription.rewinds += 1
        for entry_id, holder in self.holders.items():
            holder.drop_pending(entry_id)
        self.holders.clear()
        self.redelivery_counts.clear()
        self._replay.clear()
        self._replay_ids.clear()
        self.next_entry_id = self.subscription.cursor.mark_delete + 1

    def _put_back(self, consumer: Consumer, entry_ids: list[int], *, count: bool) -> None:
        for entry_id in entry_ids:
            if not consumer.drop_pending(entry_id):
                continue
            self.holders.pop(entry_id, None)
            if count:
                self.redelivery_counts[entry_id] = self.redelivery_counts.get(entry_id, 0) + 1
            self._replay_ids.add(entry_id)
            heapq.heappush(self._replay, entry_id)

    def _any_ready(self) -> bool:
        return any(consumer.ready for consumer in self.subscription.consumers)

    def _pick(self) -> Consumer | None:
        """The next ready consumer: the best priority level that has one, in turn within it."""
        ready = [consumer for consumer in self.subscription.consumers if consumer.ready]
        if not ready:
            return None
        level = min(consumer.priority_level for consumer in ready)
        candidates = [consumer for consumer in ready if consumer.priority_level == level]
        self._turn += 1
        return candidates[self._turn % len(candidates)]

    def _next_stretch(self) -> tuple[int, int] | None:
        cursor = self.subscription.cursor
        while self._replay and (self._replay[0] not in self._replay_ids or cursor.contains(self._replay[0])):
            self._replay_ids.discard(heapq.heappop(self._replay))
        if not self._replay:
            return self._new_entries()
        # A run of neighbours is read in one step; they leave the heap one by one as they are delivered.
        first = self._replay[0]
        length = 1
        while length < DISPATCH_ENTRIES_MAX and first + length in self._replay_ids:
            length += 1
        return first, length

    def _hand_out(self, result: ReadResult, first_entry_id: int, entries_max: int) -> None:
        cursor = self.subscription.cursor
        replayed = first_entry_id in self._replay_ids
        for entry in result.entries:
            entry_id = entry.entry_id
            if replayed and entry_id not in self._replay_ids:
                continue
            if not cursor.contains(entry_id) and entry_id not in self.holders:
                consumer = self._pick()
                if consumer is None:
                    return
                messages = self._deliver(consumer, entry, self.redelivery_counts.get(entry_id, 0))
                consumer.keep_pending(entry_id, messages)
                self.holders[entry_id] = consumer
            self._taken(entry_id, replayed)
        if replayed:
            # What could not be read is a gap: it never comes back.
            for entry_id in range(first_entry_id, min(result.next_entry_id, first_entry_id + entries_max)):
                self._replay_ids.discard(entry_id)
        else:
            self.next_entry_id = max(self.next_entry_id, result.next_entry_id)

    def _taken(self, entry_id: int, replayed: bool) -> None:
        if replayed:
            self._replay_ids.discard(entry_id)
        else:
            self.next_entry_id = entry_id + 1
