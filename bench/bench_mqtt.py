"""MQTT QoS 1 to durable, 100-byte payloads, 16 connections with 100 in flight: this gateway, mosquitto, NATS
JetStream, in one run.

mosquitto (persistence on) acknowledges before anything is on the disk; NATS with `sync_interval: always` syncs what
it acknowledges. For NATS and mosquitto a subscriber session that is away holds the messages, so that they are stored
at all.
"""

from __future__ import annotations

import socket
from pathlib import Path

from bench.measure import Load, arguments, measure, median, scratch, table, title
from bench.mqtt_publishers import Publishers
from tests.support.brokers import BrokerMissing, Mosquitto, Nats
from tests.support.gateway import GatewayRig

MESSAGES = 400_000
NATS_MESSAGES = 40_000


def main() -> None:
    options = arguments(__doc__ or "")
    scale = 10 if options.quick else 1
    title("MQTT QoS 1 to durable, 100 bytes, 16 connections, 100 in flight")
    with scratch() as folder:
        gateway = GatewayRig(Path(folder) / "gateway")
        gateway.add_mqtt(name="bench", subscribe=["bench/#"], topic="bench")
        gateway.configuration["gateway"]["disk_quota"] = "4GiB"
        loads: dict[str, list[Load]] = {}
        with gateway:
            before = gateway.status()["log"]
            for _ in range(options.rounds):
                loads.setdefault("Headwater", []).append(publish(gateway.pid, gateway.mqtt_port, MESSAGES // scale))
            after = gateway.status()["log"]
        per_sync = sum(load.messages for load in loads["Headwater"]) / (after["syncs"] - before["syncs"])
        for name, rig, messages in (("mosquitto", Mosquitto, MESSAGES), ("NATS JetStream", Nats, NATS_MESSAGES)):
            try:
                with rig(Path(folder) / name.split()[0]) as broker:
                    hold_messages(broker.port)
                    for _ in range(options.rounds):
                        loads.setdefault(name, []).append(publish(broker.pid, broker.port, messages // scale))
            except BrokerMissing as error:
                print(f"NOT MEASURED: {name}: {error}")
    ours = loads["Headwater"]
    rows = []
    for name, measured in loads.items():
        rate, cpu = median(measured, lambda load: load.rate), median(measured, lambda load: load.cpu_us)
        written = median(measured, lambda load: load.bytes_per_message)
        rows.append(
            [
                name, cpu, f"{rate:,.0f}", f"{written:,.0f}",
                median(ours, lambda load: load.cpu_us) / cpu,
                median(ours, lambda load: load.rate) / rate,
                median(ours, lambda load: load.bytes_per_message) / written if written else "-",
            ]
        )  # fmt: skip
    table(["broker", "CPU µs", "messages/s", "device B", "our CPU / its", "our rate / its", "our bytes / its"], rows)
    print(f"Headwater acknowledged {per_sync:,.0f} messages per fdatasync")


def publish(pid: int, port: int, messages: int) -> Load:
    publishers = Publishers(port)
    load = measure(pid, publishers.messages(messages), lambda: publishers.send(messages))
    publishers.close()
    return load


def hold_messages(port: int) -> None:
    """Leave a persistent session behind that subscribes to everything with QoS 1."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
        # CONNECT without clean session, SUBSCRIBE to bench/#, both acknowledged, then gone.
        peer.sendall(b"\x10\x10\x00\x04MQTT\x04\x00\x00\x3c\x00\x04hold")
        assert peer.recv(4)[:1] == b"\x20"
        peer.sendall(b"\x82\x0c\x00\x01\x00\x07bench/#\x01")
        assert peer.recv(5)[:1] == b"\x90"
        peer.sendall(b"\xe0\x00")


if __name__ == "__main__":
    main()
