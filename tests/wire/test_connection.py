"""The conversation of a connection, both sides of it, without a socket and without a clock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.limits import (
    ENTRY_EXTENSION_MAX,
    ENTRY_SIZE_MAX,
    HANDSHAKE_TIMEOUT_NS,
    KEEP_ALIVE_INTERVAL_NS,
    MESSAGE_SIZE_MAX,
    PROTOCOL_VERSION,
)
from gateway.wire import commands
from gateway.wire.commands import FIELD_OF_TYPE, BaseCommand, CommandType
from gateway.wire.connection import SERVER_NAME, Connection, Event, Role, State
from gateway.wire.entry import build_entry
from gateway.wire.frames import frame_command, frame_payload_command
from gateway.wire.metadata import MessageMetadata

METADATA = MessageMetadata(producer_name="p", sequence_id=1, publish_time=2).SerializeToString()
ENTRY = build_entry(METADATA, b"payload")


def transfer(sender: Connection, receiver: Connection, now_ns: int = 0) -> list[Event]:
    """What the receiver makes of everything the sender has to say."""
    return receiver.receive_data(b"".join(sender.data_to_send()), now_ns)


def pair(server_version: str = f"{SERVER_NAME} 1") -> tuple[Connection, Connection]:
    """A broker's and a client's side that have introduced themselves."""
    broker, client = Connection(Role.broker, now_ns=0), Connection(Role.client, now_ns=0)
    client.connect(client_version="test")
    transfer(client, broker)
    broker.connected(server_version=server_version)
    transfer(broker, client)
    return broker, client


def frame(kind: int, **body: Any) -> bytes:
    return frame_command(BaseCommand(type=kind, **body).SerializeToString())


def seen(events: list[Event]) -> list[tuple[int, bytes, bytes | None]]:
    return [(kind, command.SerializeToString(), entry) for kind, command, entry in events]


# States


def test_sides_introduce_themselves() -> None:
    """CONNECT and CONNECTED: then both are open and speak the older version."""
    broker, client = Connection(Role.broker, now_ns=0), Connection(Role.client, now_ns=0)
    client.connect(client_version="c", auth_method="token", auth_data=b"secret", proxy_to="pulsar://there:6650")
    ((kind, connect, _),) = transfer(client, broker)
    assert (kind, connect.auth_method_name, connect.auth_data) == (CommandType.CONNECT, "token", b"secret")
    assert connect.proxy_to_broker_url == "pulsar://there:6650"
    assert broker.state is State.handshake
    broker.connected(server_version="b")
    ((kind, connected, _),) = transfer(broker, client)
    assert (kind, connected.server_version, connected.max_message_size) == (
        CommandType.CONNECTED,
        "b",
        MESSAGE_SIZE_MAX,
    )
    assert (broker.state, client.state) == (State.open, State.open)
    assert broker.protocol_version == client.protocol_version == PROTOCOL_VERSION


@pytest.mark.parametrize(("theirs", "agreed"), [(0, 0), (6, 6), (PROTOCOL_VERSION + 5, PROTOCOL_VERSION)])
def test_broker_speaks_the_older_version(theirs: int, agreed: int) -> None:
    """An old client is not spoken to in commands that it does not know; a new one is not promised any."""
    broker = Connection(Role.broker, now_ns=0)
    broker.receive_data(frame(CommandType.CONNECT, connect={"client_version": "c", "protocol_version": theirs}), 0)
    broker.connected(server_version="b")
    client = Connection(Role.client, now_ns=0)
    ((_, connected, _),) = transfer(broker, client)
    assert connected.protocol_version == agreed == client.protocol_version


@pytest.mark.parametrize("announced", [0, -5])
def test_client_has_a_size_where_the_broker_announces_none(announced: int) -> None:
    """Brokers before version 2.4 do not say how much they take."""
    client = Connection(Role.client, now_ns=0)
    body = {"server_version": "old", "max_message_size": announced}
    client.receive_data(frame(CommandType.CONNECTED, connected=body), 0)
    assert client.message_size_max == MESSAGE_SIZE_MAX


@pytest.mark.parametrize(("server", "more"), [(SERVER_NAME, ENTRY_EXTENSION_MAX), ("Pulsar Server", 0)])
def test_client_knows_what_a_gateway_takes_beyond_its_announcement(server: str, more: int) -> None:
    """What another gateway extended on the way fits; an Apache Pulsar is not sent a byte too many."""
    _, client = pair(server)
    assert client.entry_size_max == MESSAGE_SIZE_MAX + more - 1 < ENTRY_SIZE_MAX
    client.send_entry(0, 0, bytes(client.entry_size_max))
    with pytest.raises(ProtocolError) as caught:
        client.send_entry(0, 0, bytes(client.entry_size_max + 1))
    assert caught.value.local
    assert client.state is State.open


@pytest.mark.parametrize("kind", [kind for kind in CommandType if kind is not CommandType.CONNECT])
def test_broker_hears_nothing_before_connect(kind: CommandType) -> None:
    """Not even PING: who has not introduced itself is nobody."""
    broker = Connection(Role.broker, now_ns=0)
    with pytest.raises(ProtocolError):
        broker.receive_data(frame(kind), 0)
    assert broker.state is State.closed
    assert broker.data_to_send() == []


@pytest.mark.parametrize("kind", [CommandType.CONNECT, CommandType.CONNECTED, CommandType.SEND_RECEIPT, 1_000, 999_999])
def test_broker_refuses_what_no_client_says(kind: int) -> None:
    """A second introduction, a broker's words, and commands that nobody knows."""
    broker, _ = pair()
    with pytest.raises(ProtocolError):
        broker.receive_data(frame(kind), 0)
    assert broker.state is State.closed
    assert broker.close_reason


