"""A broker that says what a test tells it to, command by command."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, cast

from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import Connection, Role

Handler = Callable[["Peer", Any, bytes | None], None]


class ScriptedBroker:
    """Handshake, lookup, producers and subscriptions succeed; whatever a test puts into `handlers` goes before that."""

    def __init__(self) -> None:
        self.handlers: dict[CommandType, Handler] = {}
        self.received: list[tuple[CommandType, Any]] = []
        """Every command, in order; producers' entries are left out."""
        self.peers: list[Peer] = []
        self.lookup_url = ""
        self.lookup_url_tls = ""
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.lookup_url = self.url
        self.lookup_url_tls = f"pulsar+ssl://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"pulsar://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()

    def of(self, kind: CommandType) -> list[Any]:
        """Commands of one kind, in order."""
        return [command for received, command in self.received if received is kind]


class Peer(asyncio.Protocol):
    """One connection, as the broker sees it."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self.broker = broker
        self.wire = Connection(Role.broker, now_ns=time.monotonic_ns())
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.broker.peers.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        for number, command, entry in self.wire.receive_data(data, time.monotonic_ns()):
            kind = CommandType(number)
            self.broker.received.append((kind, command))
            handler = self.broker.handlers.get(kind, Peer._answer)
            handler(self, command, entry)
        self.flush()

    def flush(self) -> None:
        self.transport.writelines(self.wire.data_to_send())

    def send(self, kind: CommandType, body: Any) -> None:
        self.wire.send(kind, body)
        self.flush()

    def _answer(self, command: Any, entry: bytes | None) -> None:
        match type(command).__name__:
            case "CommandConnect":
                self.wire.connected(server_version="a broker")
            case "CommandPartitionedTopicMetadata":
                answer = commands.CommandPartitionedTopicMetadataResponse(
                    request_id=command.request_id, response=commands.METADATA_SUCCESS, partitions=0
                )
                self.send(CommandType.PARTITIONED_METADATA_RESPONSE, answer)
            case "CommandLookupTopic":
                found = commands.CommandLookupTopicResponse(
                    request_id=command.request_id,
                    response=commands.LOOKUP_CONNECT,
                    brokerServiceUrl=self.broker.lookup_url,
                    brokerServiceUrlTls=self.broker.lookup_url_tls,
                )
                self.send(CommandType.LOOKUP_RESPONSE, found)
            case "CommandProducer":
                success = commands.CommandProducerSuccess(
                    request_id=command.request_id, producer_name=command.producer_name or "invented"
                )
                self.send(CommandType.PRODUCER_SUCCESS, success)
            case "CommandSubscribe" | "CommandCloseProducer" | "CommandCloseConsumer":
                self.send(CommandType.SUCCESS, commands.CommandSuccess(request_id=command.request_id))
            case "CommandSend":
                self.wire.send_receipt(command.producer_id, command.sequence_id, None, 1, command.sequence_id)
