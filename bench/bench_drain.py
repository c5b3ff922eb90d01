"""Draining a backlog of unbatched 100-byte entries into Apache Pulsar, against the official client publishing the
same to it."""

from __future__ import annotations

import time
from pathlib import Path

from bench.bench_produce import unbatched, warm
from bench.measure import Load, arguments, measure, median, scratch, table, title
from bench.raw_frames import RawProducer
from tests.support.gateway import GatewayRig
from tests.support.process import cpu_seconds, device_bytes
from tests.support.pulsar import PulsarRig

BACKLOG = 500_000
POLL_S = 0.02
DRAIN_TIMEOUT_S = 300
NAMESPACE = "public/default"


def main() -> None:
    options = arguments(__doc__ or "")
    backlog = BACKLOG // (10 if options.quick else 1)
    title(f"draining {backlog:,} entries into Apache Pulsar")
    drains, publishes = [], []
    with scratch() as folder, PulsarRig(Path(folder) / "pulsar") as pulsar:
        warm(pulsar.service_url, 200_000 if not options.quick else 20_000)
        for number in range(options.rounds):
            drains.append(drain(Path(folder) / str(number), pulsar, backlog))
            publishes.append(measure(pulsar.pid, backlog, lambda: unbatched(pulsar.service_url, backlog)))
    ours, theirs = median(drains, lambda load: load.rate), median(publishes, lambda load: load.rate)
    table(
        ["into Pulsar", "entries/s", "gateway's CPU µs/entry"],
        [
            ["replicator", f"{ours:,.0f}", median(drains, lambda load: load.cpu_us)],
            ["official client, unbatched", f"{theirs:,.0f}", "-"],
            ["ratio", ours / theirs, "-"],
        ],
    )


def drain(folder: Path, pulsar: PulsarRig, backlog: int) -> Load:
    """Fill a gateway's log, then let it replicate."""
    edge = GatewayRig(folder, gateway_id=f"drain-{folder.name}")
    with edge:
        producer = RawProducer(edge.service_url, f"persistent://{NAMESPACE}/backlog-{folder.name}")
        producer.send(backlog)
        producer.close()
    edge.configuration["replication"] = [
        {"name": "cloud", "service_url": pulsar.service_url, "namespaces": [NAMESPACE]}
    ]
    with edge:
        cpu, written, began = cpu_seconds(edge.pid), device_bytes(edge.pid), time.perf_counter()
        while True:
            topics = edge.status()["replication"][0]["topics"]
            if topics and topics[0]["confirmed_entry_id"] == backlog - 1:
                break
            assert time.perf_counter() - began < DRAIN_TIMEOUT_S, topics
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began
        return Load(backlog, seconds, cpu_seconds(edge.pid) - cpu, device_bytes(edge.pid) - written)


if __name__ == "__main__":
    main()
