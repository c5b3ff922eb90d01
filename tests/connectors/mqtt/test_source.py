"""Devices on real sockets, a log in memory: what is stored, acknowledged and survived."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from connectors.base import SourceContext
from connectors.mqtt import listener as listener_module
from connectors.mqtt.sensor import BatchBy, MqttSettings
from connectors.mqtt.source import build_sources
from gateway.errors import ConnectorError, NotAllowed, StorageUnavailable
from gateway.limits import MQTT_IN_FLIGHT_MAX, MQTT_PACKET_SIZE_MAX
from tests.connectors.fakes import FakeLog
from tests.connectors.mqtt import packets
from tests.connectors.mqtt.conftest import BOILERS, LISTEN, Start
from tests.connectors.mqtt.packets import Device


async def test_source_stores_raw_payloads_with_what_is_known_about_them(start: Start) -> None:
    """Any bytes are kept as they are; source, device, topic, format, times and key stand beside them."""
    source = await start()
    device = await Device.open(source.address, packets.connect("line-7"))
    payload = bytes(range(256))
    device.send(packets.publish("boiler/3/temp", payload, packet_id=513))
    assert await device.receive(4) == packets.puback(513)
    (message,) = source.messages("temperature")
    assert message.payload == payload
    assert message.key == "3"
    assert message.event_time_ms == source.clock.wall_ns() // 10**6
    assert message.properties == {
        "source": "boilers",
        "device": "line-7",
        "mqtt_topic": "boiler/3/temp",
        "format": "json",
        "boot_id": source.clock.boot_id.hex(),
        "arrival_ms": str(source.clock.wall_ns() // 10**6),
        "boottime_ns": str(source.clock.boottime_ns()),
    }


async def test_source_acknowledges_only_what_is_durable(start: Start) -> None:
    """PUBACK means durable: before the commit nothing comes, after it the PUBACKs come in order, in one write."""
    source = await start(log=FakeLog(automatic=False))
    device = await Device.open(source.address)
    device.send(
        packets.publish("boiler/1/temp", packet_id=2) + packets.publish("nobody", packet_id=1) + packets.PINGREQ
    )
    assert await device.receive(2) == packets.PINGRESP
    await source.until(lambda: len(source.log.pending) == 2)
    device.send(packets.PINGREQ)
    assert await device.receive(2) == packets.PINGRESP
    source.log.commit()
    assert await device.receive(8) == packets.puback(2, 1)


async def test_source_shares_its_listener_among_sensors(start: Start) -> None:
    """What several want is stored for each, in one group; what nobody wants goes to `unmatched` with the reason."""
    everything = MqttSettings("all", "localhost:0", ("#",), topic="plant/archive/{level[0]}")
    source = await start(BOILERS, everything)
    device = await Device.open(source.address, packets.connect("d"))
    device.send(packets.publish("boiler/1/temp", b"both", packet_id=1))
    await device.receive(4)
    device.send(packets.publish("hall/door", b"one", packet_id=2) + packets.publish("boiler/1/temp", b"2", packet_id=3))
    assert await device.receive(8) == packets.puback(2, 3)
    assert source.payloads("temperature") == [b"both", b"2"]
    stored = {entry.topic: entry.group for entry in source.log.stored[-3:]}
    assert set(stored) == {
        "persistent://plant/hall7/temperature",
        "persistent://plant/archive/boiler",
        "persistent://plant/archive/hall",
    }
    assert stored["persistent://plant/hall7/temperature"] == stored["persistent://plant/archive/boiler"]
    assert source.messages("unmatched") == []


@pytest.mark.parametrize(
    ("topic_template", "topic", "reason"),
    [
        ("temperature", "kitchen/oven", "no sensor subscribes to it"),
        ("{level[2]}", "hall/door", "{level[2]}: no such level"),
        ("{level[0]}", "/door", "not a topic name"),
    ],
)
async def test_source_keeps_what_has_no_topic_in_unmatched(
    start: Start, topic_template: str, topic: str, reason: str
) -> None:
    """Nothing that a device was told is received is dropped for want of a topic."""
    source = await start(MqttSettings("s", LISTEN, ("hall/#", "/#"), topic=topic_template))
    device = await Device.open(source.address)
    device.send(packets.publish(topic, b"lost?"))
    assert await device.receive(4) == packets.puback(1)
    (message,) = source.messages("unmatched")
    assert message.payload == b"lost?"
    assert message.properties["mqtt_topic"] == topic
    assert reason in message.properties["reason"]
    assert source.report.sensors["unmatched"].messages == 1


async def test_source_makes_entries_per_key_where_the_sensor_says_so(start: Start) -> None:
    """Key_shared consumers route an entry by its key."""
    source = await start(MqttSettings("s", LISTEN, ("boiler/+/temp",), topic="t", key="{level[1]}", batch=BatchBy.key))
    device = await Device.open(source.address)
    device.send(b"".join(packets.publish(f"boiler/{index % 2}/temp", b"%d" % index) for index in range(6)))
    await device.receive(24)
    assert {entry.key: [m.payload for m in entry.messages] for entry in source.entries("t")} == {
        "0": [b"0", b"2", b"4"],
        "1": [b"1", b"3", b"5"],
    }


async def test_source_publishes_to_the_partitions_of_a_partitioned_topic(start: Start) -> None:
    """One key, one partition, in order; the partitions are used."""
    log = FakeLog(partitions={"persistent://plant/hall7/temperature": 4})
    source = await start(log=log)
    device = await Device.open(source.address)
    device.send(b"".join(packets.publish(f"boiler/{index % 8}/temp", b"%d" % index) for index in range(64)))
    await device.receive(4 * 64)
    by_key: dict[str, list[bytes]] = {}
    for partition in range(4):
        messages = source.messages(f"temperature-partition-{partition}")
        assert messages
        for key in {message.key or "" for message in messages}:
            assert key not in by_key
            by_key[key] = [message.payload for message in messages if message.key == key]
    assert by_key == {str(key): [b"%d" % index for index in range(key, 64, 8)] for key in range(8)}


async def test_source_keeps_taking_qos_0_without_answering(start: Start) -> None:
    """No acknowledgement was asked for and none is given."""
    source = await start()
    device = await Device.open(source.address)
    device.send(packets.publish("boiler/1/temp", b"q0", packet_id=None) + packets.publish("boiler/1/temp", b"q1"))
    assert await device.receive(4) == packets.puback(1)
    assert source.payloads("temperature") == [b"q0", b"q1"]


async def test_source_stores_a_duplicate_again(start: Start) -> None:
    """At least once: a DUP may be the first that arrived, so it is stored and acknowledged like any."""
    source = await start()
    device = await Device.open(source.address)
    device.send(packets.publish("boiler/1/temp", b"x") + packets.publish("boiler/1/temp", b"x", dup=True))
    assert await device.receive(8) == packets.puback(1, 1)
    assert source.payloads("temperature") == [b"x", b"x"]


async def test_source_stops_reading_while_the_log_refuses(start: Start) -> None:
    """Nothing is acknowledged, dropped or read meanwhile; afterwards everything is, once and in order."""
    source = await start()
    device = await Device.open(source.address)
    device.send(packets.publish("boiler/1/temp", b"before", packet_id=1))
    await device.receive(4)
    source.log.refusal = lambda topic: StorageUnavailable("the disk is full")
    device.send(packets.publish("boiler/1/temp", b"refused", packet_id=2))
    await source.until(lambda: source.report.held)
    late = await Device.open(source.address, b"")
    late.send(packets.connect("late") + packets.publish("boiler/2/temp", b"late", packet_id=9))
    device.send(packets.publish("boiler/1/temp", b"unread", packet_id=3) + packets.PINGREQ)
    sends = source.log.sends
    await source.until(lambda: source.log.sends > sends)
    assert source.payloads("temperature") == [b"before"]
    assert source.report.last_error == "the disk is full"
    source.log.refusal = lambda topic: None
    # The PINGRESP may overtake the third PUBACK, which waits for its own commit.
    received = await device.receive(10)
    assert received.startswith(packets.puback(2))
    assert sorted(received.replace(packets.PINGRESP, b"")) == sorted(packets.puback(2, 3))
    assert await late.receive(8) == packets.CONNACK + packets.puback(9)
    assert source.payloads("temperature")[:2] == [b"before", b"refused"]
    assert sorted(source.payloads("temperature")[2:]) == [b"late", b"unread"]
    assert not source.report.held


async def test_source_reads_no_further_than_its_bound_of_unacknowledged_messages(start: Start) -> None:
    """A device that publishes without waiting is stopped by TCP, while others go on."""
    source = await start(log=FakeLog(automatic=False))
    greedy = await Device.open(source.address, packets.connect("greedy"))
    count = 4 * MQTT_IN_FLIGHT_MAX
    payload = bytes(500)
    greedy.send(
        b"".join(packets.publish("boiler/1/temp", payload, packet_id=index % 65_535 + 1) for index in range(count))
    )
    await source.until(lambda: sum(stored.messages for _, stored in source.log.pending) >= MQTT_IN_FLIGHT_MAX)
    modest = await Device.open(source.address, packets.connect("modest"))
    modest.send(packets.publish("nobody", b"modest"))
    await source.until(lambda: any(stored.topic.endswith("unmatched") for _, stored in source.log.pending))
    taken = sum(stored.messages for _, stored in source.log.pending) - 1
    # What one read of the socket brings may exceed the bound, and no more.
    assert MQTT_IN_FLIGHT_MAX <= taken < MQTT_IN_FLIGHT_MAX + 256 * 1024 // 500
    source.log.automatic = True
    source.log.commit()
    await greedy.receive(4 * count)
    assert len(source.payloads("temperature")) == count


async def test_source_closes_a_device_whose_topic_refuses_its_message(start: Start) -> None:
    """It is not told "received"; others are not disturbed."""
    log = FakeLog(opening=lambda topic: NotAllowed("no such namespace") if topic.endswith("temperature") else None)
    source = await start(log=log)
    refused, other = await Device.open(source.address, packets.connect("a")), await Device.open(source.address)
    refused.send(packets.publish("boiler/1/temp"))
    assert await refused.receive_end() == b""
    other.send(packets.publish("nobody"))
    assert await other.receive(4) == packets.puback(1)
    assert source.report.sensors["boilers"].refused == 1
    assert "no such namespace" in source.report.last_error


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        bytes(1_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        packets.connect() + b"\x34" + packets.publish("boiler/1/temp")[1:],
        packets.connect() + packets.packet(0x30, bytes(MQTT_PACKET_SIZE_MAX + 1)),
        packets.connect() + packets.connect(),
        packets.connect(level=5),
    ],
)
async def test_source_closes_a_connection_that_breaks_the_protocol_and_no_other(start: Start, garbage: bytes) -> None:
    """Garbage costs the connection that it comes from."""
    source = await start()
    good = await Device.open(source.address, packets.connect("good"))
    bad = await Device.open(source.address, b"")
    bad.send(garbage)
    assert await bad.receive_end() in (b"", packets.CONNACK, b"\x20\x02\x00\x01")
    good.send(packets.publish("boiler/1/temp"))
    assert await good.receive(4) == packets.puback(1)
    await source.until(lambda: source.report.connections == 1)
    assert source.report.protocol_errors + source.report.connections_refused == 1
    assert source.payloads("temperature") == [b"x"]


async def test_source_publishes_the_will_of_a_device_that_vanishes(start: Start) -> None:
    """Through the same mapping as any message; never after a DISCONNECT."""
    source = await start(MqttSettings("wills", LISTEN, ("will/#",), topic="lost", key="{device}"))
    for name, end in (("vanished", b""), ("graceful", packets.DISCONNECT), ("broken", b"\xff\xff\xff\xff\xff")):
        device = await Device.open(source.address, packets.connect(name, will=(f"will/{name}", b"gone"), will_qos=1))
        device.send(end)
        await device.close()
    await source.until(lambda: source.report.connections == 0 and len(source.payloads("lost")) == 2)
    assert sorted(message.key or "" for message in source.messages("lost")) == ["broken", "vanished"]
    assert {message.properties["mqtt_topic"] for message in source.messages("lost")} == {"will/vanished", "will/broken"}


async def test_source_closes_the_older_connection_of_a_client_id(start: Start) -> None:
    """MQTT-3.1.4-2; the older one's will is published, and the newer one is found under the name afterwards."""
    source = await start()
    will = ("boiler/9/temp", b"taken over")
    older = await Device.open(source.address, packets.connect("same", will=will))
    newer = await Device.open(source.address, packets.connect("same", will=will))
    assert await older.receive_end() == b""
    newer.send(packets.publish("boiler/1/temp", b"new"))
    assert await newer.receive(4) == packets.puback(1)
    assert source.payloads("temperature") == [b"taken over", b"new"]
    newest = await Device.open(source.address, packets.connect("same"))
    assert await newer.receive_end() == b""
    await newest.close()


