"""The sockets of MQTT devices: carries out what `session` decides, and never decides itself.

A connection's socket is not read while
  - more than MQTT_IN_FLIGHT_MAX of its messages wait for the commit,
  - it does not read what is sent to it, or
  - the publisher holds everybody, because the log takes nothing or too much is in flight.
Its silence is not counted meanwhile. TCP then slows the device down; an MQTT 3.1.1 PUBACK could not refuse.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from typing import cast

from connectors.base import SourceReport
from connectors.mqtt.codec import PUBACK_HEAD, ConnectRefused, MqttError, Publish
from connectors.mqtt.sensor import Address
from connectors.mqtt.session import Session, SessionStore
from connectors.publisher import Publisher
from connectors.rounds import Route
from gateway.clock import Clock
from gateway.errors import ConnectorError
from gateway.limits import (
    CONNECTION_WRITE_BUFFER_MAX,
    CONNECTOR_IN_FLIGHT_SIZE_MAX,
    CONNECTOR_ROUTES_MAX,
    MQTT_CONNECTIONS_MAX,
    MQTT_IN_FLIGHT_MAX,
    SECOND,
)

logger = logging.getLogger(__name__)

FindRoutes = Callable[[str, str], tuple[Route, ...]]
"""From MQTT topic and device to the ways its messages take; at least one."""
SWEEP_INTERVAL_S = 1.0
"""How often silence is looked for: a keep-alive is counted in whole seconds."""
LINGER_NS_MAX = 10 * SECOND
"""How long a closed connection may take to receive what was sent to it."""
BACKLOG = 128

_IN_FLIGHT, _UNREAD, _HELD = 1, 2, 4
"""Reasons for not reading a socket, as bits."""


class Connection(asyncio.Protocol):
    """One device's socket."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._publisher = listener.publisher
        self._monotonic_ns = listener.clock.monotonic_ns
        self._session = Session(
            listener.sessions, now_ns=self._monotonic_ns(), make_client_id=lambda: f"anonymous-{secrets.token_hex(8)}"
        )
        self._transport = cast(asyncio.Transport, None)
        self._routes: dict[bytes, tuple[Route, ...]] = {}
        self._in_flight = 0
        self._paused = 0
        self._device = ""
        self._linger_until_ns = 0
        self.partial_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(CONNECTION_WRITE_BUFFER_MAX)
        self._listener.connected(self)

    def data_received(self, data: bytes) -> None:
        session = self._session
        publishes = session.receive_data(data, self._monotonic_ns())
        if not self._device and session.client_id:
            self._device = session.client_id
            self._listener.identified(self, self._device)
        if publishes:
            self._take(publishes)
        if outgoing := session.data_to_send():
            self._transport.write(outgoing)
        if session.partial_size != self.partial_size:
            self._listener.grew(self, session.partial_size)
        if session.closed:
            self.close()

    def _take(self, publishes: list[Publish]) -> None:
        """Publish, and note the packet ids of what is to be acknowledged."""
        turn = self._publisher.round()
        routes = self._routes
        tokens = turn.tokens.get(self)
        if tokens is None:
            tokens = turn.tokens[self] = []
        before = len(tokens)
        for topic, payload, packet_id in publishes:
            for route in routes.get(topic) or self._find_routes(topic):
                route.add(payload, turn, self)
            if packet_id:
                tokens.append(packet_id)
        self._in_flight += len(tokens) - before
        if self._in_flight >= MQTT_IN_FLIGHT_MAX:
            self.pause(_IN_FLIGHT)

    def _find_routes(self, topic: bytes) -> tuple[Route, ...]:
        if len(self._routes) >= CONNECTOR_ROUTES_MAX:
            self._routes.clear()
        routes = self._routes[topic] = self._listener.find_routes(topic.decode(), self._device)
        return routes

    def confirmed(self, tokens: list[bytes]) -> None:
        """The messages with these packet ids are durable."""
        if not tokens:
            return
        self._in_flight -= len(tokens)
        if not self._transport.is_closing():
            self._transport.write(PUBACK_HEAD + PUBACK_HEAD.join(tokens))
            if self._paused & _IN_FLIGHT and self._in_flight <= MQTT_IN_FLIGHT_MAX // 2:
                self.resume(_IN_FLIGHT)

    def refused(self, error: Exception) -> None:
        """Something this device sent will not be stored: it loses its connection, and may try again."""
        self.fail(MqttError(f"a message can't be stored: {error}"))

    def pause(self, reason: int) -> None:
        """Stop reading, for this reason among others."""
        self._paused |= reason
        self._transport.pause_reading()

    def resume(self, reason: int) -> None:
        """Read again, if no other reason is left."""
        self._paused &= ~reason
        if not self._paused:
            self._session.postpone(self._monotonic_ns())
            self._transport.resume_reading()

    def hold(self, held: bool) -> None:
        """Follow the publisher's word."""
        if held:
            self.pause(_HELD)
        else:
            self.resume(_HELD)

    def pause_writing(self) -> None:
        self.pause(_UNREAD)

    def resume_writing(self) -> None:
        self.resume(_UNREAD)

    def tick(self, now_ns: int) -> None:
        """Look whether the device, or its connection's end, takes too long."""
        if self._linger_until_ns:
            if now_ns >= self._linger_until_ns:
                self._transport.abort()
        elif self._paused & ~_UNREAD:
            self._session.postpone(now_ns)
        else:
            self._session.tick(now_ns)
            if self._session.closed:
                self.close()

    def fail(self, error: MqttError) -> None:
        """End the conversation from this side."""
        self._session.fail(error)
        self.close()

    def close(self) -> None:
        """Publish the will if there is one, count and close."""
        if self._linger_until_ns:
            return
        self._linger_until_ns = self._monotonic_ns() + LINGER_NS_MAX
        self._publish_will()
        if self._session.failure is not None:
            self._listener.failed(self._session.failure, self._device)
        self._transport.close()

    def stop(self) -> None:
        """Read nothing more because the gateway stops: the device did not vanish, so its will stays unpublished."""
        self._session.will = None
        self.pause(_HELD)

    def abort(self) -> None:
        """Close without waiting for anything."""
        self._transport.abort()

    def eof_received(self) -> None:
        """The device sends nothing more: MQTT has no half-open connections."""

    def connection_lost(self, error: Exception | None) -> None:
        self._publish_will()
        self._listener.lost(self, self._device)

    def _publish_will(self) -> None:
        will, self._session.will = self._session.will, None
        if will is not None and self._device:
            self._take([(will.topic, will.payload, b"")])


