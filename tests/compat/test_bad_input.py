"""Garbage on the Pulsar port: whoever sends it loses its own connection, and nobody else notices."""

from __future__ import annotations

import socket
import struct
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.limits import FRAME_SIZE_MAX
from gateway.wire.commands import BaseCommand, CommandConnect, CommandProducer, CommandType
from gateway.wire.entry import build_entry
from gateway.wire.frames import frame_command, frame_payload_command
from gateway.wire.metadata import MessageMetadata
from tests.compat.conftest import JUDGED
from tests.compat.test_official_client import numbers, receive
from tests.support.official import read_all

pytestmark = pytest.mark.timeout(60)

HELLO = frame_command(
    BaseCommand(
        type=CommandType.CONNECT, connect=CommandConnect(client_version="test", protocol_version=19)
    ).SerializeToString()
)


def connect(service_url: str) -> socket.socket:
    parts = urlsplit(service_url)
    assert parts.hostname
    return socket.create_connection((parts.hostname, parts.port or 0), timeout=20)


def is_closed(peer: socket.socket) -> bool:
    """Whether the broker ends the connection, having said what it likes."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


BAD = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "random": bytes(reversed(range(256))) * 10,
    "oversized": struct.pack(">II", FRAME_SIZE_MAX + 1, 10),
    "command longer than its frame": struct.pack(">II", 20, 17) + bytes(20),
    "not a connect": frame_command(
        BaseCommand(
            type=CommandType.PRODUCER, producer=CommandProducer(topic="t", producer_id=1, request_id=1)
        ).SerializeToString()
    ),
    "second connect": HELLO + HELLO,
    "unknown command": HELLO + frame_command(bytes([8, 99])),
    "unreadable command": HELLO + frame_command(b"\xff\xff\xff\xff\xff"),
    "send for nobody": HELLO
    + frame_payload_command(
        BaseCommand(type=CommandType.SEND, send={"producer_id": 5, "sequence_id": 1}).SerializeToString(),
        entry := build_entry(b"", b"x"),
    )
    + entry,
    "a broker's command": HELLO
    + frame_command(BaseCommand(type=CommandType.SUCCESS, success={"request_id": 1}).SerializeToString()),
}


@pytest.mark.parametrize("what", BAD)
def test_broker_closes_the_connection_of_who_sends_garbage(
    service_url: str, client: Any, topic: str, what: str
) -> None:
    """And of nobody else."""
    topic = "public/default/undisturbed"
    consumer = client.subscribe(topic, f"s-{what}")
    producer = client.create_producer(topic)
    with connect(service_url) as peer:
        peer.sendall(BAD[what])
        assert is_closed(peer)
    producer.send(b"7")
    assert numbers(receive(consumer, 1)) == [7]


def test_broker_refuses_a_damaged_entry_and_goes_on(service_url: str, client: Any, topic: str) -> None:
    """A wrong checksum costs that message only."""
    with connect(service_url) as peer:
        create_producer(peer, topic)
        entry = bytearray(build_entry(b"\x0a\x01p\x10\x01\x18\x01", b"payload"))
        entry[-1] ^= 1
        send = BaseCommand(type=CommandType.SEND, send={"producer_id": 1, "sequence_id": 1}).SerializeToString()
        peer.sendall(frame_payload_command(send, bytes(entry)) + entry)
        entry[-1] ^= 1
        send = BaseCommand(type=CommandType.SEND, send={"producer_id": 1, "sequence_id": 2}).SerializeToString()
        peer.sendall(frame_payload_command(send, bytes(entry)) + entry)
        answers = [read_command(peer), read_command(peer)]
    assert [command.type for command in answers] == [CommandType.SEND_ERROR, CommandType.SEND_RECEIPT]
    assert answers[0].send_error.error == 9
    assert answers[1].send_receipt.sequence_id == 2


@pytest.mark.skipif(JUDGED == "pulsar", reason="Apache Pulsar stores entries whatever number of messages they claim")
def test_broker_refuses_a_batch_count_that_nobody_can_open(service_url: str, topic: str) -> None:
    """What an entry claims to hold is charged to consumers and counted by the log: a lie is refused at the door."""
    with connect(service_url) as peer:
        create_producer(peer, topic)
        for sequence_id, messages in enumerate((2**31 - 1, 0, -1, 1)):
            metadata = MessageMetadata(
                producer_name="p", sequence_id=sequence_id, publish_time=1, num_messages_in_batch=messages
            )
            entry = build_entry(metadata.SerializeToString(), b"payload")
            send = BaseCommand(type=CommandType.SEND, send={"producer_id": 1, "sequence_id": sequence_id})
            peer.sendall(frame_payload_command(send.SerializeToString(), entry) + entry)
        kinds = [read_command(peer).type for _ in range(4)]
        assert sorted(kinds) == [CommandType.SEND_RECEIPT, *[CommandType.SEND_ERROR] * 3]


def test_half_open_connections_disturb_nobody(service_url: str, client: Any, topic: str) -> None:
    """Silent ones, ones in the middle of a frame, ones that vanish with a reset: the others send and receive."""
    consumer = client.subscribe(topic, "s")
    producer = client.create_producer(topic)
    entry = build_entry(MessageMetadata(producer_name="p", sequence_id=1, publish_time=1).SerializeToString(), b"x")
    send = BaseCommand(type=CommandType.SEND, send={"producer_id": 1, "sequence_id": 1}).SerializeToString()
    half = frame_payload_command(send, entry) + entry[:-1]
    peers = []
    for number in range(60):
        peer = connect(service_url)
        peers.append(peer)
        if number % 3:
            create_producer(peer, f"{topic}-other")
            peer.sendall(half)
        if number % 3 == 2:
            # No lingering: closing sends a reset, with half a frame on its way.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
    for number in range(20):
        producer.send(b"%d" % number)
    assert numbers(receive(consumer, 20)) == list(range(20))
    assert read_all(client, f"{topic}-other") == []
    for peer in peers:
        peer.close()


def create_producer(peer: socket.socket, topic: str) -> None:
    """Say hello, look the topic up (Apache Pulsar serves none that nobody has looked up), create producer 1."""
    topic = f"persistent://{topic}"
    asked = (
        BaseCommand(type=CommandType.LOOKUP, lookupTopic={"topic": topic, "request_id": 1}),
        BaseCommand(type=CommandType.PRODUCER, producer={"topic": topic, "producer_id": 1, "request_id": 2}),
    )
    peer.sendall(HELLO)
    kinds = [read_command(peer).type]
    for command in asked:
        peer.sendall(frame_command(command.SerializeToString()))
        kinds.append(read_command(peer).type)
    assert kinds == [CommandType.CONNECTED, CommandType.LOOKUP_RESPONSE, CommandType.PRODUCER_SUCCESS]


def read_command(peer: socket.socket) -> Any:
    """The next simple command."""

    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = peer.recv(size - len(data))
            assert part, "the connection was closed"
            data += part
        return data

    total = struct.unpack(">I", exactly(4))[0]
    frame = exactly(total)
    return BaseCommand.FromString(frame[4 : 4 + struct.unpack(">I", frame[:4])[0]])