MAY_RECEIVE = {
    (Role.broker, State.handshake): "CONNECT",
    (Role.client, State.handshake): "CONNECTED ERROR",
    (Role.broker, State.open): """
        SUBSCRIBE PRODUCER SEND ACK FLOW UNSUBSCRIBE CLOSE_PRODUCER CLOSE_CONSUMER REDELIVER_UNACKNOWLEDGED_MESSAGES
        PARTITIONED_METADATA LOOKUP CONSUMER_STATS SEEK GET_LAST_MESSAGE_ID GET_TOPICS_OF_NAMESPACE GET_SCHEMA
        GET_OR_CREATE_SCHEMA AUTH_RESPONSE NEW_TXN TC_CLIENT_CONNECT_REQUEST PING PONG
    """,
    (Role.client, State.open): """
        SEND_RECEIPT SEND_ERROR MESSAGE SUCCESS ERROR CLOSE_PRODUCER CLOSE_CONSUMER PRODUCER_SUCCESS
        PARTITIONED_METADATA_RESPONSE LOOKUP_RESPONSE CONSUMER_STATS_RESPONSE REACHED_END_OF_TOPIC
        GET_LAST_MESSAGE_ID_RESPONSE ACTIVE_CONSUMER_CHANGE GET_TOPICS_OF_NAMESPACE_RESPONSE GET_SCHEMA_RESPONSE
        AUTH_CHALLENGE ACK_RESPONSE GET_OR_CREATE_SCHEMA_RESPONSE PING PONG
    """,
}


def fill(message: Any) -> None:
    """Set every required field, however deep."""
    for missing in message.FindInitializationErrors():
        *path, name = missing.split(".")
        holder = message
        for part in path:
            holder = getattr(holder, part)
        field = holder.DESCRIPTOR.fields_by_name[name]
        if field.message_type is None:
            setattr(holder, name, {field.TYPE_STRING: "text", field.TYPE_BYTES: b"bytes"}.get(field.type, 1))
        else:
            getattr(holder, name).SetInParent()
            fill(getattr(holder, name))


def whole(kind: CommandType) -> bytes:
    """A command with everything that it requires, in its frame."""
    command = BaseCommand(type=kind)
    body = getattr(command, FIELD_OF_TYPE[kind])
    body.SetInParent()
    fill(body)
    encoded = command.SerializeToString()
    if kind in (CommandType.SEND, CommandType.MESSAGE):
        return frame_payload_command(encoded, ENTRY) + ENTRY
    return frame_command(encoded)


