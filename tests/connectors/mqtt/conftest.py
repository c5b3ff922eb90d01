"""A running MQTT source over a log in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from connectors.base import SourceContext, SourceReport
from connectors.mqtt.sensor import MqttSettings
from connectors.mqtt.source import build_sources
from tests.connectors.entries import ReadEntry, ReadMessage, read_entry
from tests.connectors.fakes import FakeClock, FakeLog

LISTEN = "127.0.0.1:0"
BOILERS = MqttSettings("boilers", LISTEN, ("boiler/+/temp",), topic="temperature", key="{level[1]}", format="json")


@dataclass
class Running:
    """A source that takes events."""

    address: str
    log: FakeLog
    clock: FakeClock
    report: SourceReport
    task: asyncio.Task[None]

    def entries(self, topic: str) -> list[ReadEntry]:
        return [read_entry(s.data) for s in self.log.stored if s.topic == f"persistent://plant/hall7/{topic}"]

    def messages(self, topic: str) -> list[ReadMessage]:
        return [message for entry in self.entries(topic) for message in entry.messages]

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.messages(topic)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the event loop turn until something has happened in it."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in sockets and has no event
                await asyncio.sleep(0)

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts sources of the sensors given; all are stopped at the end."""
    running: list[Running] = []

    async def start(*sensors: MqttSettings, log: FakeLog | None = None) -> Running:
        log, clock = log or FakeLog(), FakeClock()
        context = SourceContext(log.client(), clock, "plant/hall7")
        (source,) = build_sources(sensors or [BOILERS])
        task = asyncio.create_task(source.run(context))
        ready = asyncio.create_task(context.report.ready.wait())
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if task.done():
            await task
        running.append(Running(context.report.addresses[0], log, clock, context.report, task))
        return running[-1]

    yield start
    for source in running:
        source.log.automatic = True
        source.log.refusal = lambda topic: None
        source.log.commit()
        await source.stop()
