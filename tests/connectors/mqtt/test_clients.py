"""Clients that nobody here wrote: mosquitto's command-line tools and paho."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from connectors.mqtt.sensor import MqttSettings
from gateway.errors import StorageUnavailable
from tests.connectors.fakes import FakeLog
from tests.connectors.mqtt.conftest import LISTEN, Running, Start

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is missing: apt-get install mosquitto-clients"
)
SENSOR = MqttSettings("s", LISTEN, ("boiler/+/temp", "will/#"), topic="temperature", key="{level[1]}")


async def run(source: Running, program: str, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Run one of mosquitto's programs against the source: exit code, and what it printed."""
    host, _, port = source.address.rpartition(":")
    process = await asyncio.create_subprocess_exec(
        program, "-h", host, "-p", port, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(20):
        output, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output.decode()


@needs_mosquitto
@pytest.mark.parametrize("qos", ["0", "1"])
async def test_mosquitto_pub_publishes(start: Start, qos: str) -> None:
    """One message, and many lines in one connection; QoS 1 ends only after the PUBACKs."""
    source = await start(SENSOR)
    assert await run(source, "mosquitto_pub", "-q", qos, "-t", "boiler/1/temp", "-m", "hello", "-i", "mosquitto") == (
        0,
        "",
    )
    lines = [b"line %d" % index for index in range(500)]
    assert (await run(source, "mosquitto_pub", "-q", qos, "-t", "boiler/2/temp", "-l", stdin=b"\n".join(lines)))[0] == 0
    await source.until(lambda: len(source.payloads("temperature")) == 501)
    assert source.payloads("temperature") == [b"hello", *lines]
    assert source.messages("temperature")[0].properties["device"] == "mosquitto"
    assert source.report.protocol_errors == 0


@needs_mosquitto
async def test_mosquitto_pub_learns_what_is_not_served(start: Start) -> None:
    """Other versions of the protocol end with an error, not with a hang."""
    source = await start(SENSOR)
    for version in ("mqttv5", "mqttv31"):
        code, output = await run(source, "mosquitto_pub", "-V", version, "-t", "boiler/1/temp", "-m", "x", "-q", "1")
        assert code != 0
        assert "protocol version" in output.lower()
    assert source.report.connections_refused == 2
    assert source.payloads("temperature") == []


@needs_mosquitto
async def test_mosquitto_sub_is_refused_its_subscription(start: Start) -> None:
    """SUBACK 0x80: the program says that all subscriptions were denied and ends."""
    source = await start(SENSOR)
    code, output = await run(source, "mosquitto_sub", "-t", "boiler/#", "-t", "a", "-W", "10")
    assert code != 27, "it waited for messages instead"
    assert "denied" in output.lower()


class Paho:
    """A paho client in its own thread."""

    def __init__(self, source: Running, client_id: str = "paho", *, clean_session: bool = True) -> None:
        host, _, port = source.address.rpartition(":")
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=clean_session)
        self.session_present: list[bool] = []
        self.reasons: list[str] = []
        self.connected = threading.Event()
        self.client.on_connect = self._on_connect
        self._address = host, int(port)

    def _on_connect(self, client: Any, data: Any, flags: paho.ConnectFlags, reason: Any, properties: Any) -> None:
        self.session_present.append(flags.session_present)
        self.reasons.append(str(reason))
        self.connected.set()

    async def __aenter__(self) -> Paho:
        await self.call(lambda: self.client.connect(*self._address))
        self.client.loop_start()
        assert await self.call(lambda: self.connected.wait(10))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.call(self.client.disconnect)
        await self.call(self.client.loop_stop)

    async def call(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function)

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> paho.MQTTMessageInfo:
        info = self.client.publish(topic, payload, qos)
        await self.call(lambda: info.wait_for_publish(10))
        return info


async def test_paho_publishes_and_is_told_when_it_is_durable(start: Start) -> None:
    """Many messages in flight, of sizes around the limits of the length's bytes."""
    source = await start(SENSOR)
    payloads = [
        bytes([index % 256]) * size for index, size in enumerate([0, 1, 100, 127, 128, 16_383, 16_384, 300_000])
    ]
    async with Paho(source) as device:
        for payload in payloads:
            assert (await device.publish("boiler/1/temp", payload)).is_published()
    assert source.payloads("temperature") == payloads


async def test_paho_is_told_nothing_before_the_commit(start: Start) -> None:
    """`is_published` stays false while the entry waits for the log."""
    source = await start(SENSOR, log=FakeLog(automatic=False))
    async with Paho(source) as device:
        info = device.client.publish("boiler/1/temp", b"x", 1)
        await source.until(lambda: bool(source.log.pending))
        assert not info.is_published()
        source.log.commit()
        await device.call(lambda: info.wait_for_publish(10))
        assert info.is_published()


async def test_paho_gets_through_a_full_disk(start: Start) -> None:
    """Held back without an error, acknowledged when there is room again."""
    source = await start(SENSOR)
    async with Paho(source) as device:
        await device.publish("boiler/1/temp", b"1")
        source.log.refusal = lambda topic: StorageUnavailable("full")
        info = device.client.publish("boiler/1/temp", b"2", 1)
        await source.until(lambda: source.report.held)
        source.log.refusal = lambda topic: None
        await device.call(lambda: info.wait_for_publish(10))
    assert source.payloads("temperature") == [b"1", b"2"]


async def test_paho_finds_its_session(start: Start) -> None:
    """Session present after a session that was to be kept, not after a clean one."""
    source = await start(SENSOR)
    present = []
    for clean_session in (False, False, True, False):
        async with Paho(source, clean_session=clean_session) as device:
            present += device.session_present
    assert present == [False, True, False, False]


async def test_paho_loses_its_connection_for_qos_2_and_its_will_is_published(start: Start) -> None:
    """QoS 2 can't be promised yet, so it is not pretended."""
    source = await start(SENSOR)
    device = Paho(source)
    device.client.will_set("will/paho", b"gone", 1)
    disconnected = threading.Event()
    device.client.on_disconnect = lambda *_: disconnected.set()
    async with device:
        device.client.publish("boiler/1/temp", b"x", 2)
        assert await device.call(lambda: disconnected.wait(10))
    assert source.payloads("temperature")[0] == b"gone"
