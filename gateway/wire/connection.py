"""The conversation of one connection, without a socket: bytes in, commands out, bytes to send.

Both roles are this class: the broker's and the client's side differ in what they may receive when (`_MAY_RECEIVE`).
It answers PING, counts silence, verifies every entry's checksum, and turns whatever a peer can send wrong into
ProtocolError, after which it is closed. It knows nothing of topics. Source: Pulsar's "Binary protocol" page; the
states are those of the handshake section.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

from google.protobuf.message import DecodeError, EncodeError

from gateway.errors import ProtocolError
from gateway.limits import (
    ENTRY_EXTENSION_MAX,
    ENTRY_SIZE_MAX,
    HANDSHAKE_TIMEOUT_NS,
    KEEP_ALIVE_INTERVAL_NS,
    MESSAGE_SIZE_MAX,
    PROTOCOL_VERSION,
)
from gateway.wire.commands import (
    FIELD_OF_TYPE,
    BaseCommand,
    CommandConnect,
    CommandConnected,
    CommandType,
)
from gateway.wire.frames import FrameSplitter, frame_command, frame_payload_command, make_entry

SERVER_NAME = "Headwater"
"""How a gateway's server_version begins."""
UNSIGNED = 2**64 - 1
"""Mask that turns -1 into what the wire carries for it."""

Event = tuple[int, Any, bytes | None]
"""Command type, the command itself (CommandSend, …), and the entry behind it. The entry is None where there is none,
and behind a SEND or MESSAGE whose checksum is wrong."""


class Role(Enum):
    """Which side of the conversation this is."""

    broker = "broker"
    client = "client"


class State(StrEnum):
    """How far the conversation has come."""

    handshake = "handshake"
    """Broker: CONNECT is awaited. Client: CONNECT is to be sent, then CONNECTED is awaited."""
    open = "open"
    closed = "closed"


_ALIVE = {CommandType.PING, CommandType.PONG}
_REQUESTS = {
    CommandType.SUBSCRIBE,
    CommandType.PRODUCER,
    CommandType.SEND,
    CommandType.ACK,
    CommandType.FLOW,
    CommandType.UNSUBSCRIBE,
    CommandType.CLOSE_PRODUCER,
    CommandType.CLOSE_CONSUMER,
    CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES,
    CommandType.PARTITIONED_METADATA,
    CommandType.LOOKUP,
    CommandType.CONSUMER_STATS,
    CommandType.SEEK,
    CommandType.GET_LAST_MESSAGE_ID,
    CommandType.GET_TOPICS_OF_NAMESPACE,
    CommandType.GET_SCHEMA,
    CommandType.GET_OR_CREATE_SCHEMA,
    CommandType.AUTH_RESPONSE,
    CommandType.NEW_TXN,
    CommandType.TC_CLIENT_CONNECT_REQUEST,
}
_ANSWERS = {
    CommandType.SEND_RECEIPT,
    CommandType.SEND_ERROR,
    CommandType.MESSAGE,
    CommandType.SUCCESS,
    CommandType.ERROR,
    CommandType.CLOSE_PRODUCER,
    CommandType.CLOSE_CONSUMER,
    CommandType.PRODUCER_SUCCESS,
    CommandType.PARTITIONED_METADATA_RESPONSE,
    CommandType.LOOKUP_RESPONSE,
    CommandType.CONSUMER_STATS_RESPONSE,
    CommandType.REACHED_END_OF_TOPIC,
    CommandType.GET_LAST_MESSAGE_ID_RESPONSE,
    CommandType.ACTIVE_CONSUMER_CHANGE,
    CommandType.GET_TOPICS_OF_NAMESPACE_RESPONSE,
    CommandType.GET_SCHEMA_RESPONSE,
    CommandType.AUTH_CHALLENGE,
    CommandType.ACK_RESPONSE,
    CommandType.GET_OR_CREATE_SCHEMA_RESPONSE,
}
_MAY_RECEIVE: dict[tuple[Role, State], frozenset[int]] = {
    (Role.broker, State.handshake): frozenset({CommandType.CONNECT}),
    (Role.broker, State.open): frozenset(_REQUESTS | _ALIVE),
    (Role.broker, State.closed): frozenset(),
    (Role.client, State.handshake): frozenset({CommandType.CONNECTED, CommandType.ERROR}),
    (Role.client, State.open): frozenset(_ANSWERS | _ALIVE),
    (Role.client, State.closed): frozenset(),
}
"""What each role may receive in each state; anything else closes the connection."""

_SEND = int(CommandType.SEND)
_MESSAGE = int(CommandType.MESSAGE)
_PING = int(CommandType.PING)
_PONG = int(CommandType.PONG)
_PING_FRAME = frame_command(BaseCommand(type=CommandType.PING, ping={}).SerializeToString())
_PONG_FRAME = frame_command(BaseCommand(type=CommandType.PONG, pong={}).SerializeToString())