async def test_source_closes_a_silent_device_but_not_while_it_does_not_read(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.5 keep-alives of silence end a connection; silence that the gateway causes itself does not count."""
    monkeypatch.setattr(listener_module, "SWEEP_INTERVAL_S", 0.001)
    source = await start()
    device = await Device.open(source.address, packets.connect(keep_alive_s=10, will=("boiler/1/temp", b"silent")))
    source.log.refusal = lambda topic: StorageUnavailable("the disk is full")
    device.send(packets.publish("boiler/1/temp", b"refused"))
    await source.until(lambda: source.report.held)
    source.clock.advance(1_000)
    sends = source.log.sends
    await source.until(lambda: source.log.sends > sends + 1)
    source.log.refusal = lambda topic: None
    assert await device.receive(4) == packets.puback(1)
    source.clock.advance(14)
    device.send(packets.PINGREQ)
    assert await device.receive(2) == packets.PINGRESP
    source.clock.advance(15)
    assert await device.receive_end() == b""
    await source.until(lambda: b"silent" in source.payloads("temperature"))


async def test_source_closes_a_connection_that_never_introduces_itself(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open connections don't pile up."""
    monkeypatch.setattr(listener_module, "SWEEP_INTERVAL_S", 0.001)
    source = await start()
    device = await Device.open(source.address, b"")
    device.send(packets.connect()[:3])
    await source.until(lambda: source.report.connections == 1)
    source.clock.advance(10)
    assert await device.receive_end() == b""


async def test_source_bounds_its_connections(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is closed at once; when one leaves there is room again."""
    monkeypatch.setattr(listener_module, "MQTT_CONNECTIONS_MAX", 2)
    source = await start()
    first, _ = [await Device.open(source.address, packets.connect(name)) for name in ("a", "b")]
    third = await Device.open(source.address, b"")
    assert await third.receive_end() == b""
    await first.close()
    await source.until(lambda: source.report.connections == 1)
    await Device.open(source.address, packets.connect("c"))
    assert source.report.connections_refused == 1


async def test_source_bounds_what_incomplete_packets_hold(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many devices that begin large packets and never finish them don't fill the memory."""
    monkeypatch.setattr(listener_module, "CONNECTOR_IN_FLIGHT_SIZE_MAX", 3_500_000)
    source = await start()
    devices = [await Device.open(source.address, packets.connect(str(index))) for index in range(4)]
    beginning = packets.publish("boiler/1/temp", bytes(1_000_000))[:-1]
    for device in devices:
        device.send(beginning)
    await source.until(lambda: source.report.connections == 3)
    assert "large packets" in source.report.last_error
    for device in devices:
        await device.close()
    await source.until(lambda: source.report.connections == 0)
    device = await Device.open(source.address)
    device.send(packets.publish("boiler/1/temp", bytes(1_000_000)))
    assert await device.receive(4) == packets.puback(1)


async def test_source_answers_without_delay(start: Start) -> None:
    """Accepted sockets have TCP_NODELAY, without which a PUBACK may wait 40 ms for the device's own TCP ACK."""
    options = []
    original = listener_module.Connection.connection_made

    def connection_made(self: listener_module.Connection, transport: asyncio.BaseTransport) -> None:
        options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        original(self, transport)

    listener_module.Connection.connection_made = connection_made  # type: ignore[method-assign]
    try:
        source = await start()
        await Device.open(source.address)
    finally:
        listener_module.Connection.connection_made = original  # type: ignore[method-assign]
    assert options == [1]


async def test_source_says_in_one_sentence_that_its_port_is_in_use(start: Start) -> None:
    """The error names the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConnectorError, match=f"127.0.0.1:{port}") as caught:
            await start(MqttSettings("s", f"127.0.0.1:{port}", ("#",), topic="t"))
    assert "port" in caught.value.hint


def test_source_refuses_to_listen_where_others_can_reach_it() -> None:
    """Also when settings were built without the configuration's checks."""
    with pytest.raises(ConnectorError, match="authenticate"):
        build_sources([MqttSettings("s", "0.0.0.0:1883", ("#",), topic="t")])


def test_sources_are_made_one_for_each_address() -> None:
    """Sensors that name the same address share a source, in whatever words they name it."""
    sensors = [
        MqttSettings(name, listen, ("#",), topic="t")
        for name, listen in (("a", "localhost:1883"), ("b", "127.0.0.1:1884"), ("c", "127.0.0.1:1883"))
    ]
    assert [source.name for source in build_sources(sensors)] == ["mqtt 127.0.0.1:1883", "mqtt 127.0.0.1:1884"]


async def test_source_acknowledges_what_it_took_before_it_stops(start: Start) -> None:
    """A stop closes connections without their wills, after the commit that was under way."""
    source = await start(log=FakeLog(automatic=False))
    device = await Device.open(source.address, packets.connect(will=("boiler/1/temp", b"will")))
    device.send(packets.publish("boiler/1/temp", b"taken"))
    await source.until(lambda: bool(source.log.pending))
    stopping = asyncio.create_task(source.stop())
    await source.until(lambda: not source.report.ready.is_set())
    source.log.commit()
    await stopping
    assert await device.receive_end() == packets.puback(1)
    assert source.payloads("temperature") == [b"taken"]
    with pytest.raises(OSError, match=r"refused|Connect"):
        await Device.open(source.address)


async def test_source_takes_nothing_while_it_stops(start: Start) -> None:
    """Also when the log, full until then, takes entries again: what was not read is the device's to send again."""
    source = await start()
    device = await Device.open(source.address, packets.connect(will=("boiler/1/temp", b"will")))
    source.log.refusal = lambda topic: StorageUnavailable("full")
    device.send(packets.publish("boiler/1/temp", b"taken", packet_id=1))
    await source.until(lambda: source.report.held)
    device.send(packets.publish("boiler/1/temp", b"unread", packet_id=2))
    stopping = asyncio.create_task(source.stop())
    await source.until(lambda: not source.report.ready.is_set())
    source.log.refusal = lambda topic: None
    await stopping
    assert await device.receive_end() in (packets.puback(1), b"")
    assert source.payloads("temperature") == [b"taken"]


async def test_source_can_run_again(start: Start) -> None:
    """After a failure whoever runs it starts it anew, with the same report."""
    source = await start()
    await source.stop()
    source.report.in_flight_bytes, source.report.held = 5, True
    context = SourceContext(source.log.client(), source.clock, "plant/hall7", source.report)
    task = asyncio.create_task(build_sources([BOILERS])[0].run(context))
    await source.until(source.report.ready.is_set)
    (address,) = source.report.addresses
    device = await Device.open(address)
    device.send(packets.publish("boiler/1/temp"))
    assert await device.receive(4) == packets.puback(1)
    assert (source.report.in_flight_bytes, source.report.held) == (0, False)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_source_stays_cheap_when_a_device_uses_many_topics(start: Start) -> None:
    """Routes and known topics are bounded and correct beyond the bound."""
    source = await start(MqttSettings("s", LISTEN, ("many/#",), topic="t", key="{level[1]}"))
    device = await Device.open(source.address)
    count = 3_000
    device.send(b"".join(packets.publish(f"many/{index}", packet_id=index + 1) for index in range(count)))
    await device.receive(4 * count)
    assert [message.key for message in source.messages("t")] == [str(index) for index in range(count)]
