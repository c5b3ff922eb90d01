"""A producer at a broker, over Pulsar's protocol."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.client.api import Producer, ProducerOptions, ReceiptCallback
from gateway.client.remote_connection import RemoteConnection
from gateway.errors import BrokerError, GatewayError, ProtocolError
from gateway.message import EARLIEST, Position
from gateway.wire import commands
from gateway.wire.commands import CommandType


class Stream(Protocol):
    """Who publishes entries by the thousand, and is told what becomes of them many at a time."""

    def confirmed(self, sequence_id: int, entries: int) -> None:
        """This many entries up to `sequence_id`, in the order in which they were published, were confirmed one by
        one."""

    def refused(self, sequence_id: int, error: BrokerError) -> None:
        """The broker does not take this entry."""

    def closed(self, error: GatewayError) -> None:
        """The producer has ended: what is not confirmed never will be. Also told while nothing is under way."""


class RemoteProducer(Producer):
    """A producer at a broker. Receipts come in the order of the entries, or the conversation is broken."""

    def __init__(self, connection: RemoteConnection, topic: str) -> None:
        self.topic = topic
        self.name = ""
        self.last_sequence_id = -1
        self._connection = connection
        self._producer_id = connection.add_producer(self)
        self.stream: Stream | None = None
        """Who is told of what `stream_entry` publishes."""
        self._waiting: deque[tuple[int, ReceiptCallback | None]] = deque()
        """Sequence id and who is told, of each entry under way. None: the stream."""
        self._error: GatewayError | None = None
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def entry_size_max(self) -> int:
        """Bytes of an entry that the broker takes."""
        return self._connection.entry_size_max

    @property
    def writable(self) -> bool:
        """Whether the socket takes more at the moment; what is published all the same is kept in memory."""
        return self._connection.writable

    async def wait_writable(self) -> None:
        """Wait until the socket takes more, or the connection is lost."""
        await self._connection.wait_writable()

    async def open(self, options: ProducerOptions) -> None:
        """Create it at the broker. Raises: BrokerError, ProtocolError."""
        command = commands.CommandProducer(topic=self.topic, producer_id=self._producer_id, request_id=0)
        if options.name:
            command.producer_name = options.name
            command.user_provided_producer_name = True
        else:
            command.user_provided_producer_name = False
        for key, value in options.properties.items():
            command.metadata.add(key=key, value=value)
        try:
            answer = await self._connection.request(CommandType.PRODUCER, command)
        except BrokerError:
            self._connection.forget(self._producer_id)
            raise
        except BaseException:
            # Given up before it was answered: the broker may hold the name for it.
            self._connection.forget(self._producer_id)
            self._connection.request_unheard(CommandType.CLOSE_PRODUCER, self._close_command())
            raise
        self.name = answer.producer_name
        self.last_sequence_id = answer.last_sequence_id

    def publish(self, data: bytes, *, sequence_id: int, messages: int, on_receipt: ReceiptCallback) -> None:
        if self._error is not None:
            raise self._error
        self._connection.send_entry(self._producer_id, sequence_id, data, messages)
        self._waiting.append((sequence_id, on_receipt))
        self._drained.clear()

    def stream_entry(self, data: bytes, sequence_id: int, messages: int) -> None:
        """Publish an entry of which `stream` is told. Raises: GatewayError where nothing was sent."""
        if self._error is not None:
            raise self._error
        self._connection.send_entry(self._producer_id, sequence_id, data, messages)
        self._waiting.append((sequence_id, None))
        self._drained.clear()

    def send_entry(
        self, data: bytes, *, sequence_id: int, highest_sequence_id: int | None = None, messages: int = 1
    ) -> asyncio.Future[Position]:
        # The highest id of a batch stands in its metadata; the command of C++ and Go clients leaves it out, and so
        # does this.
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()

        def settle(sequence_id: int, position: Position, error: GatewayError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(position)
            else:
                future.set_exception(error)

        self.last_sequence_id = max(self.last_sequence_id, sequence_id, highest_sequence_id or -1)
        try:
            self.publish(data, sequence_id=sequence_id, messages=messages, on_receipt=settle)
        except GatewayError as error:
            future.set_exception(error)
        return future

    async def flush(self) -> None:
        await self._drained.wait()

    async def close(self) -> None:
        if self._error is None:
            await self.flush()
        await self.abandon()

    async def abandon(self) -> None:
        """Let go of the name without waiting for receipts: what is under way fails, though the broker may store it.

        Raises: ProtocolError where the broker does not answer, so that the name may still be taken on this connection.
        """
        if self._error is None:
            self._end(ProtocolError("the producer is closed"), told=False)
            if self._connection.error is None:
                try:
                    await self._connection.request(CommandType.CLOSE_PRODUCER, self._close_command())
                except ProtocolError:
                    if self._connection.error is None:
                        raise
                    # Closed with the connection: that is what was asked for.
        self._connection.forget(self._producer_id)

    def _close_command(self) -> Any:
        return commands.CommandCloseProducer(producer_id=self._producer_id, request_id=0)

    # ProducerSink

    def receipts(self, receipts: Sequence[Any]) -> None:
        waiting = self._waiting
        streamed, last_streamed = 0, -1
        for receipt in receipts:
            sequence_id = receipt.sequence_id
            if not waiting or sequence_id < waiting[0][0]:
                # The broker says again what it has said before.
                continue
            expected, on_receipt = waiting[0]
            if sequence_id != expected:
                self._tell(streamed, last_streamed)
                raise ProtocolError(f"a receipt for {sequence_id} came while {expected} was awaited")
            waiting.popleft()
            if on_receipt is None:
                streamed += 1
                last_streamed = sequence_id
            else:
                message_id = receipt.message_id
                on_receipt(sequence_id, Position(_signed(message_id.ledgerId), _signed(message_id.entryId)), None)
        self._tell(streamed, last_streamed)
        if not waiting:
            self._drained.set()

    def _tell(self, streamed: int, last_streamed: int) -> None:
        if streamed and self.stream is not None:
            self.stream.confirmed(last_streamed, streamed)

    def send_error(self, sequence_id: int, error: BrokerError) -> None:
        for index, (waiting_id, on_receipt) in enumerate(self._waiting):
            if waiting_id == sequence_id:
                del self._waiting[index]
                if on_receipt is not None:
                    on_receipt(sequence_id, EARLIEST, error)
                elif self.stream is not None:
                    self.stream.refused(sequence_id, error)
                break
        if not self._waiting:
            self._drained.set()

    def closed(self, error: GatewayError) -> None:
        self._end(error)

    def _end(self, error: GatewayError, *, told: bool = True) -> None:
        if self._error is not None:
            return
        self._error = error
        if told and self.stream is not None:
            self.stream.closed(error)
        waiting, self._waiting = self._waiting, deque()
        for sequence_id, on_receipt in waiting:
            if on_receipt is not None:
                on_receipt(sequence_id, EARLIEST, error)
        self._drained.set()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
