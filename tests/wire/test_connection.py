"""The conversation without a socket: both roles, every state, time, and what a peer can do wrong."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.limits import (
    ENTRY_EXTENSION_MAX,
    FRAME_SIZE_MAX,
    HANDSHAKE_TIMEOUT_NS,
    KEEP_ALIVE_INTERVAL_NS,
    MESSAGE_SIZE_MAX,
    PROTOCOL_VERSION,
)
from gateway.wire import commands
from gateway.wire.commands import FIELD_OF_TYPE, BaseCommand, CommandType
from gateway.wire.connection import Connection, Event, Role, State
from gateway.wire.entry import build_entry
from gateway.wire.frames import frame_command, frame_payload_command
from gateway.wire.metadata import MessageMetadata

ENTRY = build_entry(
    MessageMetadata(producer_name="p", sequence_id=1, publish_time=2).SerializeToString(), b"the payload"
)
BROKER_RECEIVES = """
    SUBSCRIBE PRODUCER SEND ACK FLOW UNSUBSCRIBE CLOSE_PRODUCER CLOSE_CONSUMER REDELIVER_UNACKNOWLEDGED_MESSAGES
    PARTITIONED_METADATA LOOKUP CONSUMER_STATS SEEK GET_LAST_MESSAGE_ID GET_TOPICS_OF_NAMESPACE GET_SCHEMA
    GET_OR_CREATE_SCHEMA AUTH_RESPONSE NEW_TXN TC_CLIENT_CONNECT_REQUEST PING PONG
""".split()
CLIENT_RECEIVES = """
    SEND_RECEIPT SEND_ERROR MESSAGE SUCCESS ERROR CLOSE_PRODUCER CLOSE_CONSUMER PRODUCER_SUCCESS
    PARTITIONED_METADATA_RESPONSE LOOKUP_RESPONSE CONSUMER_STATS_RESPONSE REACHED_END_OF_TOPIC
    GET_LAST_MESSAGE_ID_RESPONSE ACTIVE_CONSUMER_CHANGE GET_TOPICS_OF_NAMESPACE_RESPONSE GET_SCHEMA_RESPONSE
    AUTH_CHALLENGE ACK_RESPONSE GET_OR_CREATE_SCHEMA_RESPONSE PING PONG