class Listener:
    """One listening socket and its connections."""

    def __init__(
        self, address: Address, *, publisher: Publisher, find_routes: FindRoutes, clock: Clock, report: SourceReport
    ) -> None:
        self.publisher = publisher
        self.find_routes = find_routes
        self.clock = clock
        self.sessions = SessionStore()
        self._address = address
        self._report = report
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._devices: dict[str, Connection] = {}
        self._partial_size = 0
        self._stopped = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._no_connections = asyncio.Event()
        self._no_connections.set()

    async def start(self) -> Address:
        """Listen, and return where. Raises: ConnectorError."""
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sets TCP_NODELAY on accepted sockets only if the listening one says that it is TCP.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), sock=listening, backlog=BACKLOG
            )
        except OSError as error:
            listening.close()
            raise ConnectorError(
                f"MQTT can't listen on {self._address}: {error.strerror or error}",
                hint="choose another port in `listen`, or stop the program that uses this one",
            ) from error
        return Address(host, listening.getsockname()[1])

    def connected(self, connection: Connection) -> None:
        """A device opened a connection."""
        self._connections.add(connection)
        self._report.connections += 1
        self._no_connections.clear()
        if len(self._connections) > MQTT_CONNECTIONS_MAX:
            self._report.connections_refused += 1
            connection.abort()
            return
        if self._stopped:
            connection.stop()
        elif self._report.held:
            connection.hold(True)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_INTERVAL_S, self._sweep_again)

    def identified(self, connection: Connection, device: str) -> None:
        """A device said who it is: an older connection of that name is closed. Source: MQTT-3.1.4-2."""
        older = self._devices.get(device)
        self._devices[device] = connection
        if older is not None:
            older.fail(MqttError("another connection took over the client id"))

    def grew(self, connection: Connection, partial_size: int) -> None:
        """A connection's incomplete packet is now this large; all of them together are bounded."""
        self._partial_size += partial_size - connection.partial_size
        connection.partial_size = partial_size
        if self._partial_size > CONNECTOR_IN_FLIGHT_SIZE_MAX and partial_size:
            connection.fail(MqttError("too many devices send large packets at once"))
            self._partial_size -= connection.partial_size
            connection.partial_size = 0

    def failed(self, error: MqttError, device: str) -> None:
        """A connection is closed from this side."""
        if isinstance(error, ConnectRefused):
            self._report.connections_refused += 1
        else:
            self._report.protocol_errors += 1
        self._report.last_error = f"device '{device}': {error}" if device else str(error)
        logger.info("closed the connection of device %r: %s", device, error)

    def lost(self, connection: Connection, device: str) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._report.connections -= 1
        self._partial_size -= connection.partial_size
        if self._devices.get(device) is connection:
            del self._devices[device]
        if not self._connections:
            self._no_connections.set()

    def hold(self, held: bool) -> None:
        """Stop or start reading all connections."""
        if self._stopped:
            return
        for connection in list(self._connections):
            connection.hold(held)

    def sweep(self) -> None:
        """Close what has been silent for too long."""
        now_ns = self.clock.monotonic_ns()
        for connection in list(self._connections):
            connection.tick(now_ns)

    def _sweep_again(self) -> None:
        self._sweeper = None
        self.sweep()
        if self._connections:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_INTERVAL_S, self._sweep_again)

    def stop(self) -> None:
        """Accept and read nothing more; what was taken can still be acknowledged."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.stop()

    async def close(self, *, grace_s: float) -> None:
        """Close all connections, giving devices up to `grace_s` seconds to receive what was sent to them."""
        self.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.close()
        # Not asyncio.timeout: before Python 3.11.4 it takes its own end for the cancellation that stops this task.
        gone = asyncio.ensure_future(self._no_connections.wait())
        done, _ = await asyncio.wait([gone], timeout=grace_s)
        gone.cancel()
        if not done:
            for connection in list(self._connections):
                connection.abort()