class Connection:
    """One side of a connection. `now_ns` is monotonic everywhere."""

    def __init__(self, role: Role, *, now_ns: int, message_size_max: int = MESSAGE_SIZE_MAX) -> None:
        self.role = role
        self.state = State.handshake
        self.protocol_version = 0
        """What both sides speak, known once open."""
        self.message_size_max = message_size_max
        """Bytes of a message that clients may send; the client's side learns it from CONNECTED."""
        self.entry_size_max = ENTRY_SIZE_MAX
        """Bytes of an entry that the broker's side can store."""
        self.close_reason = ""
        self._splitter = FrameSplitter()
        self._out: list[bytes] = []
        self._allowed = _MAY_RECEIVE[role, self.state]
        self._last_received_ns = now_ns
        self._opened_ns = now_ns
        self._ping_sent_ns: int | None = None
        # Kept for encoding, with integers overwritten: a fresh command costs three times as much.
        self._receipt = BaseCommand(type=CommandType.SEND_RECEIPT)
        self._receipt.send_receipt.message_id.ledgerId = 0
        self._message = BaseCommand(type=CommandType.MESSAGE)
        self._message.message.message_id.ledgerId = 0
        self._send = BaseCommand(type=CommandType.SEND)
        self._send.send.producer_id = 0

    # Bytes in

    def receive_data(self, data: bytes, now_ns: int) -> list[Event]:
        """Take bytes from the peer and return the commands that they complete. Raises: ProtocolError."""
        if self.state is State.closed:
            return []
        self._last_received_ns = now_ns
        self._ping_sent_ns = None
        events: list[Event] = []
        try:
            buffer, frames = self._splitter.feed(data)
            parse = BaseCommand.FromString
            allowed = self._allowed
            for command_start, command_end, frame_end in frames:
                command = parse(buffer[command_start:command_end])
                kind = command.type
                if kind not in allowed:
                    raise ProtocolError(f"the peer sent {_name_of(kind)} in state {self.state}")
                # The required fields of these two go unchecked, which would cost half a microsecond: they are numbers,
                # and what is missing reads as 0.
                if kind == _SEND:
                    if command_end == frame_end or not command.HasField("send"):
                        raise ProtocolError("SEND is empty, or without a payload")
                    events.append((kind, command.send, make_entry(buffer[command_end:frame_end])))
                elif kind == _MESSAGE:
                    if command_end == frame_end or not command.HasField("message"):
                        raise ProtocolError("MESSAGE is empty, or without a payload")
                    events.append((kind, command.message, make_entry(buffer[command_end:frame_end])))
                else:
                    self._received(kind, command, events)
                    allowed = self._allowed
        except DecodeError as error:
            self.fail("the peer sent a command that is unreadable")
            raise ProtocolError(self.close_reason) from error
        except ProtocolError as error:
            self.fail(str(error))
            raise
        return events

    def _received(self, kind: int, command: Any, events: list[Event]) -> None:
        field = FIELD_OF_TYPE[kind]
        if kind == _PING:
            self._out.append(_PONG_FRAME)
        elif kind == _PONG:
            pass
        elif not command.HasField(field):
            raise ProtocolError(f"{_name_of(kind)} is empty")
        elif not command.IsInitialized():
            raise ProtocolError(f"{_name_of(kind)} lacks a required field")
        else:
            body = getattr(command, field)
            if kind == CommandType.CONNECT:
                self.protocol_version = min(body.protocol_version, PROTOCOL_VERSION)
            elif kind == CommandType.CONNECTED:
                self.protocol_version = min(body.protocol_version, PROTOCOL_VERSION)
                self.message_size_max = body.max_message_size if body.max_message_size > 0 else MESSAGE_SIZE_MAX
                # A gateway announces less than it takes, so that what comes from another gateway, extended on the
                # way, fits.
                ours = body.server_version.startswith(SERVER_NAME)
                self.entry_size_max = self.message_size_max + (ENTRY_EXTENSION_MAX if ours else 0) - 1
                self._open()
            events.append((kind, body, None))
            if kind == CommandType.CONNECT:
                # A client may go on without waiting for CONNECTED, in the same bytes even; what it may not is to say
                # CONNECT again.
                self._allowed = _MAY_RECEIVE[self.role, State.open]

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._splitter.held_bytes

    # Time

    def next_deadline_ns(self) -> int:
        """When `tick` has something to do, at the latest."""
        if self.state is State.handshake:
            return self._opened_ns + HANDSHAKE_TIMEOUT_NS
        if self._ping_sent_ns is not None:
            return self._ping_sent_ns + KEEP_ALIVE_INTERVAL_NS
        return self._last_received_ns + KEEP_ALIVE_INTERVAL_NS

    def tick(self, now_ns: int) -> None:
        """Send PING into silence.

        Raises: ProtocolError when the peer left it unanswered, or never introduced itself.
        """
        if self.state is State.closed or now_ns < self.next_deadline_ns():
            return
        if self.state is State.handshake:
            self.fail("the peer did not introduce itself in time")
        elif self._ping_sent_ns is not None:
            self.fail("the peer does not answer")
        else:
            self.ping(now_ns)
            return
        raise ProtocolError(self.close_reason)

    def ping(self, now_ns: int) -> None:
        """Ask the peer for a sign of life."""
        self._ping_sent_ns = now_ns
        self._out.append(_PING_FRAME)

    # Bytes out

    def connect(
        self, *, client_version: str, auth_method: str = "none", auth_data: bytes = b"", proxy_to: str = ""
    ) -> None:
        """Client: introduce this side."""
        assert self.role is Role.client
        assert self.state is State.handshake
        command = CommandConnect(
            client_version=client_version,
            auth_method_name=auth_method,
            auth_data=auth_data,
            protocol_version=PROTOCOL_VERSION,
        )
        if proxy_to:
            command.proxy_to_broker_url = proxy_to
        self.send(CommandType.CONNECT, command)

    def connected(self, *, server_version: str) -> None:
        """Broker: accept the peer's introduction."""
        assert self.role is Role.broker
        assert self.state is State.handshake
        command = CommandConnected(
            server_version=server_version,
            protocol_version=self.protocol_version,
            max_message_size=self.message_size_max,
        )
        self.send(CommandType.CONNECTED, command)
        self._open()

    def send(self, kind: CommandType, body: Any) -> None:
        """Send a simple command."""
        try:
            command = BaseCommand(type=kind, **{FIELD_OF_TYPE[kind]: body}).SerializeToString()
        except EncodeError as error:
            raise ProtocolError(f"{kind.name} lacks a required field", local=True) from error
        self._out.append(frame_command(command))

    def send_receipt(
        self,
        producer_id: int,
        sequence_id: int,
        highest_sequence_id: int | None,
        ledger_id: int,
        entry_id: int,
        partition: int = -1,
    ) -> None:
        """Broker: tell a producer that its entry is durable (-1, -1: it was already)."""
        receipt = self._receipt.send_receipt
        receipt.producer_id = producer_id
        receipt.sequence_id = sequence_id
        if highest_sequence_id is not None:
            receipt.highest_sequence_id = highest_sequence_id
        elif receipt.HasField("highest_sequence_id"):
            receipt.ClearField("highest_sequence_id")
        message_id = receipt.message_id
        message_id.ledgerId = ledger_id & UNSIGNED
        message_id.entryId = entry_id & UNSIGNED
        if message_id.partition != partition:
            message_id.partition = partition
        self._out.append(frame_command(self._receipt.SerializeToString()))

    def send_message(
        self,
        consumer_id: int,
        ledger_id: int,
        entry_id: int,
        partition: int,
        redelivery_count: int,
        ack_set: tuple[int, ...],
        consumer_epoch: int | None,
        entry: bytes,
    ) -> None:
        """Broker: deliver an entry."""
        if ack_set or consumer_epoch is not None:
            # Rare, and lists and presence can't be overwritten without a trace.
            command = BaseCommand(type=CommandType.MESSAGE)
            message = command.message
            message.ack_set.extend(ack_set)
            if consumer_epoch is not None:
                message.consumer_epoch = consumer_epoch
        else:
            command = self._message
            message = command.message
        message.consumer_id = consumer_id
        message.redelivery_count = redelivery_count
        message_id = message.message_id
        message_id.ledgerId = ledger_id
        message_id.entryId = entry_id
        if message_id.partition != partition:
            message_id.partition = partition
        self._out.append(frame_payload_command(command.SerializeToString(), entry))
        self._out.append(entry)

    def send_entry(self, producer_id: int, sequence_id: int, entry: bytes, messages: int = 1) -> None:
        """Client: publish an entry. Raises: ProtocolError (local) where it is larger than the broker takes."""
        if len(entry) > self.entry_size_max:
            raise ProtocolError(f"an entry of {len(entry)} bytes; the broker takes {self.entry_size_max}", local=True)
        send = self._send.send
        send.producer_id = producer_id
        send.sequence_id = sequence_id
        if send.num_messages != messages:
            send.num_messages = messages
        self._out.append(frame_payload_command(self._send.SerializeToString(), entry))
        self._out.append(entry)

    def data_to_send(self) -> list[bytes]:
        """Bytes for the socket, in order; each is handed out once."""
        out, self._out = self._out, []
        return out

    def fail(self, reason: str) -> None:
        """Close the conversation: nothing more is received."""
        if self.state is not State.closed:
            self.state = State.closed
            self.close_reason = reason
            self._allowed = frozenset()

    def _open(self) -> None:
        self.state = State.open
        self._allowed = _MAY_RECEIVE[self.role, State.open]


def _name_of(kind: int) -> str:
    try:
        return CommandType(kind).name
    except ValueError:
        return f"the unknown command {kind}"