""".split()
TABLE = {
    (Role.broker, State.handshake): {"CONNECT"},
    (Role.broker, State.open): set(BROKER_RECEIVES),
    (Role.client, State.handshake): {"CONNECTED", "ERROR"},
    (Role.client, State.open): set(CLIENT_RECEIVES),
}


def sample(kind: CommandType) -> Any:
    """A command with its required fields filled."""
    command = BaseCommand(type=kind)
    body = getattr(command, FIELD_OF_TYPE[kind])
    body.SetInParent()
    fill(body)
    return command


def fill(message: Any) -> None:
    for missing in message.FindInitializationErrors():
        *path, name = missing.split(".")
        holder = message
        for part in path:
            holder = getattr(holder, part)
        field = holder.DESCRIPTOR.fields_by_name[name]
        if field.message_type is not None:
            getattr(holder, name).SetInParent()
            fill(getattr(holder, name))
        else:
            setattr(holder, name, {9: "text", 12: b"bytes"}.get(field.type, 1))


def framed(kind: CommandType, entry: bytes = ENTRY) -> bytes:
    command = sample(kind).SerializeToString()
    if kind in (CommandType.SEND, CommandType.MESSAGE):
        return frame_payload_command(command, entry) + entry
    return frame_command(command)


def flush(connection: Connection) -> bytes:
    return b"".join(connection.data_to_send())


def pair() -> tuple[Connection, Connection]:
    """A client and a broker that have introduced themselves."""
    client, broker = Connection(Role.client, now_ns=0), Connection(Role.broker, now_ns=0)
    client.connect(client_version="test")
    broker.receive_data(flush(client), 0)
    broker.connected(server_version="Headwater test")
    client.receive_data(flush(broker), 0)
    return client, broker


def opened(role: Role) -> Connection:
    client, broker = pair()
    return client if role is Role.client else broker


# States


@pytest.mark.parametrize(("role", "state"), TABLE)
@pytest.mark.parametrize("kind", list(CommandType), ids=lambda kind: kind.name)
def test_each_role_receives_what_the_table_says(role: Role, state: State, kind: CommandType) -> None:
    """In each state, a command is either handed out (or answered), or closes the connection with its name."""
    connection = Connection(role, now_ns=0) if state is State.handshake else opened(role)
    assert connection.state is state
    if kind.name in TABLE[role, state]:
        events = connection.receive_data(framed(kind), 1)
        alive = kind in (CommandType.PING, CommandType.PONG)
        assert [event[0] for event in events] == ([] if alive else [kind])
        assert not connection.close_reason
    else:
        with pytest.raises(ProtocolError, match=rf"{kind.name} .*{state}"):
            connection.receive_data(framed(kind), 1)
        assert connection.state is State.closed
        assert kind.name in connection.close_reason


def test_closed_connection_receives_nothing() -> None:
    """What still arrives after a violation is dropped in silence, however good it is, and the first reason stays."""
    for connection in pair():
        connection.fail("enough")
        connection.fail("more than enough")
        assert connection.receive_data(framed(CommandType.PING) + b"\xff" * 100, 1) == []
        connection.tick(10**18)
        assert flush(connection) == b""
        assert (connection.state, connection.close_reason) == (State.closed, "enough")


def test_handshake_tells_each_side_about_the_other() -> None:
    """Both end up open, with one protocol version, and the client knows what the broker takes."""
    client = Connection(Role.client, now_ns=0)
    broker = Connection(Role.broker, now_ns=0, message_size_max=1_000_000)
    client.connect(client_version="test 1", auth_method="token", auth_data=b"secret", proxy_to="pulsar://b:1")
    ((kind, connect, entry),) = broker.receive_data(flush(client), 0)
    assert (kind, entry) == (CommandType.CONNECT, None)
    assert (connect.client_version, connect.auth_method_name, connect.auth_data) == ("test 1", "token", b"secret")
    assert (connect.proxy_to_broker_url, connect.protocol_version) == ("pulsar://b:1", PROTOCOL_VERSION)
    broker.connected(server_version="Headwater test")
    ((kind, connected, _),) = client.receive_data(flush(broker), 0)
    assert kind == CommandType.CONNECTED
    assert connected.server_version == "Headwater test"
    assert broker.state is client.state is State.open
    assert broker.protocol_version == client.protocol_version == PROTOCOL_VERSION
    assert client.message_size_max == 1_000_000


@pytest.mark.parametrize(("theirs", "both"), [(6, 6), (PROTOCOL_VERSION, PROTOCOL_VERSION), (99, PROTOCOL_VERSION)])
def test_broker_announces_the_lower_version(theirs: int, both: int) -> None:
    """Never more than the client speaks: it would switch on what it does not have."""
    broker = Connection(Role.broker, now_ns=0)
    command = BaseCommand(type=CommandType.CONNECT, connect={"client_version": "v", "protocol_version": theirs})
    broker.receive_data(frame_command(command.SerializeToString()), 0)
    broker.connected(server_version="v")
    answer = BaseCommand.FromString(flush(broker)[8:]).connected
    assert (answer.protocol_version, broker.protocol_version) == (both, both)


def test_client_learns_how_large_an_entry_may_be() -> None:
    """A bookie refuses the announced size itself; a gateway keeps room for what replication appends."""
    for version, announced, entry_size_max in [
        ("Pulsar Server", 5_000, 4_999),
        ("Headwater 1", 5_000, 4_999 + ENTRY_EXTENSION_MAX),
        ("Pulsar Server", 0, MESSAGE_SIZE_MAX - 1),
        ("Pulsar Server", -7, MESSAGE_SIZE_MAX - 1),
    ]:
        client = Connection(Role.client, now_ns=0)
        connected = {"server_version": version, "max_message_size": announced}
        command = BaseCommand(type=CommandType.CONNECTED, connected=connected)
        client.receive_data(frame_command(command.SerializeToString()), 0)
        assert client.entry_size_max == entry_size_max


def test_client_may_go_on_without_waiting_but_not_connect_twice() -> None:
    """Requests in the same bytes as CONNECT are handed out behind it; a second CONNECT is none."""
    connect = framed(CommandType.CONNECT)
    broker = Connection(Role.broker, now_ns=0)
    events = broker.receive_data(connect + framed(CommandType.LOOKUP), 0)
    assert [event[0] for event in events] == [CommandType.CONNECT, CommandType.LOOKUP]
    for second in (connect + connect, connect + framed(CommandType.PING) + connect):
        with pytest.raises(ProtocolError, match="CONNECT"):
            Connection(Role.broker, now_ns=0).receive_data(second, 0)


# Bytes


def read(connection: Connection, pieces: list[bytes]) -> list[tuple[int, bytes, bytes | None]]:
    events: list[Event] = []
    for piece in pieces:
        events += connection.receive_data(piece, 1)
    return [(kind, body.SerializeToString(), entry) for kind, body, entry in events]


@given(
    st.lists(st.sampled_from([CommandType[name] for name in BROKER_RECEIVES]), max_size=10),
    st.lists(st.integers(0, 1_500), max_size=20),
)
def test_splits_of_the_stream_do_not_matter(kinds: list[CommandType], places: list[int]) -> None:
    """However the network cuts the bytes, the same commands come out in the same order, and the same answers."""
    data = b"".join(map(framed, kinds))
    ends = sorted({place for place in places if place < len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    whole, cut = opened(Role.broker), opened(Role.broker)
    assert read(cut, pieces) == read(whole, [data])
    assert flush(cut) == flush(whole) == b"".join([_PONG] * kinds.count(CommandType.PING))


_PONG = frame_command(BaseCommand(type=CommandType.PONG, pong={}).SerializeToString())


@given(st.sampled_from(Role), st.booleans(), st.binary(max_size=120))
def test_garbage_raises_protocol_error_only(role: Role, framed_garbage: bool, data: bytes) -> None:
    """A peer that speaks something else is an error that says so, or not yet a whole frame."""
    connection = opened(role)
    try:
        connection.receive_data(frame_command(data) if framed_garbage else data, 1)
    except ProtocolError as error:
        assert not error.local
        assert connection.state is State.closed
        assert connection.close_reason == str(error)
    else:
        assert connection.state is State.open


@given(st.sampled_from([CommandType[name] for name in BROKER_RECEIVES]), st.data())
def test_damaged_command_raises_protocol_error_only(kind: CommandType, data: st.DataObject) -> None:
    """A byte changed anywhere in a frame: a command, a refusal, or a wait for more."""
    frame = bytearray(framed(kind))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    connection = opened(Role.broker)
    try:
        events = connection.receive_data(bytes(frame), 1)
    except ProtocolError:
        return
    for _, body, _ in events:
        for field, value in body.ListFields():
            assert isinstance(value, str) or field.type != field.TYPE_STRING


def test_entry_with_wrong_checksum_costs_the_entry_alone() -> None:
    """The command comes without its entry, so that it can be refused; the connection goes on."""
    client, broker = pair()
    ((kind, send, entry),) = broker.receive_data(framed(CommandType.SEND, ENTRY[:-1] + b"!"), 1)
    assert (kind, send.producer_id, entry) == (CommandType.SEND, 1, None)
    ((_, _, good),) = broker.receive_data(framed(CommandType.SEND), 1)
    assert good == ENTRY
    ((_, _, entry),) = client.receive_data(framed(CommandType.MESSAGE, ENTRY[:-1] + b"!"), 1)
    assert entry is None


def test_oversized_frame_closes() -> None:
    """A frame above the bound is refused when its head is there, so that nothing of it is held."""
    broker = opened(Role.broker)
    with pytest.raises(ProtocolError, match=str(FRAME_SIZE_MAX + 1)):
        broker.receive_data(struct.pack(">II", FRAME_SIZE_MAX + 1, 10), 1)
    assert broker.state is State.closed


@pytest.mark.parametrize("kind", [1, 27, 41, 68, 81, 2**31])
def test_unknown_command_closes_and_is_named_by_its_number(kind: int) -> None:
    """What is neither served nor sent is told off by its number, not taken for something else."""
    broker = opened(Role.broker)
    with pytest.raises(ProtocolError, match="REACHED_END" if kind == 27 else str(kind)):
        broker.receive_data(frame_command(BaseCommand(type=kind).SerializePartialToString()), 1)


@pytest.mark.parametrize("name", [name for name in BROKER_RECEIVES if name not in ("PING", "PONG")])
def test_empty_command_closes(name: str) -> None:
    """A type without its command is refused, rather than read as zeros."""
    kind = CommandType[name]
    command = BaseCommand(type=kind).SerializeToString()
    data = frame_payload_command(command, ENTRY) + ENTRY if kind is CommandType.SEND else frame_command(command)
    with pytest.raises(ProtocolError, match=f"{name} is empty"):
        opened(Role.broker).receive_data(data, 1)


def test_command_without_a_required_field_closes() -> None:
    """A request without its id could be answered to nobody."""
    command = BaseCommand(type=CommandType.LOOKUP)
    command.lookupTopic.topic = "t"
    with pytest.raises(ProtocolError, match="LOOKUP lacks"):
        opened(Role.broker).receive_data(frame_command(command.SerializePartialToString()), 1)


def test_text_that_is_not_utf8_closes() -> None:
    """A topic's name is a text to everyone who is handed it."""
    command = sample(CommandType.LOOKUP).SerializeToString().replace(b"text", b"\xff\xfe\xfd\xfc")
    with pytest.raises(ProtocolError, match="unreadable"):
        opened(Role.broker).receive_data(frame_command(command), 1)


