"""A broker on a real log, and clients of it that are a wire connection and nothing else: no socket, no library."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.broker.broker import Broker
from gateway.broker.session import Session
from gateway.broker.settings import BrokerSettings
from gateway.clock import SystemClock
from gateway.limits import SEGMENT_SIZE_MIN
from gateway.log import Log, LogSettings
from gateway.wire import commands
from gateway.wire.commands import BaseCommand, CommandType
from gateway.wire.connection import Connection, Role
from gateway.wire.entry import build_entry
from gateway.wire.frames import frame_payload_command
from gateway.wire.metadata import MessageMetadata

TOPIC = "persistent://plant/hall7/temperature"
WAIT_S = 10
"""Long enough for a sync of a slow disk; what fails waits for it once."""


def entry(payload: bytes = b"x", **fields: Any) -> bytes:
    """An entry as a client would send it; `fields` are those of its metadata."""
    metadata = MessageMetadata(**({"producer_name": "p", "sequence_id": 0, "publish_time": 1_000} | fields))
    return build_entry(metadata.SerializeToString(), payload)


class Peer:
    """A client: what it sends is handled at once, what it is answered is taken one command at a time."""

    def __init__(self, broker: Broker) -> None:
        self.alive = True
        """What the broker finds when it asks this connection for a sign of life."""
        self.probes = 0
        self._broker_side = Connection(Role.broker, now_ns=0)
        self._client_side = Connection(Role.client, now_ns=0)
        self._arrived = asyncio.Event()
        self.failures: list[str] = []
        """Why the session asked for the connection to be closed."""
        self._events: deque[tuple[CommandType, Any, bytes | None]] = deque()
        self.session = Session(
            broker, self._broker_side, flush=self._arrived.set, probe=self._probe, fail=self.failures.append
        )
        self._request_id = 0
        self._client_side.connect(client_version="test")
        self.deliver()
        self._take()
        assert self._events.popleft()[0] is CommandType.CONNECTED

    async def _probe(self) -> bool:
        self.probes += 1
        if not self.alive:
            await self.session.close()
        return self.alive

    def _take(self) -> None:
        data = b"".join(self._broker_side.data_to_send())
        self._events.extend(
            (CommandType(kind), body, data) for kind, body, data in self._client_side.receive_data(data, 0)
        )

    def _written(self) -> None:
        """Tell the session what a server does whose socket takes everything."""
        if self.session.flushed():
            self.session.writable = True
            self.session.wake_consumers()

    def deliver(self) -> None:
        """Hand everything sent so far to the broker, as if it arrived in one read."""
        data = b"".join(self._client_side.data_to_send())
        self.session.handle(self._broker_side.receive_data(data, 0))

    def say(self, kind: CommandType, **body: Any) -> None:
        """Send a command."""
        self.put(kind, **body)
        self.deliver()

    def put(self, kind: CommandType, **body: Any) -> None:
        """Send a command together with what comes next."""
        self._client_side.send(kind, _BODIES[kind](**body))

    def put_entry(self, producer_id: int, sequence_id: int, data: bytes) -> None:
        """Send an entry together with what comes next."""
        self._client_side.send_entry(producer_id, sequence_id, data)

    def send(self, producer_id: int, sequence_id: int, data: bytes | None = None) -> None:
        """Send an entry."""
        self.put_entry(producer_id, sequence_id, entry() if data is None else data)
        self.deliver()

    def send_as(self, data: bytes, **send: Any) -> None:
        """Send an entry under a SEND with any fields."""
        command = BaseCommand(type=CommandType.SEND, send=send).SerializeToString()
        self.session.handle(self._broker_side.receive_data(frame_payload_command(command, data) + data, 0))

    async def hear(self, kind: CommandType) -> Any:
        """The next command of the broker, which must be of that kind."""
        heard, body, _ = await self.hear_any()
        assert heard is kind, f"{heard.name} {body}, not {kind.name}"
        return body

    async def hear_any(self) -> tuple[CommandType, Any, bytes | None]:
        """The next command of the broker."""
        async with asyncio.timeout(WAIT_S):
            while True:
                self._arrived.clear()
                self._take()
                self._written()
                if self._events:
                    return self._events.popleft()
                await self._arrived.wait()

    async def quiet(self) -> bool:
        """Whether the broker says nothing although it has answered a question that was asked behind everything else."""
        self.say(CommandType.LOOKUP, topic=TOPIC, request_id=4_000_000)
        kind, body, _ = await self.hear_any()
        return kind is CommandType.LOOKUP_RESPONSE and body.request_id == 4_000_000

    def request_id(self) -> int:
        self._request_id += 1
        return self._request_id

    async def ask(self, kind: CommandType, answer: CommandType, **body: Any) -> Any:
        """Send a request and take its answer, which must come next."""
        request_id = self.request_id()
        self.say(kind, request_id=request_id, **body)
        heard = await self.hear(answer)
        assert heard.request_id == request_id
        return heard

    async def producer(self, producer_id: int = 0, *, topic: str = TOPIC, **body: Any) -> Any:
        """Create a producer."""
        return await self.ask(
            CommandType.PRODUCER, CommandType.PRODUCER_SUCCESS, topic=topic, producer_id=producer_id, **body
        )

    async def subscribe(self, consumer_id: int = 0, *, permits: int = 0, **body: Any) -> None:
        """Subscribe, from the first entry on if nothing else is said, and ask for messages."""
        described = {"topic": TOPIC, "subscription": "s", "subType": 0, "initialPosition": 1} | body
        await self.ask(CommandType.SUBSCRIBE, CommandType.SUCCESS, consumer_id=consumer_id, **described)
        if permits:
            self.say(CommandType.FLOW, consumer_id=consumer_id, messagePermits=permits)

    async def publish(self, *payloads: bytes, producer_id: int = 90) -> list[int]:
        """Publish to TOPIC and return the entry ids."""
        await self.producer(producer_id)
        ids = []
        for number, payload in enumerate(payloads):
            self.send(producer_id, number, entry(payload))
            ids.append((await self.hear(CommandType.SEND_RECEIPT)).message_id.entryId)
        await self.ask(CommandType.CLOSE_PRODUCER, CommandType.SUCCESS, producer_id=producer_id)
        return ids


_BODIES = {
    CommandType.PRODUCER: commands.CommandProducer,
    CommandType.CLOSE_PRODUCER: commands.CommandCloseProducer,
    CommandType.SUBSCRIBE: commands.CommandSubscribe,
    CommandType.CLOSE_CONSUMER: commands.CommandCloseConsumer,
    CommandType.UNSUBSCRIBE: commands.CommandUnsubscribe,
    CommandType.SEEK: commands.CommandSeek,
    CommandType.FLOW: commands.CommandFlow,
    CommandType.ACK: commands.CommandAck,
    CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES: commands.CommandRedeliverUnacknowledgedMessages,
    CommandType.LOOKUP: commands.CommandLookupTopic,
    CommandType.PARTITIONED_METADATA: commands.CommandPartitionedTopicMetadata,
    CommandType.GET_LAST_MESSAGE_ID: commands.CommandGetLastMessageId,
    CommandType.GET_TOPICS_OF_NAMESPACE: commands.CommandGetTopicsOfNamespace,
    CommandType.GET_SCHEMA: commands.CommandGetSchema,
    CommandType.GET_OR_CREATE_SCHEMA: commands.CommandGetOrCreateSchema,
    CommandType.CONSUMER_STATS: commands.CommandConsumerStats,
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    clock = SystemClock()
    settings = LogSettings(tmp_path / "data", quota_bytes=4 * SEGMENT_SIZE_MIN, segment_bytes=SEGMENT_SIZE_MIN)
    log = await Log.open(settings, clock)
    broker = Broker(log, clock, BrokerSettings())
    yield broker
    await broker.close()
    await log.close()


@pytest.fixture
async def join(broker: Broker) -> AsyncIterator[Callable[[], Peer]]:
    """Makes clients, and sees them off."""
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer(broker))
        return peers[-1]

    yield make
    for peer in peers:
        await peer.session.close()


@pytest.fixture
def peer(join: Callable[[], Peer]) -> Peer:
    return join()


Joiner = Callable[[], Peer]
