"""A session of the broker, with a client's side of the connection in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.broker.broker import Broker
from gateway.broker.producer import Producer
from gateway.broker.session import REQUESTS_WAITING_MAX, Session
from gateway.broker.settings import BrokerSettings
from gateway.clock import SystemClock
from gateway.errors import ProducerBusy, ProtocolError, ServerError
from gateway.limits import MIB
from gateway.log import Log, LogSettings
from gateway.names import TopicName
from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import Connection, Role
from gateway.wire.entry import build_entry
from gateway.wire.metadata import MessageMetadata

TOPIC = "persistent://public/default/session"
WAIT_S = 5.0


class Peer:
    """A client and the session that serves it."""

    def __init__(self, broker: Broker) -> None:
        self.client = Connection(Role.client, now_ns=0)
        self.broker_side = Connection(Role.broker, now_ns=0)
        self.arrived = asyncio.Event()
        self.failures: list[str] = []
        self.session = Session(
            broker, self.broker_side, flush=self.arrived.set, probe=self.alive, fail=self.failures.append
        )
        self.client.connect(client_version="test")
        self.carry()
        self.answers()

    async def alive(self) -> bool:
        return True

    def carry(self) -> None:
        self.session.handle(self.broker_side.receive_data(b"".join(self.client.data_to_send()), 0))

    def answers(self) -> list[Any]:
        return list(self.client.receive_data(b"".join(self.broker_side.data_to_send()), 0))

    async def ask(self, kind: CommandType, body: Any) -> list[Any]:
        self.arrived.clear()
        self.client.send(kind, body)
        self.carry()
        async with asyncio.timeout(WAIT_S):
            await self.arrived.wait()
        return self.answers()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Broker]:
    clock = SystemClock()
    log = await Log.open(LogSettings(folder / "data", 64 * MIB, 16 * MIB), clock)
    broker = Broker(log, clock, BrokerSettings())
    try:
        yield broker
    finally:
        await broker.close()
        await log.close()


class Owner:
    """Whoever holds a producer: its connection answers, or does not."""

    def __init__(self, *, alive: bool) -> None:
        self.alive = alive
        self.closed: list[Producer] = []

    async def is_alive(self) -> bool:
        await asyncio.sleep(0)
        return self.alive

    def producer_closed(self, producer: Producer) -> None:
        self.closed.append(producer)


def test_session_refuses_key_shared_and_leaves_no_subscription(tmp_path: Path) -> None:
    """What is refused has changed nothing: no subscription stays behind to keep a backlog for nobody."""

    async def run() -> None:
        async with opened(tmp_path) as broker:
            peer = Peer(broker)
            body = commands.CommandSubscribe(
                topic=TOPIC, subscription="s", subType=3, consumer_id=1, request_id=1, durable=True
            )
            answers = await peer.ask(CommandType.SUBSCRIBE, body)
            assert [(kind, command.error) for kind, command, _ in answers] == [
                (CommandType.ERROR, ServerError.NotAllowedError)
            ]
            assert all(not topic.subscriptions for topic in broker.topics.values())
            await peer.session.close()

    asyncio.run(run())


def test_topic_keeps_the_first_successor_of_a_half_open_producer(tmp_path: Path) -> None:
    """Of two that wait for a dead connection's name, the first gets it and keeps it: the second is refused."""

    async def run() -> None:
        async with opened(tmp_path) as broker:
            topic = await broker.topic(TopicName.parse(TOPIC))
            owners = [Owner(alive=False), Owner(alive=True), Owner(alive=True)]

            async def add(owner: Owner) -> Producer:
                return await topic.add_producer(owner, producer_id=1, name="p", generated_name=False, epoch=0)

            await add(owners[0])
            first, second = await asyncio.gather(add(owners[1]), add(owners[2]), return_exceptions=True)
            assert isinstance(second, ProducerBusy)
            assert topic.producers["p"] is first
            assert not owners[1].closed

    asyncio.run(run())


def test_session_refuses_a_producer_that_was_taken_away_while_it_connected(tmp_path: Path) -> None:
    """Nobody is told that a producer is there which the broker has already closed."""

    async def run() -> None:
        async with opened(tmp_path) as broker:
            peer = Peer(broker)
            topic = await broker.topic(TopicName.parse(TOPIC))
            create = topic.subscription

            async def taken_away(*arguments: Any, **options: Any) -> Any:
                topic.remove_named_producer("p")
                return await create(*arguments, **options)

            topic.subscription = taken_away  # type: ignore[method-assign]
            body = commands.CommandProducer(
                topic=TOPIC, producer_id=1, request_id=1, producer_name="p", initial_subscription_name="s"
            )
            answers = await peer.ask(CommandType.PRODUCER, body)
            async with asyncio.timeout(WAIT_S):
                while len(answers) < 2:
                    peer.arrived.clear()
                    await peer.arrived.wait()
                    answers += peer.answers()
            assert [kind for kind, _, _ in answers] == [CommandType.CLOSE_PRODUCER, CommandType.ERROR]
            assert not peer.session.producers
            await peer.session.close()

    asyncio.run(run())


def test_session_answers_a_seek_after_it_closed_the_consumer(tmp_path: Path) -> None:
    """A client that is told of its seek's success subscribes again, and must have heard of the close before."""

    async def run() -> None:
        async with opened(tmp_path) as broker:
            peer = Peer(broker)
            subscribe = commands.CommandSubscribe(topic=TOPIC, subscription="s", subType=0, consumer_id=1, request_id=1)
            await peer.ask(CommandType.SUBSCRIBE, subscribe)
            seek = commands.CommandSeek(consumer_id=1, request_id=2, message_publish_time=0)
            answers = await peer.ask(CommandType.SEEK, seek)
            assert [kind for kind, _, _ in answers] == [CommandType.CLOSE_CONSUMER, CommandType.SUCCESS]
            await peer.session.close()

    asyncio.run(run())


def test_session_ends_a_connection_that_floods_requests(tmp_path: Path) -> None:
    """Requests that nobody waits for are held up to a bound, and then the connection is closed."""

    async def run() -> None:
        async with opened(tmp_path) as broker:
            peer = Peer(broker)
            for request_id in range(REQUESTS_WAITING_MAX + 1):
                peer.client.send(CommandType.LOOKUP, commands.CommandLookupTopic(topic=TOPIC, request_id=request_id))
            with pytest.raises(ProtocolError):
                peer.carry()
            await peer.session.close()

    asyncio.run(run())


def test_session_answers_a_duplicate_behind_its_original_in_flight(tmp_path: Path) -> None:
    """Receipts leave in the order of the entries, and a duplicate's not before what it repeats is durable."""

    async def run() -> None:
        async with opened(tmp_path) as broker:
            peer = Peer(broker)
            body = commands.CommandProducer(topic=TOPIC, producer_id=1, request_id=1, producer_name="p")
            await peer.ask(CommandType.PRODUCER, body)
            metadata = MessageMetadata(producer_name="p", sequence_id=0, publish_time=1)
            entry = build_entry(metadata.SerializeToString(), b"x")
            for sequence_id in (0, 0, 1):
                peer.client.send_entry(1, sequence_id, entry)
            peer.carry()
            assert peer.answers() == []
            answers: list[Any] = []
            async with asyncio.timeout(WAIT_S):
                while len(answers) < 3:
                    peer.arrived.clear()
                    await peer.arrived.wait()
                    answers += peer.answers()
            assert [(command.sequence_id, command.message_id.entryId) for _, command, _ in answers] == [
                (0, 0),
                (0, 2**64 - 1),
                (1, 1),
            ]
            await peer.session.close()

    asyncio.run(run())