def test_send_without_a_payload_closes() -> None:
    """SEND is a payload command."""
    with pytest.raises(ProtocolError, match="without a payload"):
        opened(Role.broker).receive_data(frame_command(sample(CommandType.SEND).SerializeToString()), 1)


# Time


@pytest.mark.parametrize("role", list(Role))
def test_silence_is_broken_by_a_ping_and_ended_by_a_second_silence(role: Role) -> None:
    """One interval without a byte: PING. One more: closed. Nothing happens a nanosecond earlier."""
    connection = opened(role)
    assert connection.next_deadline_ns() == KEEP_ALIVE_INTERVAL_NS
    connection.tick(KEEP_ALIVE_INTERVAL_NS - 1)
    assert flush(connection) == b""
    connection.tick(KEEP_ALIVE_INTERVAL_NS)
    assert BaseCommand.FromString(flush(connection)[8:]).type == CommandType.PING
    assert connection.next_deadline_ns() == 2 * KEEP_ALIVE_INTERVAL_NS
    connection.tick(2 * KEEP_ALIVE_INTERVAL_NS - 1)
    assert connection.state is State.open
    with pytest.raises(ProtocolError, match="does not answer"):
        connection.tick(2 * KEEP_ALIVE_INTERVAL_NS)
    assert connection.state is State.closed


