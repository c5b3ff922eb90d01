"""Atomic commits inside the gateway: everything of one becomes durable in one group, or nothing of it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.broker.broker import Broker
from gateway.client.api import Ack, Commit, Output, ProducerOptions, StateChange
from gateway.client.local import LocalClient
from gateway.errors import BrokerError, GatewayError, NotAllowed
from gateway.limits import ATOMIC_UNIT_SIZE_MAX
from gateway.log import CommittedGroup
from gateway.message import EARLIEST, MessageId, Position
from tests.contracts.conftest import serving
from tests.contracts.test_client import FROM_FIRST, SHARED, TOPIC, entry

OUT = TOPIC + "-out"
STATE = StateChange("function/f", "count", b"1")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with serving(tmp_path / "data") as (broker, _):
        yield broker


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[LocalClient]:
    client = LocalClient(broker)
    yield client
    await client.close()


def watch(broker: Broker) -> list[CommittedGroup]:
    """The groups that are committed from now on and hold entries."""
    groups: list[CommittedGroup] = []
    broker.log.journal.on_commit(lambda group: groups.append(group) if group.runs else None)
    return groups


@pytest.mark.parametrize("size", [10, 600_000, 2_000_000])
async def test_commit_is_one_group_however_large(client: LocalClient, broker: Broker, size: int) -> None:
    """A group otherwise ends at a mebibyte: a crash in the middle would leave half of the change."""
    producers = [await client.create_producer(f"{OUT}-{number}", ProducerOptions(name="f")) for number in range(3)]
    groups = watch(broker)
    outputs = [Output(producer, entry(bytes(size)), sequence_id=0) for producer in producers]
    positions = await client.commit(Commit(outputs=outputs, state=[STATE]))
    assert [position.entry_id for position in positions] == [0, 0, 0]
    assert [sorted(run.ledger_id for run in group.runs) for group in groups] == [
        sorted(position.ledger_id for position in positions)
    ]


async def test_commit_moves_cursor_with_its_outputs(client: LocalClient, broker: Broker) -> None:
    """What was acknowledged in it is done when it is durable, not with some later group."""
    source = await client.create_producer(TOPIC)
    for number in range(3):
        await source.send_entry(entry(b"%d" % number), sequence_id=number)
    consumer = await client.subscribe(TOPIC, "f", FROM_FIRST)
    ids = [(await consumer.receive()).message_id for _ in range(3)]
    out = await client.create_producer(OUT, ProducerOptions(name="f"))
    await client.commit(
        Commit(acks=[Ack(consumer, ids[1], cumulative=True)], outputs=[Output(out, entry(b"out"), 0)], state=[STATE])
    )
    state = await broker.log.metadata.load_topic(TOPIC)
    assert state is not None
    assert state.subscriptions[0].cursor.mark_delete == 1
    assert await client.load_state("function/f") == {"count": b"1"}
    assert (await (await client.create_reader(OUT, EARLIEST)).read()).payload == b"out"


async def test_commit_with_a_closed_producer_is_refused_whole(client: LocalClient) -> None:
    """Neither the other output nor the acknowledgement nor the state is applied."""
    source = await client.create_producer(TOPIC)
    await source.send_entry(entry(b"in"), sequence_id=0)
    consumer = await client.subscribe(TOPIC, "f", SHARED)
    received = (await consumer.receive()).message_id
    good = await client.create_producer(OUT, ProducerOptions(name="good"))
    closed = await client.create_producer(OUT, ProducerOptions(name="closed"))
    await closed.close()
    outputs = [Output(good, entry(b"out"), 0), Output(closed, entry(b"out"), 0)]
    with pytest.raises(BrokerError):
        await client.commit(Commit(acks=[Ack(consumer, received)], outputs=outputs, state=[STATE]))
    assert await client.load_state("function/f") == {}
    assert not await (await client.create_reader(OUT, EARLIEST)).has_entry_available()
    await consumer.close()
    again = await client.subscribe(TOPIC, "f", SHARED)
    assert (await again.receive()).message_id == received


async def test_commit_with_a_closed_consumer_is_refused_whole(client: LocalClient) -> None:
    """Its subscription may be deleted: the acknowledgement would be lost in silence."""
    source = await client.create_producer(TOPIC)
    await source.send_entry(entry(b"in"), sequence_id=0)
    out = await client.create_producer(OUT, ProducerOptions(name="f"))
    consumer = await client.subscribe(TOPIC, "f", FROM_FIRST)
    received = (await consumer.receive()).message_id
    await consumer.unsubscribe()
    with pytest.raises(GatewayError):
        await client.commit(Commit(acks=[Ack(consumer, received)], outputs=[Output(out, entry(b"out"), 0)]))
    assert not await (await client.create_reader(OUT, EARLIEST)).has_entry_available()


async def test_commit_too_large_for_a_group_is_refused(client: LocalClient) -> None:
    """It can't be atomic."""
    out = await client.create_producer(OUT, ProducerOptions(name="f"))
    outputs = [Output(out, entry(bytes(3_000_000)), number) for number in range(ATOMIC_UNIT_SIZE_MAX // 3_000_000 + 1)]
    with pytest.raises(NotAllowed):
        await client.commit(Commit(outputs=outputs))
    assert not await (await client.create_reader(OUT, EARLIEST)).has_entry_available()


async def test_commit_of_nothing_is_durable_at_once(client: LocalClient) -> None:
    """A function that had nothing to say."""
    assert await client.commit(Commit()) == []


async def test_what_was_said_survives_a_restart(tmp_path: Path) -> None:
    """Cursors with their holes, parts of batches, sequence ids, state, and messages where they were."""
    async with serving(tmp_path / "data") as (broker, _):
        client = LocalClient(broker)
        producer = await client.create_producer(TOPIC, ProducerOptions(name="p"))
        for number in range(5):
            await producer.send_entry(entry(b"%d" % number), sequence_id=10 + number)
        consumer = await client.subscribe(TOPIC, "s", SHARED)
        received = [await consumer.receive() for _ in range(5)]
        for number in (0, 2, 3):
            consumer.acknowledge(received[number].message_id)
        await client.subscribe(TOPIC, "at the end")
        await client.commit(Commit(state=[STATE]))
        await client.close()
    async with serving(tmp_path / "data") as (broker, _):
        client = LocalClient(broker)
        producer = await client.create_producer(TOPIC, ProducerOptions(name="p"))
        assert producer.last_sequence_id == 14
        assert await producer.send_entry(entry(b"4"), sequence_id=14) == Position(-1, -1)
        assert (await producer.send_entry(entry(b"5"), sequence_id=15)).entry_id == 5
        consumer = await client.subscribe(TOPIC, "s", SHARED)
        again = [await consumer.receive() for _ in range(3)]
        assert sorted(message.payload for message in again) == [b"1", b"4", b"5"]
        assert again[0].message_id == MessageId(received[1].message_id.ledger_id, 1)
        behind = await client.subscribe(TOPIC, "at the end")
        assert (await behind.receive()).payload == b"5"
        assert await client.load_state("function/f") == {"count": b"1"}
        await client.close()