@pytest.mark.parametrize(("role", "state"), MAY_RECEIVE)
@pytest.mark.parametrize("kind", list(CommandType), ids=lambda kind: kind.name)
def test_each_side_hears_what_the_table_says_and_nothing_else(role: Role, state: State, kind: CommandType) -> None:
    """Every command to both sides in both states: handed out, answered, or the end of the connection, by its name."""
    connection = Connection(role, now_ns=0) if state is State.handshake else pair()[role is Role.client]
    assert (connection.role, connection.state) == (role, state)
    if kind.name in MAY_RECEIVE[role, state].split():
        heard = [event[0] for event in connection.receive_data(whole(kind), 1)]
        assert heard == ([] if kind in (CommandType.PING, CommandType.PONG) else [kind])
        assert not connection.close_reason
    else:
        with pytest.raises(ProtocolError, match=f"{kind.name} .*{state}"):
            connection.receive_data(whole(kind), 1)
        assert connection.state is State.closed


def test_command_without_a_required_field_is_refused() -> None:
    """A request without its id could be answered to nobody; one inside a list counts as well."""
    lookup = BaseCommand(type=CommandType.LOOKUP, lookupTopic={"topic": "t"})
    ack = BaseCommand(type=CommandType.ACK, ack={"consumer_id": 1, "ack_type": 0, "message_id": [{"ledgerId": 1}]})
    for command in (lookup, ack):
        broker, _ = pair()
        with pytest.raises(ProtocolError, match="lacks a required field"):
            broker.receive_data(frame_command(command.SerializePartialToString()), 0)


def test_client_may_go_on_before_it_is_answered() -> None:
    """Commands in the same bytes as CONNECT are heard; a second CONNECT there is not."""
    connect = frame(CommandType.CONNECT, connect={"client_version": "c"})
    lookup = frame(CommandType.LOOKUP, lookupTopic={"topic": "t", "request_id": 1})
    kinds = [kind for kind, _, _ in Connection(Role.broker, now_ns=0).receive_data(connect + lookup, 0)]
    assert kinds == [CommandType.CONNECT, CommandType.LOOKUP]
    with pytest.raises(ProtocolError):
        Connection(Role.broker, now_ns=0).receive_data(connect + connect, 0)


@pytest.mark.parametrize("kind", [CommandType.SUBSCRIBE, CommandType.SEND, CommandType.CONNECT, 1_000])
def test_client_refuses_what_no_broker_says(kind: int) -> None:
    """Both sides have a table of what they may hear."""
    _, client = pair()
    with pytest.raises(ProtocolError):
        client.receive_data(frame(kind), 0)
    assert client.state is State.closed


def test_closed_connection_hears_nothing() -> None:
    """What arrives behind a mistake is dropped, and the first reason stays."""
    broker, client = pair()
    with pytest.raises(ProtocolError):
        broker.receive_data(frame(1_000), 0)
    reason = broker.close_reason
    client.send_entry(0, 0, ENTRY)
    assert transfer(client, broker) == []
    broker.fail("something else")
    assert broker.close_reason == reason
    broker.tick(10**18)
    assert broker.data_to_send() == []


@pytest.mark.parametrize("kind", [CommandType.SEND, CommandType.PRODUCER, CommandType.LOOKUP])
def test_command_without_its_body_is_refused(kind: CommandType) -> None:
    """A type that announces a body which is not there."""
    broker, _ = pair()
    command = BaseCommand(type=kind).SerializeToString()
    with pytest.raises(ProtocolError):
        broker.receive_data(frame_payload_command(command, ENTRY) + ENTRY, 0)


def test_send_without_a_payload_is_refused() -> None:
    """There is nothing to store."""
    broker, _ = pair()
    with pytest.raises(ProtocolError):
        broker.receive_data(frame(CommandType.SEND, send={"producer_id": 0, "sequence_id": 0}), 0)


