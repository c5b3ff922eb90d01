"""The MQTT source over the real log and broker: what was acknowledged is in the log, also after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.base import SourceContext, SourceReport
from connectors.mqtt import source as source_module
from connectors.mqtt.sensor import MqttSettings
from connectors.mqtt.source import build_sources
from gateway.broker.broker import Broker
from gateway.broker.settings import BrokerSettings, NamespacePolicy, TopicPolicy
from gateway.client.api import Client
from gateway.client.local import LocalClient
from gateway.clock import SystemClock
from gateway.log import Log, LogSettings
from gateway.message import EARLIEST
from tests.connectors.entries import ReadMessage, read_entry
from tests.connectors.mqtt import packets
from tests.connectors.mqtt.packets import Device

SENSOR = MqttSettings("boilers", "127.0.0.1:0", ("boiler/#",), topic="temperature", key="{level[1]}")


@dataclass
class Gateway:
    """A log, a broker and a source."""

    address: str
    client: Client
    log: Log
    report: SourceReport

    async def messages(self, topic: str, count: int) -> list[ReadMessage]:
        """The first `count` messages of a topic, and proof that there are no more."""
        reader = await self.client.create_reader(f"persistent://plant/hall7/{topic}", EARLIEST)
        messages: list[ReadMessage] = []
        async with asyncio.timeout(10):
            while len(messages) < count:
                messages += read_entry((await reader.read_entry()).entry.data).messages
        assert not await reader.has_entry_available()
        await reader.close()
        return messages


@contextlib.asynccontextmanager
async def running(path: Path, settings: BrokerSettings | None = None) -> AsyncIterator[Gateway]:
    """Run a source over a data directory."""
    clock = SystemClock()
    log = await Log.open(LogSettings(path), clock)
    client = LocalClient(Broker(log, clock, settings or BrokerSettings()))
    context = SourceContext(client, clock, "plant/hall7")
    (source,) = build_sources([SENSOR])
    task = asyncio.create_task(source.run(context))
    try:
        await asyncio.wait_for(context.report.ready.wait(), 10)
        yield Gateway(context.report.addresses[0], client, log, context.report)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()
        await log.close()


async def test_acknowledged_messages_are_in_the_log_after_a_restart(tmp_path: Path) -> None:
    """Payloads, keys and order are what the device sent, in this run and in the next."""
    payloads = [b"%d" % index for index in range(1_000)]
    async with running(tmp_path) as gateway:
        device = await Device.open(gateway.address)
        for start in range(0, 1_000, 100):
            device.send(
                b"".join(
                    packets.publish(f"boiler/{index % 7}/temp", payloads[index], packet_id=index + 1)
                    for index in range(start, start + 100)
                )
            )
            assert await device.receive(400) == packets.puback(*range(start + 1, start + 101))
        messages = await gateway.messages("temperature", 1_000)
    assert [message.payload for message in messages] == payloads
    async with running(tmp_path) as gateway:
        assert await gateway.messages("temperature", 1_000) == messages
    assert [message.key for message in messages] == [str(index % 7) for index in range(1_000)]
    assert messages[0].properties["boot_id"] == SystemClock().boot_id.hex()


async def test_messages_are_what_a_consumer_of_the_gateway_sees(tmp_path: Path) -> None:
    """The gateway's own reading of batches agrees with the templates that wrote them."""
    async with running(tmp_path) as gateway:
        device = await Device.open(gateway.address, packets.connect("line-7"))
        device.send(b"".join(packets.publish("boiler/3/temp", b"%d" % index) for index in range(3)))
        await device.receive(12)
        reader = await gateway.client.create_reader("persistent://plant/hall7/temperature", EARLIEST)
        messages = [await asyncio.wait_for(reader.read(), 10) for _ in range(3)]
        await reader.close()
    assert [(message.payload, message.key) for message in messages] == [(b"%d" % index, "3") for index in range(3)]
    assert [message.message_id.batch_index for message in messages] == [0, 1, 2]
    assert messages[0].properties["device"] == "line-7"
    assert str(messages[0].event_time_ms) == messages[0].properties["arrival_ms"]
    assert abs(messages[0].publish_time_ms - messages[0].event_time_ms) < 60_000


