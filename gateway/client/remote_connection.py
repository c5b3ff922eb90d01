"""One connection to a broker: requests and their answers, and whom receipts and entries are for. No policy.

When the connection is lost, everything that waits on it fails with ProtocolError; whether and when to connect again
is the business of who uses it.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import Sequence
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from gateway import __version__
from gateway.errors import (
    AuthenticationFailed,
    BrokerError,
    ConsumerBusy,
    GatewayError,
    NotAllowed,
    ProducerBusy,
    ProducerFenced,
    ProtocolError,
    ServerError,
    StorageUnavailable,
    SubscriptionNotFound,
    TopicNotFound,
)
from gateway.limits import SECOND
from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import Connection, Role, State

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
"""How long closing waits for the peer to take what was written."""
REQUEST_TIMEOUT_S = 30.0
"""How long an answer may take. Source: the clients' operation time-out."""
DEFAULT_PORTS = {"pulsar": 6650, "pulsar+ssl": 6651}
TLS_SCHEME = "pulsar+ssl"
SEND_RECEIPT = int(CommandType.SEND_RECEIPT)
_CLASSES: dict[ServerError, type[BrokerError]] = {
    kind.code: kind
    for kind in (
        TopicNotFound,
        SubscriptionNotFound,
        ProducerBusy,
        ProducerFenced,
        ConsumerBusy,
        NotAllowed,
        AuthenticationFailed,
        StorageUnavailable,
    )
}


class ProducerSink(Protocol):
    """Who is told what becomes of a producer's entries."""

    def receipts(self, receipts: Sequence[Any]) -> None:
        """CommandSendReceipt of this producer, in the order of arrival. Raises: ProtocolError."""

    def send_error(self, sequence_id: int, error: BrokerError) -> None: ...

    def closed(self, error: GatewayError) -> None: ...


class ConsumerSink(Protocol):
    """Who is given a consumer's entries."""

    def message(self, command: Any, data: bytes) -> None: ...

    def closed(self, error: GatewayError) -> None: ...


