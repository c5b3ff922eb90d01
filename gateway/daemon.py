"""The daemon: puts the parts together, starts them in order, and stops them in the opposite one.

It is the only place that knows all parts. What a part does is in its package; here is who gets what, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.metadata
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.broker.broker import Broker
from gateway.broker.server import BrokerServer
from gateway.client.local import LocalClient
from gateway.clock import Clock, SystemClock
from gateway.config.settings import Address, Settings
from gateway.errors import ConfigError, GatewayError, ReplicationError
from gateway.limits import SECOND
from gateway.log import JournalState, Log

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.http.server import HttpServer
    from gateway.replication.replicator import Replicator

logger = logging.getLogger(__name__)

CONNECTORS = "headwater.connectors"
"""Entry point group that connectors are found by: this package imports none of them."""
SWITCH_INTERVAL_S = 0.0005
"""With a busy event loop the journal's thread waits up to this long for the interpreter; at the default of 5 ms a
commit took 7.4 ms instead of 0.9."""
SOURCE_RESTART_S = 5.0
"""Pause before a source that failed is started again."""
LOOP_CHECK_S = 0.5
LOOP_STALL_S = 0.05
LOG_FAILED_GRACE_S = 60
STOP_SYNC_S = 10.0
"""How long stopping waits for the last commit."""


class Gateway:
    """All parts of one gateway, running."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._sources: list[tuple[str, Any, Any]] = []
        """Connector type, source, its report."""
        self._replicators: list[Replicator] = []
        self._stalls = 0
        self._worst_stall_s = 0.0
        self._registry: CollectorRegistry | None = None
        self.addresses: dict[str, str] = {}
        """What listens where, by the words of the ready line."""
        self.failed = asyncio.Event()
        """Set when the log failed for good or a part died: the process is to end, so that systemd starts it again."""

    async def start(self) -> None:
        """Start everything; returns when clients and devices are served. Raises: GatewayError."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        pulsar = bind(settings.pulsar, "Pulsar clients")
        self._stack.callback(pulsar.close)
        http = bind(settings.http, "HTTP")
        self._stack.callback(http.close)
        self._log = await Log.open(settings.log, self._clock)
        self._stack.push_async_callback(self._log.close)
        self._log.journal.on_state(self._log_changed)
        self._broker = Broker(self._log, self._clock, settings.broker)
        self._stack.push_async_callback(self._broker.close)
        await self._broker.create_configured_topics()
        self._client = LocalClient(self._broker)
        self._stack.push_async_callback(self._client.close)
        await self._prepare_replication()
        self._server = BrokerServer(self._broker, self._clock.monotonic_ns)
        await self._server.start(pulsar)
        self._stack.push_async_callback(self._close_clients)
        self.addresses["pulsar"] = _name_of(pulsar)
        await self._start_http(http)
        self._stack.push_async_callback(self._stop_tasks)
        self._own(self._watch_loop(), "loop watch")
        for replicator in self._replicators:
            self._own(replicator.run(), f"replication {replicator.settings.name}")
        await self._start_sources()

    async def _close_clients(self) -> None:
        """Give what clients have sent its receipt before they are sent away."""
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(STOP_SYNC_S):
                await self._log.journal.sync()
        await self._server.close()

    async def stop(self) -> None:
        """Stop everything, the log last."""
        await self._stack.aclose()

    async def _start_http(self, listener: socket.socket) -> None:
        # Imported late: nothing else needs them, and they are half of the time that a start takes.
        from gateway.http.app import build_application
        from gateway.http.server import HttpServer, open_control_socket

        server: HttpServer = HttpServer(build_application(self))
        control = open_control_socket(self.settings.log.data_dir)
        self._stack.callback((self.settings.log.data_dir / "control.sock").unlink, missing_ok=True)
        await server.start([listener, control])
        self._stack.push_async_callback(server.close)
        self.addresses["http"] = _name_of(listener)

    async def _prepare_replication(self) -> None:
        """Let each replication note where the ledgers end, before anybody can publish."""
        if not self.settings.replications:
            return
        from gateway.replication.replicator import Replicator

        for settings in self.settings.replications:
            replicator = Replicator(self._client, settings)
            await replicator.prepare()
            self._replicators.append(replicator)

    async def _start_sources(self) -> None:
        if not self.settings.sensors:
            return
        # The one place where the roof meets the connectors, by name only.
        base = importlib.import_module("connectors.base")
        entry_points = importlib.metadata.entry_points(group=CONNECTORS)
        for kind, sensors in self.settings.sensors.items():
            connector = entry_points[kind].load()
            for source in connector.sources(sensors):
                report = base.SourceReport()
                context = base.SourceContext(self._client, self._clock, self.settings.default_namespace, report)
                self._sources.append((kind, source, report))
                self._own(self._run_source(source, context), source.name)
        for kind, source, report in self._sources:
            await self._wait_ready(source, report)
            for address in report.addresses:
                self.addresses.setdefault(kind, address)

    async def _wait_ready(self, source: Any, report: Any) -> None:
        """Wait until a source serves.

        One that can't at the start ends the start: a typo must not look like a quiet sensor.
        """
        waiter = asyncio.ensure_future(report.ready.wait())
        task = next(task for task in self._tasks if task.get_name() == source.name)
        await asyncio.wait([waiter, task], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            await task

    async def _run_source(self, source: Any, context: Any) -> None:
        """Run a source for as long as the gateway runs; once it has served, failures are retried."""
        while True:
            try:
                await source.run(context)
            except GatewayError as error:
                context.report.last_error = str(error)
                if not context.report.addresses:
                    raise
                logger.error("%s failed and is started again in %d s: %s", source.name, SOURCE_RESTART_S, error)
            await asyncio.sleep(SOURCE_RESTART_S)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._part_ended)
        self._tasks.append(task)

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        """A part that dies by our own fault must not look like a quiet one: the process ends, and systemd starts
        it again."""
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if isinstance(error, GatewayError):
            logger.error("%s ended: %s", task.get_name(), error)
        else:
            logger.critical("%s died", task.get_name(), exc_info=error)
            self.failed.set()

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _log_changed(self, state: JournalState) -> None:
        if state is JournalState.failed:
            self.failed.set()

    async def _watch_loop(self) -> None:
        """Count the times that the event loop was kept from its work."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_CHECK_S
            await asyncio.sleep(LOOP_CHECK_S)
            late = loop.time() - due
            if late > LOOP_STALL_S:
                self._stalls += 1
                self._worst_stall_s = max(self._worst_stall_s, late)

    # Facts

    def problems(self) -> list[str]:
        problems = []
        if self._log.journal.state is not JournalState.open:
            problems.append(f"the log is {self._log.journal.state}: nothing can be published")
        for _, source, report in self._sources:
            if not report.ready.is_set():
                problems.append(f"{source.name} does not serve: {report.last_error}")
        return problems

    def status(self) -> dict[str, Any]:
        journal = self._log.journal
        stats = journal.stats
        return {
            "gateway": self.settings.gateway_id,
            "version": __version__,
            "uptime_seconds": round((self._clock.monotonic_ns() - self._started_ns) / SECOND, 1),
            "addresses": self.addresses,
            "clock": self._clock.quality().name,
            "problems": self.problems(),
            "log": {
                "state": str(journal.state),
                "groups": stats.groups,
                "entries": stats.entries,
                "bytes_raw": stats.bytes_raw,
                "bytes_written": stats.bytes_written,
                "syncs": stats.syncs,
                "sync_seconds": round(stats.sync_ns / SECOND, 6),
                "failures": stats.failures,
                "quota_bytes": self.settings.log.quota_bytes,
                "commit_causes": stats.commit_causes,
            },
            "loop": {"stalls": self._stalls, "worst_stall_seconds": round(self._worst_stall_s, 3)},
            "connections": len(self._server.connections),
            "topics_open": len(self._broker.topics),
            "sources": [
                {
                    "name": source.name,
                    "type": kind,
                    "addresses": report.addresses,
                    "connections": report.connections,
                    "held": report.held,
                    "protocol_errors": report.protocol_errors,
                    "last_error": report.last_error,
                }
                for kind, source, report in self._sources
            ],
            "sensors": [
                {
                    "name": sensor.name,
                    "type": kind,
                    "messages": sensor.messages,
                    "payload_bytes": sensor.payload_bytes,
                    "refused": sensor.refused,
                    "last_error": sensor.last_error,
                }
                for kind, _, report in self._sources
                for sensor in report.sensors.values()
            ],
            "replication": self.replication(),
        }

    async def topics(self) -> list[dict[str, Any]]:
        described = []
        for summary in await self._broker.list_topics():
            topic = self._broker.topics.get(summary.name)
            described.append(
                {
                    "name": summary.name,
                    "partitions": summary.partitions,
                    "ledger_id": summary.ledger_id,
                    "entries": topic.durable_end if topic else summary.next_entry_id,
                    "producers": sorted(topic.producers) if topic else [],
                    "subscriptions": [
                        {
                            "name": subscription.name,
                            "type": subscription.subscription_type.name,
                            "durable": subscription.durable,
                            "backlog_entries": subscription.backlog_entries,
                            "consumers": len(subscription.consumers),
                        }
                        for subscription in (topic.subscriptions.values() if topic else ())
                    ],
                }
            )
        return described

    def replication(self) -> list[dict[str, Any]]:
        return [replicator.status() for replicator in self._replicators]

    async def replication_doctor(self, name: str) -> list[dict[str, Any]]:
        for settings in self.settings.replications:
            if settings.name == name:
                from gateway.replication.doctor import examine

                return await examine(settings, [topic["name"] for topic in await self.topics()])
        raise ReplicationError(
            f"there is no replication '{name}'",
            hint="configured: " + (", ".join(item.name for item in self.settings.replications) or "none"),
        )

    def metrics(self) -> bytes:
        from gateway.http.metrics import make_registry, render

        if self._registry is None:
            self._registry = make_registry(self.status)
        return render(self._registry)


