"""A broker on a real log, and a client of it: in the same process, or over a socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.broker.broker import Broker
from gateway.broker.server import BrokerServer
from gateway.broker.settings import BrokerSettings
from gateway.client.api import Client
from gateway.client.local import LocalClient
from gateway.client.remote import RemoteClient
from gateway.clock import SystemClock
from gateway.log import Log, LogSettings


@dataclass
class Door:
    """One way to a broker's topics."""

    client: Client
    broker: Broker
    kind: str
    service_url: str

    async def another(self) -> Client:
        """A second client of the same broker, to be closed by the test."""
        return await _client(self.kind, self.broker, self.service_url)


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Broker, str]]:
    """A broker and its service URL."""
    clock = SystemClock()
    log = await Log.open(LogSettings(folder), clock)
    broker = Broker(log, clock, BrokerSettings())
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = BrokerServer(broker, clock.monotonic_ns)
    await server.start(listener)
    try:
        yield broker, f"pulsar://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await server.close()
        await broker.close()
        await log.close()


async def _client(kind: str, broker: Broker, service_url: str) -> Client:
    return LocalClient(broker) if kind == "local" else await RemoteClient.connect(service_url)


@pytest.fixture(params=["local", "remote"])
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    async with serving(tmp_path / "data") as (broker, service_url):
        client = await _client(request.param, broker, service_url)
        yield Door(client, broker, request.param, service_url)
        await client.close()