async def test_messages_of_one_turn_share_a_commit_group(tmp_path: Path) -> None:
    """The mapped topic and `unmatched` are durable together, with one sync."""
    groups = []
    async with running(tmp_path) as gateway:
        device = await Device.open(gateway.address)
        both = packets.publish("boiler/1/temp", packet_id=1) + packets.publish("kitchen", packet_id=2)
        device.send(both)
        await device.receive(8)
        gateway.log.journal.on_commit(lambda group: groups.append(sum(run.entries for run in group.runs)))
        device.send(both)
        await device.receive(8)
    assert 2 in groups


async def test_commit_interval_delays_the_acknowledgement_and_an_alarm_does_not_wait(tmp_path: Path) -> None:
    """PUBACK waits for the commit; the earliest deadline commits all that waits."""
    hour = 3_600 * 10**9
    settings = BrokerSettings(
        {"plant/hall7": NamespacePolicy(commit_interval_ns=hour)},
        {"persistent://plant/hall7/unmatched": TopicPolicy(commit_interval_ns=0)},
    )
    async with running(tmp_path, settings) as gateway:
        device = await Device.open(gateway.address)
        committed = asyncio.Event()
        gateway.log.journal.on_commit(lambda group: committed.set())
        # Opening a topic takes commits of its own; until the first entry went along with one, alarms follow each other.
        device.send(packets.publish("boiler/1/temp", packet_id=1))
        alarms = 0
        while not gateway.report.sensor("boilers").messages:
            alarms += 1
            device.send(packets.publish("kitchen", packet_id=2))
            await asyncio.wait_for(committed.wait(), 10)
            committed.clear()
        assert await device.receive(4 + 4 * alarms) == packets.puback(1, *[2] * alarms)
        entries = gateway.log.journal.stats.entries
        device.send(packets.publish("boiler/1/temp", packet_id=3) + packets.PINGREQ)
        assert await device.receive(2) == packets.PINGRESP
        assert gateway.log.journal.stats.entries == entries
        device.send(packets.publish("kitchen", packet_id=4))
        assert await device.receive(8) == packets.puback(3, 4)


async def test_source_stops_in_bounded_time_whatever_the_commit_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would only be durable much later stays unacknowledged."""
    monkeypatch.setattr(source_module, "STOP_GRACE_S", 0.05)
    settings = BrokerSettings({"plant/hall7": NamespacePolicy(commit_interval_ns=3_600 * 10**9)})
    async with asyncio.timeout(10), running(tmp_path, settings) as gateway:
        device = await Device.open(gateway.address)
        device.send(packets.publish("boiler/1/temp", packet_id=1) + packets.PINGREQ)
        assert await device.receive(2) == packets.PINGRESP
    assert await device.receive_end() == b""


async def test_messages_reach_the_partitions_of_a_partitioned_topic(tmp_path: Path) -> None:
    """As the configuration declares it."""
    settings = BrokerSettings(topics={"persistent://plant/hall7/temperature": TopicPolicy(partitions=2)})
    clock = SystemClock()
    log = await Log.open(LogSettings(tmp_path), clock)
    await Broker(log, clock, settings).create_configured_topics()
    await log.close()
    async with running(tmp_path, settings) as gateway:
        device = await Device.open(gateway.address)
        device.send(packets.publish("boiler/0/temp", b"0", packet_id=1))
        device.send(packets.publish("boiler/1/temp", b"1", packet_id=2))
        assert sorted(await device.receive(8)) == sorted(packets.puback(1, 2))
        # Java's hash of "0" is 48, of "1" 49.
        assert [m.payload for m in await gateway.messages("temperature-partition-0", 1)] == [b"0"]
        assert [m.payload for m in await gateway.messages("temperature-partition-1", 1)] == [b"1"]
