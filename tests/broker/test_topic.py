"""One topic: who may publish under a name, and what is durable when somebody is told so."""

from __future__ import annotations

import asyncio

from gateway.broker.broker import Broker
from gateway.broker.producer import Producer, deduplication_key
from gateway.broker.settings import NamespacePolicy
from gateway.broker.topic import DUPLICATE, Topic
from gateway.errors import ProducerBusy
from gateway.message import EARLIEST, LATEST, Position
from gateway.names import TopicName
from tests.broker.conftest import TOPIC, entry


class Owner:
    """Holds producers, and answers when it is asked whether it lives."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive = alive
        self.closed: list[str] = []

    async def is_alive(self) -> bool:
        await asyncio.sleep(0)
        return self.alive

    def producer_closed(self, producer: Producer) -> None:
        self.closed.append(producer.name)


async def add(topic: Topic, owner: Owner, name: str = "p", *, generated: bool = False) -> Producer:
    return await topic.add_producer(owner, producer_id=0, name=name, generated_name=generated, epoch=0)


def test_key_is_the_highest_id_that_is_said() -> None:
    """Except where it is below the first, which says nothing."""
    assert deduplication_key(5, None) == 5
    assert deduplication_key(5, 9) == 9
    assert deduplication_key(5, 0) == 5


async def test_last_sequence_id_outlives_its_producer(broker: Broker) -> None:
    """And rises over the ids that were left out."""
    topic = await broker.topic(TopicName.parse(TOPIC))
    producer = await add(topic, Owner())
    results = [topic.append(producer, entry(), key, 1) for key in (0, 7, 7, 3, 8)]
    assert results == [0, 1, DUPLICATE, DUPLICATE, 2]
    topic.remove_producer(producer)
    topic.remove_producer(producer)
    assert (await add(topic, Owner())).last_sequence_id == 8
    assert (await add(topic, Owner(), "another")).last_sequence_id == -1


async def test_name_goes_to_one_of_those_who_want_a_dead_ones(broker: Broker) -> None:
    """Two ask at the same time while the holder's connection is being probed."""
    topic = await broker.topic(TopicName.parse(TOPIC))
    dead = Owner(alive=False)
    await add(topic, dead)
    owners = [Owner(), Owner()]
    outcomes = await asyncio.gather(*(add(topic, owner) for owner in owners), return_exceptions=True)
    assert dead.closed == ["p"]
    assert {type(outcome) for outcome in outcomes} == {Producer, ProducerBusy}
    assert [owner.closed for owner in owners] == [[], []]


async def test_topic_without_deduplication_stores_everything(broker: Broker) -> None:
    """Where a namespace asks for it."""
    broker.settings.namespaces["plant/raw"] = NamespacePolicy(deduplication=False)
    topic = await broker.topic(TopicName.parse("plant/raw/t"))
    producer = await add(topic, Owner())
    assert [topic.append(producer, entry(), key, 1) for key in (0, 0, 0)] == [0, 1, 2]


async def test_entries_are_seen_when_they_are_durable(broker: Broker) -> None:
    """Not when they are appended."""
    topic = await broker.topic(TopicName.parse(TOPIC))
    producer = await add(topic, Owner())
    topic.append(producer, entry(), 0, 1)
    assert (topic.next_entry_id, topic.durable_end, topic.last_position) == (1, 0, Position(-1, -1))
    await broker.log.journal.sync()
    assert (topic.durable_end, topic.last_position, topic.last_group) == (1, Position(topic.ledger_id, 0), None)


async def test_positions_lie_within_the_topic(broker: Broker) -> None:
    """Whatever a client says, reading begins at an entry or at the end."""
    topic = await broker.topic(TopicName.parse(TOPIC))
    producer = await add(topic, Owner())
    for key in range(3):
        topic.append(producer, entry(), key, 1)
    await broker.log.journal.sync()
    ledger_id = topic.ledger_id
    places = [EARLIEST, Position(ledger_id, -1), Position(ledger_id, 2), Position(ledger_id, 99), LATEST]
    assert [topic.first_from(place) for place in places] == [0, 0, 2, 3, 3]


async def test_second_to_ask_for_a_subscription_waits_until_it_is_durable(broker: Broker) -> None:
    """Told earlier, a crash would take from it what it was promised."""
    topic = await broker.topic(TopicName.parse(TOPIC))
    ids = iter(range(100, 110))

    async def ask() -> bool:
        await topic.subscription("s", next_entry_id=0, new_subscription_id=lambda: next(ids))
        state = await broker.log.metadata.load_topic(TOPIC)
        return state is not None and [one.name for one in state.subscriptions] == ["s"]

    assert all(await asyncio.gather(ask(), ask()))


async def test_subscription_outlives_who_asked_for_it(broker: Broker) -> None:
    """A connection that ends before it is durable must not leave it on disk and nowhere else."""
    topic = await broker.topic(TopicName.parse(TOPIC))
    asking = asyncio.ensure_future(topic.subscription("s", next_entry_id=0, new_subscription_id=lambda: 100))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    again = await topic.subscription("s", next_entry_id=0, new_subscription_id=lambda: 101)
    assert again.subscription_id == 100
    state = await broker.log.metadata.load_topic(TOPIC)
    assert state is not None
    assert [one.subscription_id for one in state.subscriptions] == [100]