def test_text_that_is_not_utf8_is_refused_in_a_command() -> None:
    """A topic's name is looked up and written down; a broken one can be neither."""
    broker, _ = pair()
    command = BaseCommand(type=CommandType.LOOKUP, lookupTopic={"topic": "abc", "request_id": 1}).SerializeToString()
    with pytest.raises(ProtocolError):
        broker.receive_data(frame_command(command.replace(b"abc", b"a\xffc")), 0)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_protocol_error(data: bytes) -> None:
    """From the first byte on, and inside a frame that is well formed."""
    for stream in (
        data,
        frame_command(data),
        frame_command(b"\x08\x06" + data),
        frame_payload_command(b"", data) + data,
    ):
        for connection in (Connection(Role.broker, now_ns=0), *pair()):
            try:
                connection.receive_data(stream, 0)
            except ProtocolError:
                assert connection.state is State.closed


# Events


@given(st.lists(st.integers(0, 500), max_size=20))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    """Simple commands, entries and keep-alive between them."""
    broker, client = pair()
    client.send(CommandType.LOOKUP, commands.CommandLookupTopic(topic="t", request_id=1))
    client.send_entry(3, 4, ENTRY, messages=5)
    client.ping(0)
    client.send(CommandType.FLOW, commands.CommandFlow(consumer_id=1, messagePermits=1_000))
    client.send_entry(3, 5, ENTRY)
    stream = b"".join(client.data_to_send())
    events = []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        events += broker.receive_data(stream[start:end], 0)
    expected, _ = pair()
    assert seen(events) == seen(expected.receive_data(stream, 0))
    assert [kind for kind, _, _ in events] == [CommandType.LOOKUP, CommandType.SEND, CommandType.FLOW, CommandType.SEND]


def test_damaged_entry_is_told_from_none() -> None:
    """Its SEND is heard, so that it can be refused, and the connection goes on."""
    broker, client = pair()
    client.send_entry(1, 2, ENTRY[:-1] + b"D")
    client.send_entry(1, 3, ENTRY)
    first, second = transfer(client, broker)
    assert (first[1].sequence_id, first[2]) == (2, None)
    assert (second[1].sequence_id, second[2]) == (3, ENTRY)


def test_client_is_given_entries_without_what_the_broker_put_in_front() -> None:
    """MESSAGE of a broker that writes 0x0e02 blocks, and of one that writes no checksum."""
    _, client = pair()
    message = {"consumer_id": 1, "message_id": {"ledgerId": 2, "entryId": 3}}
    command = BaseCommand(type=CommandType.MESSAGE, message=message).SerializeToString()
    for block in (b"\x0e\x02\x00\x00\x00\x01b" + ENTRY, ENTRY[6:]):
        ((kind, body, entry),) = client.receive_data(frame_payload_command(command, block) + block, 0)
        assert (kind, body.message_id.entryId, entry) == (CommandType.MESSAGE, 3, ENTRY)


receipts = st.tuples(
    st.integers(0, 2**63 - 1), st.none() | st.integers(0, 2**63 - 1), st.integers(-1, 9), st.integers(-1, 2**40)
)


@given(st.lists(receipts, max_size=5), st.integers(-1, 3))
def test_receipts_carry_nothing_of_earlier_ones(sent: list[tuple[int, int | None, int, int]], partition: int) -> None:
    """One kept message encodes them all: what one has and the next has not must not stay in it."""
    broker, client = pair()
    for sequence_id, highest, ledger_id, entry_id in sent:
        broker.send_receipt(7, sequence_id, highest, ledger_id, entry_id, partition)
    got = []
    for _, receipt, _ in transfer(broker, client):
        highest = receipt.highest_sequence_id if receipt.HasField("highest_sequence_id") else None
        message_id = receipt.message_id
        signed = [number - 2**64 if number >= 2**63 else number for number in (message_id.ledgerId, message_id.entryId)]
        got.append((receipt.sequence_id, highest, *signed))
        assert (receipt.producer_id, message_id.partition) == (7, partition)
    assert got == sent


deliveries = st.tuples(
    st.integers(0, 9),
    st.integers(-1, 3),
    st.integers(0, 5),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2).map(tuple),
    st.none() | st.integers(0, 5),
)


