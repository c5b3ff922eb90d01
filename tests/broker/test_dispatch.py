"""Dispatchers against a log that answers when the test says so: what becomes of reads that nobody waits for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from gateway.broker.consumer import Consumer
from gateway.broker.subscription import Subscription
from gateway.broker.topic import Topic
from gateway.log import ReadResult, StoredEntry
from gateway.message import SubscriptionType
from gateway.metadata.cursor import CursorState


class SlowReader:
    """Nothing is cached; each read waits to be answered."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, asyncio.Future[None]]] = []

    def cached(self, *_: Any) -> None:
        return None

    async def read(self, ledger_id: int, first_entry_id: int, *, entries_max: int, size_max: int) -> ReadResult:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append((first_entry_id, entries_max, answered))
        await answered
        entries = [StoredEntry(number, b"x", 1, 0) for number in range(first_entry_id, first_entry_id + entries_max)]
        return ReadResult(entries, first_entry_id + entries_max)

    async def answer(self) -> None:
        """Answer all reads until none is asked for."""
        await turn()
        while self.asked:
            asked, self.asked = self.asked, []
            for _, _, answered in asked:
                if not answered.done():
                    answered.set_result(None)
            await turn()


@dataclass
class FakeTopic:
    reader: SlowReader = field(default_factory=SlowReader)
    name: str = "topic"
    ledger_id: int = 1
    durable_end: int = 10


@dataclass
class Owner:
    """Takes what is delivered."""

    writable: bool = True
    entry_ids: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def deliver(self, consumer: Consumer, entry: StoredEntry, redelivery_count: int, ack_set: tuple[int, ...]) -> None:
        self.entry_ids.append(entry.entry_id)
        self.counts.append(redelivery_count)

    def consumer_closed(self, consumer: Consumer) -> None:
        pass

    def active_changed(self, consumer: Consumer, active: bool) -> None:
        pass


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def make() -> tuple[FakeTopic, Subscription]:
    """A subscription without durability: nothing of it is written."""
    topic = FakeTopic()
    return topic, Subscription(cast(Topic, topic), "s", CursorState(-1), subscription_id=0)


def join(subscription: Subscription, kind: SubscriptionType, permits: int = 100) -> tuple[Consumer, Owner]:
    owner = Owner()
    consumer = Consumer(owner, subscription, consumer_id=0, name="c")
    subscription.add_consumer(consumer, kind)
    consumer.permits = permits
    subscription.wake()
    return consumer, owner


async def test_read_of_the_last_consumer_is_not_delivered_twice_to_the_next() -> None:
    """One who leaves while the log is read and one who joins in another way before it answers."""
    for before in SubscriptionType.shared, SubscriptionType.exclusive, SubscriptionType.failover:
        for after in SubscriptionType.exclusive, SubscriptionType.shared, SubscriptionType.failover:
            topic, subscription = make()
            leaving, nobody = join(subscription, before)
            await turn()
            subscription.remove_consumer(leaving)
            _, owner = join(subscription, after)
            await topic.reader.answer()
            assert nobody.entry_ids == []
            assert sorted(owner.entry_ids) == list(range(10)), (before, after)


async def test_read_from_before_a_rewind_is_thrown_away() -> None:
    """What it brings belongs to a place where nobody is any more."""
    topic, subscription = make()
    consumer, owner = join(subscription, SubscriptionType.exclusive)
    await turn()
    subscription.cursor.reset(6)
    subscription.dispatcher.rewind()
    await topic.reader.answer()
    assert owner.entry_ids == [7, 8, 9]
    assert consumer.permits == 97


async def test_seek_during_a_read_leaves_one_reader() -> None:
    """Consumers come back while the old read is still under way."""
    topic, subscription = make()
    join(subscription, SubscriptionType.exclusive)
    await turn()
    await subscription.seek(4)
    _, owner = join(subscription, SubscriptionType.exclusive)
    await topic.reader.answer()
    assert owner.entry_ids == [4, 5, 6, 7, 8, 9]


async def test_peer_that_takes_nothing_is_given_nothing() -> None:
    """And goes on where it was."""
    topic, subscription = make()
    _, owner = join(subscription, SubscriptionType.exclusive)
    owner.writable = False
    await topic.reader.answer()
    assert owner.entry_ids == []
    owner.writable = True
    subscription.wake()
    await topic.reader.answer()
    assert owner.entry_ids == list(range(10))


async def test_entry_acknowledged_while_it_is_read_is_not_delivered() -> None:
    """By another consumer, or by one that had it before."""
    for kind in SubscriptionType.shared, SubscriptionType.exclusive:
        topic, subscription = make()
        _, owner = join(subscription, kind)
        await turn()
        subscription.acknowledge(3)
        await topic.reader.answer()
        assert owner.entry_ids == [0, 1, 2, 4, 5, 6, 7, 8, 9]


async def test_shared_consumers_of_a_better_level_go_first() -> None:
    """As long as they have room."""
    topic, subscription = make()
    first, better = join(subscription, SubscriptionType.shared, permits=4)
    second, worse = join(subscription, SubscriptionType.shared, permits=100)
    second.priority_level = 1
    await topic.reader.answer()
    assert better.entry_ids == [0, 1, 2, 3]
    assert worse.entry_ids == [4, 5, 6, 7, 8, 9]
    assert (first.unacked_messages, second.unacked_messages) == (4, 6)


async def test_entries_put_back_go_before_new_ones_in_order() -> None:
    """Each once, its count one higher, however often it was named."""
    topic, subscription = make()
    consumer, owner = join(subscription, SubscriptionType.shared, permits=6)
    await topic.reader.answer()
    assert owner.entry_ids == [0, 1, 2, 3, 4, 5]
    subscription.dispatcher.redeliver(consumer, [4, 1, 1, 4, 99])
    consumer.permits = 4
    subscription.wake()
    await topic.reader.answer()
    assert owner.entry_ids[6:] == [1, 4, 6, 7]
    assert owner.counts[6:] == [1, 1, 0, 0]


async def test_entry_put_back_and_then_acknowledged_stays_away() -> None:
    """A client may have it done with after all."""
    topic, subscription = make()
    consumer, owner = join(subscription, SubscriptionType.shared)
    await topic.reader.answer()
    subscription.dispatcher.redeliver(consumer, [2, 3, 4])
    subscription.acknowledge(3)
    subscription.wake()
    await topic.reader.answer()
    assert owner.entry_ids[10:] == [2, 4]
    assert consumer.unacked_messages == 9


async def test_stopped_dispatcher_delivers_nothing_more() -> None:
    """The read that was under way is abandoned."""
    topic, subscription = make()
    _, owner = join(subscription, SubscriptionType.shared)
    await turn()
    await subscription.dispatcher.stop()
    await topic.reader.answer()
    subscription.wake()
    assert (owner.entry_ids, topic.reader.asked) == ([], [])