class RemoteConnection(asyncio.Protocol):
    """A connection that is open. Made by `open_connection`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(Role.client, now_ns=time.monotonic_ns())
        self._transport: asyncio.Transport | None = None
        self._request_ids = itertools.count(1)
        self._handle_ids = itertools.count(1)
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._producers: dict[int, ProducerSink] = {}
        self._consumers: dict[int, ConsumerSink] = {}
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.error: GatewayError | None = None
        """Why the connection is closed; None while it is open."""

    @property
    def entry_size_max(self) -> int:
        """Bytes of an entry that the broker takes."""
        return self._connection.entry_size_max

    async def introduce(self, *, token: str | None, proxy_to: str) -> None:
        """Do the handshake. Raises: BrokerError when refused, ProtocolError."""
        if self.error is not None:
            # Lost between being accepted and being spoken to.
            raise self.error
        self._connection.connect(
            client_version=f"Headwater {__version__}",
            auth_method="token" if token else "none",
            auth_data=token.encode() if token else b"",
            proxy_to=proxy_to,
        )
        self._flush_soon()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self._opened

    async def request(self, kind: CommandType, body: Any) -> Any:
        """Send a command that has a request id and wait for its answer. Raises: BrokerError, ProtocolError."""
        if self.error is not None:
            raise self.error
        body.request_id = request_id = next(self._request_ids)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._requests[request_id] = answer
        self._connection.send(kind, body)
        self._flush_soon()
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets the answer.
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise ProtocolError(f"the broker did not answer {kind.name} within {REQUEST_TIMEOUT_S:.0f} s") from None
        finally:
            self._requests.pop(request_id, None)

    def request_unheard(self, kind: CommandType, body: Any) -> None:
        """Send a command that has a request id, and let its answer be dropped."""
        body.request_id = next(self._request_ids)
        self.send(kind, body)

    @property
    def writable(self) -> bool:
        """Whether the socket takes more at the moment."""
        return self._may_write.is_set()

    async def wait_writable(self) -> None:
        """Wait until the socket takes more, or the connection is lost."""
        await self._may_write.wait()

    def send(self, kind: CommandType, body: Any) -> None:
        """Send a command that has no answer."""
        if self.error is None:
            self._connection.send(kind, body)
            self._flush_soon()

    def send_entry(self, producer_id: int, sequence_id: int, data: bytes, messages: int) -> None:
        """Publish an entry. Raises: ProtocolError where it is too large, or the connection is closed."""
        if self.error is not None:
            raise self.error
        self._connection.send_entry(producer_id, sequence_id, data, messages)
        self._flush_soon()

    def add_producer(self, sink: ProducerSink) -> int:
        producer_id = next(self._handle_ids)
        self._producers[producer_id] = sink
        return producer_id

    def add_consumer(self, sink: ConsumerSink) -> int:
        consumer_id = next(self._handle_ids)
        self._consumers[consumer_id] = sink
        return consumer_id

    def forget(self, handle_id: int) -> None:
        """Nobody wants to hear of this producer or consumer any more."""
        self._producers.pop(handle_id, None)
        self._consumers.pop(handle_id, None)

    async def close(self) -> None:
        """Close the connection."""
        self._fail(ProtocolError("the connection was closed by this side"))
        if self._transport is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._lost.wait()
            except TimeoutError:
                # The peer takes nothing: what was to be written to it is dropped.
                self._transport.abort()
                await self._lost.wait()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        receipts: list[Any] = []
        try:
            for kind, command, entry in self._connection.receive_data(data, time.monotonic_ns()):
                if kind == SEND_RECEIPT:
                    if receipts and receipts[0].producer_id != command.producer_id:
                        self._receipts(receipts)
                        receipts = []
                    receipts.append(command)
                    continue
                if receipts:
                    self._receipts(receipts)
                    receipts = []
                self._received(kind, command, entry)
            if receipts:
                self._receipts(receipts)
        except ProtocolError as error:
            self._fail(error)
        self._flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ProtocolError(f"the connection was lost: {error or 'the broker closed it'}"))
        self._lost.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def _receipts(self, receipts: list[Any]) -> None:
        producer = self._producers.get(receipts[0].producer_id)
        if producer is not None:
            producer.receipts(receipts)

    def _received(self, kind: int, command: Any, entry: bytes | None) -> None:
        if kind == CommandType.MESSAGE:
            if entry is None:
                # Acknowledging it would lose it; a new connection is given it again.
                raise ProtocolError("an entry arrived with a wrong checksum")
            consumer = self._consumers.get(command.consumer_id)
            if consumer is not None:
                consumer.message(command, entry)
        elif kind == CommandType.CONNECTED:
            if not self._opened.done():
                self._opened.set_result(None)
        elif kind == CommandType.SEND_ERROR:
            producer = self._producers.get(command.producer_id)
            if producer is not None:
                producer.send_error(command.sequence_id, _refused(command.error, command.message))
        elif kind == CommandType.CLOSE_PRODUCER:
            producer = self._producers.pop(command.producer_id, None)
            if producer is not None:
                producer.closed(ProtocolError("the broker closed the producer"))
        elif kind == CommandType.CLOSE_CONSUMER:
            closed = self._consumers.pop(command.consumer_id, None)
            if closed is not None:
                closed.closed(ProtocolError("the broker closed the consumer"))
        elif kind == CommandType.ERROR:
            error = _refused(command.error, command.message)
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                self._answer(command.request_id, error)
        elif kind == CommandType.LOOKUP_RESPONSE:
            failed = command.response == commands.LOOKUP_FAILED
            self._answer(command.request_id, _refused(command.error, command.message) if failed else command)
        elif kind == CommandType.PARTITIONED_METADATA_RESPONSE:
            failed = command.response == commands.METADATA_FAILED
            self._answer(command.request_id, _refused(command.error, command.message) if failed else command)
        elif kind == CommandType.PRODUCER_SUCCESS:
            if command.producer_ready:
                self._answer(command.request_id, command)
        elif kind in (
            CommandType.SUCCESS,
            CommandType.GET_LAST_MESSAGE_ID_RESPONSE,
            CommandType.GET_TOPICS_OF_NAMESPACE_RESPONSE,
            CommandType.ACK_RESPONSE,
        ):
            self._answer(command.request_id, command)

    def _answer(self, request_id: int, answer: Any) -> None:
        future = self._requests.get(request_id)
        if future is None or future.done():
            return
        if isinstance(answer, GatewayError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    # Time and bytes

    def _arm(self) -> None:
        delay_s = max(0, self._connection.next_deadline_ns() - time.monotonic_ns()) / SECOND
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        try:
            self._connection.tick(time.monotonic_ns())
        except ProtocolError as error:
            self._fail(error)
            return
        self._flush_soon()
        self._arm()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and not self._transport.is_closing():
            out = self._connection.data_to_send()
            if out:
                self._transport.write(b"".join(out))

    def _fail(self, error: GatewayError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._connection.fail(str(error))
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._flush()
            self._transport.close()
        self._may_write.set()
        if not self._opened.done():
            self._opened.set_exception(error)
            # Where nobody waits for it, `error` tells.
            self._opened.exception()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(error)
        producers, self._producers = self._producers, {}
        consumers, self._consumers = self._consumers, {}
        for producer in producers.values():
            producer.closed(error)
        for consumer in consumers.values():
            consumer.closed(error)

    @property
    def open(self) -> bool:
        return self.error is None and self._connection.state is State.open


async def open_connection(
    url: str, *, token: str | None, trust_certs_file: str | None, proxy_to: str = ""
) -> RemoteConnection:
    """Connect to `pulsar://HOST:PORT` or `pulsar+ssl://HOST:PORT`. Raises: ProtocolError, BrokerError when refused."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ProtocolError(
            f"'{url}' is not a service URL", local=True, hint="write pulsar://HOST:6650 or pulsar+ssl://HOST:6651"
        )
    tls = None
    if parts.scheme == TLS_SCHEME:
        try:
            tls = ssl.create_default_context(cafile=trust_certs_file)
        except (OSError, ssl.SSLError) as error:
            raise ProtocolError(f"{trust_certs_file} holds no certificates: {error}", local=True) from error
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                RemoteConnection, parts.hostname, port or DEFAULT_PORTS[parts.scheme], ssl=tls
            )
    except TimeoutError:
        raise ProtocolError(f"{url} does not answer") from None
    except ssl.SSLError as error:
        raise ProtocolError(f"{url} has no certificate that is trusted: {error.reason or error}") from error
    except OSError as error:
        raise ProtocolError(f"{url} can't be reached: {error.strerror or error}") from error
    try:
        await connection.introduce(token=token, proxy_to=proxy_to)
    except TimeoutError:
        await connection.close()
        raise ProtocolError(f"{url} accepts connections, but does not speak Pulsar's protocol") from None
    except BaseException:
        await connection.close()
        raise
    return connection


def _refused(code: int, message: str) -> BrokerError:
    """A refusal as the class that `local` raises for the same, so that callers need not ask where the broker is."""
    try:
        known = ServerError(code)
    except ValueError:
        known = ServerError.UnknownError
    kind = _CLASSES.get(known, BrokerError)
    return kind(message or known.name, code=known)