@given(st.lists(deliveries, max_size=5))
def test_deliveries_carry_nothing_of_earlier_ones(
    sent: list[tuple[int, int, int, tuple[int, ...], int | None]],
) -> None:
    """Partitions, redelivery counts, parts of batches and epochs belong to one MESSAGE each."""
    broker, client = pair()
    for entry_id, partition, count, ack_set, epoch in sent:
        broker.send_message(4, 1, entry_id, partition, count, ack_set, epoch, ENTRY)
    got = [
        (
            message.message_id.entryId,
            message.message_id.partition,
            message.redelivery_count,
            tuple(message.ack_set),
            message.consumer_epoch if message.HasField("consumer_epoch") else None,
        )
        for _, message, _ in transfer(broker, client)
    ]
    assert got == sent


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(1, 1_000)), max_size=5))
def test_sends_carry_nothing_of_earlier_ones(sent: list[tuple[int, int]]) -> None:
    """The number of messages among them."""
    broker, client = pair()
    for sequence_id, messages in sent:
        client.send_entry(2, sequence_id, ENTRY, messages)
    assert [(send.sequence_id, send.num_messages) for _, send, _ in transfer(client, broker)] == sent


def test_bytes_are_handed_out_once() -> None:
    """The writer owns them from then on."""
    broker, _ = pair()
    broker.ping(0)
    assert broker.data_to_send()
    assert broker.data_to_send() == []


def test_command_without_a_required_field_is_our_mistake() -> None:
    """It never leaves, and the connection goes on."""
    _, client = pair()
    with pytest.raises(ProtocolError) as caught:
        client.send(CommandType.LOOKUP, commands.CommandLookupTopic(topic="t"))
    assert caught.value.local
    assert client.data_to_send() == []
    assert client.state is State.open


# Time


def test_ping_is_answered_and_pong_is_kept() -> None:
    """Neither is an event."""
    broker, client = pair()
    client.ping(0)
    assert transfer(client, broker) == []
    assert transfer(broker, client) == []
    assert client.data_to_send() == []


def test_stranger_is_closed_after_a_while() -> None:
    """Whatever it sends, as long as it is no CONNECT."""
    broker = Connection(Role.broker, now_ns=5)
    broker.receive_data(b"\0\0\0\x10", 5 + HANDSHAKE_TIMEOUT_NS // 2)
    broker.tick(5 + HANDSHAKE_TIMEOUT_NS - 1)
    assert not broker.close_reason
    assert broker.next_deadline_ns() == 5 + HANDSHAKE_TIMEOUT_NS
    with pytest.raises(ProtocolError):
        broker.tick(5 + HANDSHAKE_TIMEOUT_NS)
    assert broker.state is State.closed


def test_silence_is_asked_once_and_then_ended() -> None:
    """PING after an interval, the end after another."""
    broker, client = pair()
    broker.tick(KEEP_ALIVE_INTERVAL_NS - 1)
    assert broker.data_to_send() == []
    broker.tick(KEEP_ALIVE_INTERVAL_NS)
    assert len(broker.data_to_send()) == 1
    assert broker.next_deadline_ns() == 2 * KEEP_ALIVE_INTERVAL_NS
    broker.tick(2 * KEEP_ALIVE_INTERVAL_NS - 1)
    assert broker.data_to_send() == []
    with pytest.raises(ProtocolError):
        broker.tick(2 * KEEP_ALIVE_INTERVAL_NS)
    assert client.state is State.open


def test_any_byte_is_a_sign_of_life() -> None:
    """A large entry over a slow link takes longer than the interval; its beginning counts."""
    broker, client = pair()
    broker.tick(KEEP_ALIVE_INTERVAL_NS)
    client.send_entry(0, 0, ENTRY)
    stream = b"".join(client.data_to_send())
    now_ns = 2 * KEEP_ALIVE_INTERVAL_NS - 1
    assert broker.receive_data(stream[:1], now_ns) == []
    broker.tick(2 * KEEP_ALIVE_INTERVAL_NS)
    assert broker.state is State.open
    assert broker.next_deadline_ns() == now_ns + KEEP_ALIVE_INTERVAL_NS
