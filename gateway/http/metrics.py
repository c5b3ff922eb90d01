"""The gateway's figures for Prometheus, read from the parts when somebody asks: counting costs nothing in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest


class StatusCollector:
    """Turns the daemon's status into metrics. Registered with a registry of its own."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        log = status["log"]
        for name, text, value in (
            ("headwater_log_groups", "Commit groups made durable.", log["groups"]),
            ("headwater_log_entries", "Entries made durable.", log["entries"]),
            ("headwater_log_written_bytes", "Bytes of commit groups written, padding included.", log["bytes_written"]),
            ("headwater_log_raw_bytes", "Bytes of commit groups before compression.", log["bytes_raw"]),
            ("headwater_log_syncs", "Calls of fdatasync on the journal.", log["syncs"]),
            ("headwater_log_failures", "Errors that the device reported.", log["failures"]),
            ("headwater_log_sync_seconds", "Time spent writing and syncing groups.", log["sync_seconds"]),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], value)
            yield counter
        state = GaugeMetricFamily("headwater_log_accepting", "1 while the log takes entries.")
        state.add_metric([], 1.0 if log["state"] == "open" else 0.0)
        yield state
        stalls = CounterMetricFamily("headwater_loop_stalls", "Times that the event loop was late by over 50 ms.")
        stalls.add_metric([], status["loop"]["stalls"])
        yield stalls
        yield from self._sensors(status["sensors"])
        yield from self._replications(status["replication"])

    def _sensors(self, sensors: list[dict[str, Any]]) -> Iterable[Metric]:
        messages = CounterMetricFamily(
            "headwater_sensor_messages", "Messages of a sensor made durable.", labels=["sensor", "type"]
        )
        refused = CounterMetricFamily(
            "headwater_sensor_refused", "Messages of a sensor that a topic refused.", labels=["sensor", "type"]
        )
        for sensor in sensors:
            labels = [sensor["name"], sensor["type"]]
            messages.add_metric(labels, sensor["messages"])
            refused.add_metric(labels, sensor["refused"])
        yield messages
        yield refused

    def _replications(self, replications: list[dict[str, Any]]) -> Iterable[Metric]:
        lag = GaugeMetricFamily(
            "headwater_replication_lag_entries", "Entries that the cloud has not confirmed.", labels=["replication"]
        )
        sent = CounterMetricFamily(
            "headwater_replication_confirmed_entries", "Entries that the cloud confirmed.", labels=["replication"]
        )
        for replication in replications:
            lag.add_metric([replication["name"]], replication["lag_entries"])
            sent.add_metric([replication["name"]], replication["confirmed_entries"])
        yield lag
        yield sent


def make_registry(status: Callable[[], dict[str, Any]]) -> CollectorRegistry:
    """A registry over the daemon's status."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Prometheus' text format."""
    return bytes(generate_latest(registry))
