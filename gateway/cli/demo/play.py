"""The demo from curtain to curtain: starts its parts, plays, cuts the link, mends it, waits for the cloud, and
compares."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.cli.demo.process import GatewayProcess
from gateway.cli.demo.relay import Relay
from gateway.cli.demo.verify import Comparison, compare
from gateway.client.remote import RemoteClient
from gateway.errors import GatewayError
from gateway.message import LATEST

NAMESPACE = "plant/hall7"
TOPIC = f"persistent://{NAMESPACE}/temperature"
GATEWAY_ID = "demo"
LOOK_INTERVAL_S = 0.25
DRAIN_TIMEOUT_S = 90.0
CUT_EVERY_S = 60.0
CUT_AFTER_S = 8.0
CUT_FOR_S = 8.0


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """How to play."""

    seconds: float | None
    """How long readings flow; None: until Ctrl-C."""
    devices: int
    rate: float
    """Readings a second of each device."""
    cloud_url: str
    """Empty: a second gateway plays the cloud."""
    cloud_admin_url: str
    view: bool


class Play:
    """One performance."""

    def __init__(self, settings: PlaySettings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._cut_seconds = 0.0
        self._backlog_max = 0
        self._values: dict[str, float] = {}

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before its time."""
        return self._stop.is_set()

    async def run(self) -> dict[str, Any]:
        """Play, and return the result. Raises: GatewayError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-demo-")))
            cloud_url, cloud_name = await self._start_cloud(stack, folder)
            relay = await self._start_relay(stack, cloud_url)
            edge = GatewayProcess(folder / "edge", self._edge_configuration(cloud_url, relay.port))
            await edge.start()
            stack.push_async_callback(edge.stop)
            if self._settings.cloud_admin_url:
                await edge.doctor("cloud")
            async with self._devices(edge.addresses["mqtt"]):
                following = asyncio.ensure_future(self._follow_values(edge))
                try:
                    await self._watch(edge, relay, cloud_name)
                finally:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
            return await self._finish(edge, relay, cloud_url)

    # The parts

    async def _start_cloud(self, stack: contextlib.AsyncExitStack, folder: Path) -> tuple[str, str]:
        if self._settings.cloud_url:
            return self._settings.cloud_url, self._settings.cloud_url
        cloud = GatewayProcess(
            folder / "cloud",
            {
                "gateway": {
                    "id": "cloud",
                    "data_dir": "data",
                    "disk_quota": "512MiB",
                    "listen": {"pulsar": "127.0.0.1:0", "http": "127.0.0.1:0"},
                }
            },
        )
        await cloud.start()
        stack.push_async_callback(cloud.stop)
        return cloud.service_url, f"a second gateway at {cloud.service_url}"

    async def _start_relay(self, stack: contextlib.AsyncExitStack, cloud_url: str) -> Relay:
        parts = urlsplit(cloud_url)
        relay = Relay(parts.hostname or "127.0.0.1", parts.port or 6650)
        await relay.start()
        stack.push_async_callback(relay.close)
        return relay

    def _edge_configuration(self, cloud_url: str, relay_port: int) -> dict[str, Any]:
        replication: dict[str, Any] = {
            "name": "cloud",
            "service_url": f"pulsar://127.0.0.1:{relay_port}",
            "namespaces": [NAMESPACE],
            "topic": "persistent://plant/{gateway.id}/{topic}",
        }
        if self._settings.cloud_admin_url:
            replication["admin_url"] = self._settings.cloud_admin_url
        return {
            "gateway": {
                "id": GATEWAY_ID,
                "data_dir": "data",
                "disk_quota": "512MiB",
                "listen": {"pulsar": "127.0.0.1:0", "http": "127.0.0.1:0"},
            },
            "defaults": {"namespace": NAMESPACE},
            "namespaces": {NAMESPACE: {"commit_interval": "50ms"}},
            "sensors": [
                {
                    "name": "boilers",
                    "type": "mqtt",
                    "listen": "127.0.0.1:0",
                    "subscribe": ["boiler/+/temp"],
                    "topic": "temperature",
                    "key": "{level[1]}",
                    "format": "json",
                }
            ],
            "replication": [replication],
        }

    @contextlib.asynccontextmanager
    async def _devices(self, address: str) -> AsyncIterator[None]:
        """Simulated thermometers, in a process of their own."""
        host, _, port = address.rpartition(":")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "firmware_sim", "thermometer",
            "--host", host, "--port", port,
            "--devices", str(self._settings.devices),
            "--rate", str(self._settings.rate),
            "--name", "boiler-{n}",
            "--fault", "spikes",
            "--start", "now",
            "--json",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                try:
                    async with asyncio.timeout(10):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()

    async def _follow_values(self, edge: GatewayProcess) -> None:
        """Read along, as any Pulsar client may, for the values on the screen."""
        client = await RemoteClient.connect(edge.service_url)
        try:
            reader = await client.create_reader(TOPIC, LATEST)
            while True:
                message = await reader.read()
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    reading = json.loads(message.payload)
                    self._values[str(reading["device"])] = float(reading["c"])
        finally:
            await client.close()

    # The performance

    async def _watch(self, edge: GatewayProcess, relay: Relay, cloud_name: str) -> None:
        from gateway.cli.demo.view import Scene, View

        started = time.monotonic()
        scene = Scene(cloud=cloud_name, addresses=edge.addresses)
        cutting = asyncio.ensure_future(self._cut_link(relay))
        with View() if self._settings.view else contextlib.nullcontext() as view:
            last_events, last_time = 0, started
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_INTERVAL_S):
                        await self._stop.wait()
                status = await edge.status()
                now = time.monotonic()
                self._describe(scene, status, relay)
                if now - last_time >= 1:
                    scene.events_per_s = (scene.events - last_events) / (now - last_time)
                    last_events, last_time = scene.events, now
                scene.seconds = now - started
                scene.values = dict(self._values)
                if view is not None:
                    view.show(scene)
                if self._settings.seconds is not None and scene.seconds >= self._settings.seconds:
                    break
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
        relay.mend()

    async def _cut_link(self, relay: Relay) -> None:
        """Cut the link some way into the play, for some seconds; again every minute while it goes on."""
        seconds = self._settings.seconds
        cut_after = CUT_AFTER_S if seconds is None else min(CUT_AFTER_S, seconds / 4)
        cut_for = CUT_FOR_S if seconds is None else min(CUT_FOR_S, seconds / 3)
        await asyncio.sleep(cut_after)
        while True:
            relay.cut()
            cut_at = time.monotonic()
            try:
                await asyncio.sleep(cut_for)
            finally:
                self._cut_seconds += time.monotonic() - cut_at
                relay.mend()
            await asyncio.sleep(CUT_EVERY_S)

    def _describe(self, scene: Any, status: dict[str, Any], relay: Relay) -> None:
        replication = status["replication"][0]
        scene.events = sum(sensor["messages"] for sensor in status["sensors"])
        scene.entries = status["log"]["entries"]
        scene.commits = status["log"]["groups"]
        scene.written_bytes = status["log"]["bytes_written"]
        scene.lag = replication["lag_entries"]
        scene.confirmed = replication["confirmed_entries"]
        scene.connected = replication["connected"]
        scene.cut = relay.cut_off
        self._backlog_max = scene.lag_max = max(self._backlog_max, scene.lag)

    async def _finish(self, edge: GatewayProcess, relay: Relay, cloud_url: str) -> dict[str, Any]:
        """Wait until the cloud has everything, then compare both logs."""
        client = await RemoteClient.connect(edge.service_url)
        cloud = await RemoteClient.connect(cloud_url)
        cloud_topic = f"persistent://plant/{GATEWAY_ID}/temperature"
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        status: dict[str, Any] = {}
        comparison = Comparison(0, 0, 0, 0)
        try:
            while time.monotonic() < deadline:
                status = await edge.status()
                if status["replication"][0]["lag_entries"] == 0:
                    comparison = await compare(client, TOPIC, cloud, cloud_topic)
                    if comparison.missing == 0:
                        break
                await asyncio.sleep(LOOK_INTERVAL_S)
            else:
                comparison = await compare(client, TOPIC, cloud, cloud_topic)
        finally:
            with contextlib.suppress(GatewayError):
                await client.close()
                await cloud.close()
        events: dict[str, int] = {}
        for sensor in status["sensors"]:
            events[sensor["type"]] = events.get(sensor["type"], 0) + sensor["messages"]
        return {
            "events_in": events,
            "entries_edge": comparison.entries_edge,
            "entries_cloud": comparison.entries_cloud,
            "missing": comparison.missing,
            "duplicated": comparison.duplicated,
            "alarms": len(status["replication"][0]["alarms"]),
            "cut_seconds": round(self._cut_seconds, 1),
            "backlog_max": self._backlog_max,
        }
