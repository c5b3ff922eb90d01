"""Durable produce of 100-byte messages: this gateway against Apache Pulsar (journal synced, 256 MiB heap) in one run.

With the official client batched, unbatched and one at a time, and with raw frames on a warm server, where the client
is no limit.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import Load, arguments, measure, median, scratch, table, title
from bench.raw_frames import RawProducer
from tests.support import official
from tests.support.gateway import GatewayRig
from tests.support.process import memory_mib
from tests.support.pulsar import PulsarRig

# Random bytes: what compresses well would flatter a log that compresses.
PAYLOADS = [random.Random(number).randbytes(100) for number in range(4096)]
_topics = (f"persistent://public/default/bench-{number}" for number in itertools.count())


def main() -> None:
    options = arguments(__doc__ or "")
    scale = 10 if options.quick else 1
    title("durable produce, 100-byte messages")
    with (
        scratch() as folder,
        PulsarRig(Path(folder) / "pulsar") as pulsar,
        GatewayRig(Path(folder) / "gateway") as gateway,
    ):
        warm(pulsar.service_url, 200_000 // scale)
        warm(gateway.service_url, 20_000 // scale)
        idle = memory_mib(gateway.pid), memory_mib(pulsar.pid)
        rows = []
        for name, messages, work in (
            ("official client, batched", 300_000, batched),
            ("official client, unbatched", 60_000, unbatched),
            ("official client, one at a time", 3_000, one_at_a_time),
            ("raw frames, 1,000 in flight", 200_000, raw),
        ):
            count = messages // scale
            ours, theirs = [], []
            for _ in range(options.rounds):
                ours.append(measure(gateway.pid, count, partial(work, gateway.service_url, count)))
                theirs.append(measure(pulsar.pid, count, partial(work, pulsar.service_url, count)))
            rows.append(row(name, ours, theirs))
        table(
            [
                "load",
                "CPU µs",
                "Pulsar's",
                "ratio",
                "cores",
                "messages/s",
                "Pulsar's",
                "ratio",
                "device B/message",
                "Pulsar's",
            ],
            rows,
        )
        ours_mib, theirs_mib = memory_mib(gateway.pid, "VmHWM"), memory_mib(pulsar.pid, "VmHWM")
        table(
            ["memory", "gateway MiB", "Pulsar MiB", "ratio"],
            [["RSS before", *idle, idle[0] / idle[1]], ["RSS at most", ours_mib, theirs_mib, ours_mib / theirs_mib]],
        )


def row(name: str, ours: list[Load], theirs: list[Load]) -> list[object]:
    def figures(figure: Callable[[Load], float]) -> tuple[float, float]:
        return median(ours, figure), median(theirs, figure)

    cpu, cpu_pulsar = figures(lambda load: load.cpu_us)
    rate, rate_pulsar = figures(lambda load: load.rate)
    written, written_pulsar = figures(lambda load: load.bytes_per_message)
    return [
        name, cpu, cpu_pulsar, cpu / cpu_pulsar, median(ours, lambda load: load.cores),
        f"{rate:,.0f}", f"{rate_pulsar:,.0f}", rate / rate_pulsar, f"{written:,.0f}", f"{written_pulsar:,.0f}",
    ]  # fmt: skip


def warm(service_url: str, messages: int) -> None:
    raw(service_url, messages)


def raw(service_url: str, messages: int) -> None:
    producer = RawProducer(service_url, next(_topics))
    producer.send(messages)
    producer.close()


def batched(service_url: str, messages: int) -> None:
    _send_async(service_url, messages, batching_enabled=True, batching_max_publish_delay_ms=5)


def unbatched(service_url: str, messages: int) -> None:
    _send_async(service_url, messages, batching_enabled=False)


def one_at_a_time(service_url: str, messages: int) -> None:
    with official.client(service_url) as client:
        producer = client.create_producer(next(_topics), batching_enabled=False)
        for number in range(messages):
            producer.send(PAYLOADS[number % len(PAYLOADS)])


def _send_async(service_url: str, messages: int, **options: Any) -> None:
    done = threading.Semaphore(0)

    def sent(result: Any, message_id: Any) -> None:
        done.release()

    with official.client(service_url) as client:
        producer = client.create_producer(next(_topics), max_pending_messages=1000, block_if_queue_full=True, **options)
        for number in range(messages):
            producer.send_async(PAYLOADS[number % len(PAYLOADS)], sent)
        producer.flush()
        for _ in range(messages):
            done.acquire()


if __name__ == "__main__":
    main()
