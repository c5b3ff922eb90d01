"""An edge in this process on a real log, and a cloud that a test can make fail."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.broker.broker import Broker
from gateway.broker.settings import BrokerSettings
from gateway.client.api import ProducerOptions
from gateway.client.local import LocalClient
from gateway.client.messages import encode_entry
from gateway.clock import SystemClock
from gateway.log import Log, LogSettings
from gateway.message import OutgoingMessage
from gateway.replication import link, replicator, topic
from gateway.replication.replicator import Replicator
from gateway.replication.settings import ReplicationSettings
from gateway.replication.topic import TopicReplication
from tests.replication.cloud import FakeCloud

TOPIC = "persistent://plant/hall7/temperature"
WAIT_S = 20
PUBLISH_TIME_MS = 1_700_000_000_000


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something is so. Raises: TimeoutError."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is a fact about several parts, which none of them announces
            await asyncio.sleep(0.002)


class Edge:
    """One gateway's log, broker and replicator, in a folder that outlives them."""

    def __init__(self, folder: Path, cloud: FakeCloud) -> None:
        self.folder = folder
        self.cloud = cloud
        self.settings = ReplicationSettings(
            name="cloud", gateway_id="hall-7", service_url=cloud.url, namespaces=("plant/hall7",)
        )
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """As the daemon does: the replicator notes the ledgers' ends before anybody can publish."""
        self._stack = contextlib.AsyncExitStack()
        clock = SystemClock()
        self.log = await Log.open(LogSettings(self.folder), clock)
        self._stack.push_async_callback(self.log.close)
        self.client = LocalClient(Broker(self.log, clock, BrokerSettings()))
        self._stack.push_async_callback(self.client.close)
        self.replicator = Replicator(self.client, self.settings)
        await self.replicator.prepare()
        self._running: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Begin to replicate."""
        self._running = asyncio.create_task(self.replicator.run())
        self._stack.push_async_callback(self._cancel, self._running)

    async def stop(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def put_back(self, copy: Path) -> None:
        """Replace the data directory by a copy, and start on it."""
        await self.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)
        await self.start()

    async def publish(
        self, payloads: list[bytes], *, topic: str = TOPIC, properties: dict[str, str] | None = None
    ) -> None:
        """As a device does, under a name and ids of its own that must not matter to the cloud."""
        producer = await self.client.create_producer(topic, ProducerOptions(name="device"))
        for payload in payloads:
            producer.last_sequence_id += 1
            entry = encode_entry(
                OutgoingMessage(payload, properties=properties or {}),
                producer_name="device",
                sequence_id=5_000_000 + producer.last_sequence_id,
                publish_time_ms=PUBLISH_TIME_MS,
            )
            sent = producer.send_entry(entry, sequence_id=producer.last_sequence_id)
        await sent
        await producer.close()

    @property
    def status(self) -> dict[str, Any]:
        return self.replicator.status()

    @property
    def topic(self) -> TopicReplication:
        """The replication of the only topic."""
        (only,) = self.replicator._topics.values()
        return only

    @property
    def alarms(self) -> list[str]:
        alarms: list[str] = self.status["alarms"]
        return alarms

    async def replicated(self, last_entry_id: int) -> None:
        """Wait until every ledger's entries up to this id are confirmed."""
        await self.eventually(
            lambda: (
                bool(self.status["topics"])
                and all(item["confirmed_entry_id"] >= last_entry_id for item in self.status["topics"])
            )
        )
        for item in self.replicator._topics.values():
            item.progress.check_invariants()

    async def eventually(self, holds: Callable[[], bool]) -> None:
        def look() -> bool:
            if self._running is not None and self._running.done():
                self._running.result()
            return holds()

        try:
            await eventually(look)
        except TimeoutError:
            raise AssertionError(f"did not come about: {self.status}") from None

    @staticmethod
    async def _cancel(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    opened = FakeCloud()
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def edge(tmp_path: Path, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    """An edge that has noted its (empty) ledgers and does not replicate yet. Its pauses are short: only their order
    matters."""
    monkeypatch.setattr(replicator, "WATCH_INTERVAL_S", 0.005)
    monkeypatch.setattr(topic, "SETTLE_PAUSE_S", 0.0)
    monkeypatch.setattr(link, "BACKOFF_MIN_NS", 1_000_000)
    monkeypatch.setattr(link, "BACKOFF_MAX_NS", 10_000_000)
    opened = Edge(tmp_path / "edge", cloud)
    await opened.start()
    yield opened
    await opened.stop()
