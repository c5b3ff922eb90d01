"""The broker's sockets: peers that ask and do not listen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from gateway.broker import server as server_module
from gateway.broker.broker import Broker
from gateway.broker.server import BrokerServer
from gateway.config.settings import Address
from gateway.daemon import bind
from gateway.errors import ProtocolError, ServerError
from gateway.names import TopicName
from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import Connection, Role
from tests.broker.conftest import TOPIC, Peer, entry

UNREAD = 256 * 1024
REQUESTS = 3_000
WAIT_S = 20


async def eventually(holds: Callable[[], bool]) -> None:
    """Let the event loop run until something holds."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - what is waited for belongs to the server, which tells nobody
            await asyncio.sleep(0.001)


async def test_server_reads_no_further_while_its_answers_go_unread(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a peer is to be told waits at the peer, not in our memory; when it listens, it gets every answer."""
    monkeypatch.setattr(server_module, "UNREAD_ANSWERS_SIZE_MAX", UNREAD)
    monkeypatch.setattr(server_module, "CONNECTION_WRITE_BUFFER_MAX", UNREAD // 2)
    for number in range(100):
        await broker.topic(TopicName.parse(f"{TOPIC}-{'long' * 40}-{number}"))
    await broker.log.journal.sync()
    server = BrokerServer(broker, lambda: 0)
    listener = bind(Address("127.0.0.1", 0), "a test")
    await server.start(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    client = Connection(Role.client, now_ns=0)
    client.connect(client_version="test")
    request = commands.CommandGetTopicsOfNamespace(request_id=1, namespace="plant/hall7")
    for _ in range(REQUESTS):
        client.send(CommandType.GET_TOPICS_OF_NAMESPACE, request)
    writer.writelines(client.data_to_send())
    await eventually(lambda: bool(server.connections))
    (connection,) = server.connections
    await eventually(lambda: not connection.session.room.is_set())
    transport = connection._transport
    assert transport is not None
    assert not transport.is_reading()
    held = transport.get_write_buffer_size()
    # One turn's worth of answers may come on top of the bound.
    assert UNREAD < held < UNREAD + 64 * 25_000
    answers = 0
    async with asyncio.timeout(WAIT_S):
        while answers < REQUESTS:
            events = client.receive_data(await reader.read(1 << 20), 0)
            answers += sum(kind == CommandType.GET_TOPICS_OF_NAMESPACE_RESPONSE for kind, _, _ in events)
        assert transport.is_reading()
    writer.close()
    await server.close()


async def test_session_bounds_the_bytes_of_requests_that_wait(broker: Broker, peer: Peer) -> None:
    """Requests can be large as well as many."""
    peer.session.room.clear()

    def flood() -> None:
        for number in range(10):
            peer.say(CommandType.LOOKUP, topic="t" * 1_000_000, request_id=number)

    with pytest.raises(ProtocolError, match="floods"):
        flood()


async def test_session_refuses_a_consumer_name_without_end(peer: Peer) -> None:
    """It would be kept for as long as the consumer is connected."""
    peer.say(
        CommandType.SUBSCRIBE,
        topic=TOPIC,
        subscription="s",
        subType=0,
        consumer_id=1,
        request_id=9,
        consumer_name="n" * 256,
    )
    refusal = await peer.hear(CommandType.ERROR)
    assert refusal.error == ServerError.NotAllowedError


async def test_server_bounds_the_incomplete_frames_of_all_peers(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes beyond it is closed; what it held is free again for the next."""
    monkeypatch.setattr(server_module, "PARTIAL_FRAMES_SIZE_MAX", 100_000)
    server = BrokerServer(broker, lambda: 0)
    listener = bind(Address("127.0.0.1", 0), "a test")
    await server.start(listener)
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        # The head of a frame of a megabyte, and a part of it that is more than all peers together may leave open.
        writer.write((1_000_000).to_bytes(4) + (10).to_bytes(4) + bytes(200_000))
        # Closed with bytes unread, so the peer may be told so by a reset.
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(WAIT_S):
                assert await reader.read() == b""
        writer.close()
        await eventually(lambda: not server.connections)
    assert server._partial_bytes == 0
    await server.close()


async def test_server_reads_no_further_while_too_much_waits_for_the_commit(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender is slowed down by its socket; every entry gets its receipt in the end."""
    monkeypatch.setattr(server_module, "PENDING_RECEIPTS_MAX", 10)
    server = BrokerServer(broker, lambda: 0)
    listener = bind(Address("127.0.0.1", 0), "a test")
    await server.start(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    client = Connection(Role.client, now_ns=0)
    client.connect(client_version="test")
    client.send(CommandType.PRODUCER, commands.CommandProducer(topic=TOPIC, producer_id=1, request_id=1))
    writer.writelines(client.data_to_send())
    heard: list[int] = []

    async def hear(kind: CommandType, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while heard.count(kind) < count:
                heard.extend(event[0] for event in client.receive_data(await reader.read(1 << 16), 0))

    await hear(CommandType.PRODUCER_SUCCESS, 1)
    (connection,) = server.connections
    paused: list[bool] = []
    read_no_further = connection._read_no_further

    def noted() -> None:
        read_no_further()
        assert connection._transport is not None
        paused.append(not connection._transport.is_reading())

    monkeypatch.setattr(connection, "_read_no_further", noted)
    for number in range(100):
        client.send_entry(1, number, entry())
    writer.writelines(client.data_to_send())
    await hear(CommandType.SEND_RECEIPT, 100)
    assert True in paused
    writer.close()
    await server.close()