def test_any_byte_is_a_sign_of_life() -> None:
    """A PONG is not asked for: a peer in the middle of a large frame is alive."""
    broker = opened(Role.broker)
    broker.tick(KEEP_ALIVE_INTERVAL_NS)
    broker.receive_data(b"\0", KEEP_ALIVE_INTERVAL_NS + 5)
    assert broker.next_deadline_ns() == 2 * KEEP_ALIVE_INTERVAL_NS + 5
    broker.tick(2 * KEEP_ALIVE_INTERVAL_NS + 4)
    assert broker.state is State.open


@pytest.mark.parametrize("role", list(Role))
def test_peer_that_does_not_introduce_itself_is_left(role: Role) -> None:
    """Bytes alone do not prolong the handshake."""
    connection = Connection(role, now_ns=7)
    connection.receive_data(b"\0", HANDSHAKE_TIMEOUT_NS)
    assert connection.next_deadline_ns() == 7 + HANDSHAKE_TIMEOUT_NS
    connection.tick(6 + HANDSHAKE_TIMEOUT_NS)
    with pytest.raises(ProtocolError, match="introduce"):
        connection.tick(7 + HANDSHAKE_TIMEOUT_NS)


# Bytes out


def test_receipts_say_what_they_are_given_whatever_came_before() -> None:
    """The kept command carries nothing from one receipt into the next."""
    client, broker = pair()
    receipts = [(1, 5, None, 7, 8, -1), (1, 6, 9, 7, 9, 3), (2, 0, None, -1, -1, -1), (1, 7, 7, 7, 10, 0)]
    for receipt in receipts:
        broker.send_receipt(*receipt)
    received = []
    for kind, body, _ in client.receive_data(flush(broker), 1):
        assert kind == CommandType.SEND_RECEIPT
        place = body.message_id
        highest = body.highest_sequence_id if body.HasField("highest_sequence_id") else None
        ids = [number - 2**64 if number >= 2**63 else number for number in (place.ledgerId, place.entryId)]
        received.append((body.producer_id, body.sequence_id, highest, *ids, place.partition))
    assert received == receipts