def bind(address: Address, purpose: str) -> socket.socket:
    """A bound listening socket. Raises: GatewayError in one sentence for a port in use or an address off loopback."""
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise GatewayError(f"'{host}' is not an IP address to listen on for {purpose}") from None
    if not loopback:
        raise GatewayError(
            f"listening on {address} for {purpose} is refused: there are no users, certificates or tokens yet",
            hint="listen on 127.0.0.1",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only on sockets that are known to be TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, address.port))
    except OSError as error:
        listener.close()
        raise GatewayError(
            f"can't listen on {address} for {purpose}: {error.strerror or error}",
            hint="another program uses the port: stop it, or choose another in gateway.listen",
        ) from error
    return listener


def notify_systemd(message: str) -> None:
    """Tell systemd, if it started this process and wants to know. Source: sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.connect("\0" + path[1:] if path.startswith("@") else path)
            notifier.send(message.encode())


async def serve(settings: Settings) -> int:
    """Run a gateway until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when the log failed for good."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(settings, SystemClock())
    await gateway.start()
    gc.collect()
    gc.freeze()
    words = " ".join(f"{what}={where}" for what, where in gateway.addresses.items())
    print(f"ready {words}", flush=True)
    notify_systemd(f"READY=1\nSTATUS=serving: {words}")
    waiting = [asyncio.ensure_future(event.wait()) for event in (stop, gateway.failed)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiting:
        waiter.cancel()
    failed = gateway.failed.is_set()
    if failed:
        # Reads go on for a while, so that what is stored can still be carried away before systemd starts this again.
        logger.critical("the gateway can't go on and ends in %d s", LOG_FAILED_GRACE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOG_FAILED_GRACE_S):
                await stop.wait()
    notify_systemd("STOPPING=1")
    await gateway.stop()
    return 1 if failed else 0


def run(path: Path) -> int:
    """Run the gateway that a configuration file describes, in the foreground. Returns the exit code."""
    from gateway.config.load import load_in_child

    logging.basicConfig(
        stream=sys.stderr, level=os.environ.get("HEADWATER_LOG", "INFO"), format="%(levelname)s %(name)s: %(message)s"
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    started = time.process_time()
    try:
        settings = load_in_child(path)
        code = asyncio.run(serve(settings))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except GatewayError as error:
        print(f"headwater: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 1
    logger.info("stopped after %.1f s of CPU", time.process_time() - started)
    return code


def _name_of(listener: socket.socket) -> str:
    return str(Address(*listener.getsockname()[:2]))
