"""The broker's listener: sockets, their buffers and their silence. What the bytes mean is the session's business."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from gateway.broker.broker import Broker
from gateway.broker.session import Session
from gateway.errors import ProtocolError
from gateway.limits import (
    CONNECTION_WRITE_BUFFER_MAX,
    CONNECTIONS_MAX,
    PARTIAL_FRAMES_SIZE_MAX,
    PENDING_RECEIPTS_MAX,
    PENDING_SIZE_MAX,
    SECOND,
    UNREAD_ANSWERS_SIZE_MAX,
)
from gateway.wire.connection import Connection, Role, State

logger = logging.getLogger(__name__)

CLOSE_GRACE_S = 10.0
"""How long a closed connection may take to carry its last bytes to the peer."""
PROBE_TIMEOUT_NS = 3 * SECOND
"""How long a connection may take to answer before its producer's name is given to somebody else."""


class BrokerServer:
    """Accepts clients on one listening socket."""

    def __init__(self, broker: Broker, now_ns: Callable[[], int]) -> None:
        self.broker = broker
        self.now_ns = now_ns
        self.connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._partial_bytes = 0

    async def start(self, listener: socket.socket) -> None:
        """Serve on a bound socket, made with proto=IPPROTO_TCP so that asyncio turns Nagle's algorithm off."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self), sock=listener)

    def partial_frames(self, connection: ClientConnection) -> None:
        """Bound what all connections together hold of frames that are not complete."""
        held = connection.held_bytes
        self._partial_bytes += held - connection.counted_bytes
        connection.counted_bytes = held
        if held and self._partial_bytes > PARTIAL_FRAMES_SIZE_MAX:
            connection.end("too many clients send large entries at once")

    def forget(self, connection: ClientConnection) -> None:
        """A connection is gone."""
        self._partial_bytes -= connection.counted_bytes
        connection.counted_bytes = 0
        self.connections.discard(connection)

    async def close(self) -> None:
        """Accept nobody any more and close all connections; what they have appended is still committed."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(connection.shut("the gateway is stopping") for connection in tuple(self.connections)))


class ClientConnection(asyncio.Protocol):
    """One client's socket."""

    def __init__(self, server: BrokerServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(Role.broker, now_ns=server.now_ns())
        self._session = Session(
            server.broker, self._connection, flush=self._flush_soon, probe=self._probe, fail=self.end
        )
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self._reading = True
        self._heard = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self.peer = "?"
        self.counted_bytes = 0
        """What the server has counted of `held_bytes`."""

    @property
    def session(self) -> Session:
        return self._session

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._connection.held_bytes

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = "{}:{}".format(*(transport.get_extra_info("peername") or ("?", "?"))[:2])
        if len(self._server.connections) >= CONNECTIONS_MAX:
            logger.warning("%s is turned away: %d connections are open", self.peer, CONNECTIONS_MAX)
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=CONNECTION_WRITE_BUFFER_MAX)
        self._server.connections.add(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        self._heard.set()
        try:
            self._session.handle(self._connection.receive_data(data, self._server.now_ns()))
        except ProtocolError as error:
            self.end(str(error))
            return
        self._flush_soon()
        self._server.partial_frames(self)
        if self._ahead_of_commit(1):
            self._read_no_further()

    def pause_writing(self) -> None:
        self._session.writable = False

    def resume_writing(self) -> None:
        self._session.writable = True
        self._session.room.set()
        self._read_again()
        self._session.wake_consumers()

    def connection_lost(self, error: Exception | None) -> None:
        self.end(f"the connection was lost: {error}" if error else "the peer closed the connection")

    # Writing

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what was produced in this turn of the loop, in one go."""
        self._flushing = False
        if self._transport is None or self._transport.is_closing():
            return
        out = self._connection.data_to_send()
        if out:
            self._transport.write(b"".join(out))
        if self._session.flushed() and not self._transport.get_write_buffer_size() > CONNECTION_WRITE_BUFFER_MAX:
            self._session.writable = True
            self._session.wake_consumers()
        if self._transport.get_write_buffer_size() > UNREAD_ANSWERS_SIZE_MAX:
            # It asks and does not listen: what it is to be told would fill the memory.
            self._session.room.clear()
            self._read_no_further()
        self._read_again()

    def _read_no_further(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _read_again(self) -> None:
        if (
            not self._reading
            and self._transport is not None
            and not self._transport.is_closing()
            and self._session.room.is_set()
            and not self._ahead_of_commit(2)
        ):
            self._reading = True
            self._transport.resume_reading()

    def _ahead_of_commit(self, share: int) -> bool:
        """Whether more than 1/share of what may wait for the commit does: entries of this connection, bytes of all."""
        waiting = self._session.receipts.waiting
        if not waiting:
            return False
        waiting_bytes = self._server.broker.log.journal.waiting_bytes
        return waiting > PENDING_RECEIPTS_MAX // share or waiting_bytes > PENDING_SIZE_MAX // share

    # Life

    def _arm(self) -> None:
        delay_ns = max(0, self._connection.next_deadline_ns() - self._server.now_ns())
        self._timer = self._loop.call_later(delay_ns / SECOND, self._tick)

    def _tick(self) -> None:
        try:
            self._connection.tick(self._server.now_ns())
        except ProtocolError as error:
            self.end(str(error))
            return
        self._flush_soon()
        self._arm()

    async def _probe(self) -> bool:
        """Ask the peer for a sign of life, and close the connection if none comes."""
        if self._connection.state is not State.open:
            return False
        self._heard.clear()
        self._connection.ping(self._server.now_ns())
        self._flush_soon()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_NS / SECOND):
                await self._heard.wait()
        except TimeoutError:
            await self.shut("the peer does not answer")
            return False
        return True

    async def shut(self, reason: str) -> None:
        """Close the connection and let go of all that belongs to it."""
        self.end(reason)
        if self._closing is not None:
            await self._closing

    def end(self, reason: str) -> None:
        """Close the connection; what belongs to it is let go of by a task of its own."""
        if self._closing is not None:
            return
        logger.info("%s: connection closed: %s", self.peer, self._connection.close_reason or reason)
        self._connection.fail(reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._flush()
            self._transport.close()
            # A peer that takes nothing any more would keep the socket for as long as TCP hopes for it.
            self._loop.call_later(CLOSE_GRACE_S, self._transport.abort)
        self._closing = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        await self._session.close()
        self._server.forget(self)