def test_messages_say_what_they_are_given_whatever_came_before() -> None:
    """Redelivery counts, ack sets and epochs belong to one message alone."""
    client, broker = pair()
    sent: list[tuple[int, int, int, int, int, tuple[int, ...], int | None]] = [
        (1, 7, 8, -1, 0, (), None),
        (1, 7, 9, 2, 3, (-1, 5), None),
        (2, 7, 10, -1, 0, (), 4),
        (1, 7, 11, -1, 0, (), None),
    ]
    for message in sent:
        broker.send_message(*message, ENTRY)
    received = []
    for kind, body, entry in client.receive_data(flush(broker), 1):
        assert (kind, entry) == (CommandType.MESSAGE, ENTRY)
        place = body.message_id
        epoch = body.consumer_epoch if body.HasField("consumer_epoch") else None
        ids = (body.consumer_id, place.ledgerId, place.entryId, place.partition)
        received.append((*ids, body.redelivery_count, tuple(body.ack_set), epoch))
    assert received == sent


def test_entries_are_sent_as_they_are_up_to_the_brokers_bound() -> None:
    """An entry arrives byte by byte; one that is too large is refused here, and the connection goes on."""
    client, broker = pair()
    client.send_entry(1, 5, ENTRY, messages=10)
    client.send_entry(1, 6, ENTRY)
    events = broker.receive_data(flush(client), 1)
    sent = [(body.producer_id, body.sequence_id, body.num_messages, entry) for _, body, entry in events]
    assert sent == [(1, 5, 10, ENTRY), (1, 6, 1, ENTRY)]
    client.entry_size_max = len(ENTRY) - 1
    with pytest.raises(ProtocolError) as refused:
        client.send_entry(1, 7, ENTRY)
    assert refused.value.local
    assert (flush(client), client.state) == (b"", State.open)


def test_incomplete_command_is_never_sent() -> None:
    """A command that lacks what the protocol requires is our mistake, found before it is on its way."""
    client, _ = pair()
    with pytest.raises(ProtocolError, match="LOOKUP") as refused:
        client.send(CommandType.LOOKUP, commands.CommandLookupTopic(topic="t"))
    assert refused.value.local
    assert flush(client) == b""


def test_bytes_are_handed_out_once() -> None:
    """Sending them twice would repeat every command."""
    client, _ = pair()
    client.ping(1)
    assert flush(client)
    assert flush(client) == b""
