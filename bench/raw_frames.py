"""A load generator of raw frames: one connection, pre-built SEND frames, a fixed number of them in flight.

It costs next to nothing per message, so that the broker is the limit and not the client.
"""

from __future__ import annotations

import random
import socket
import struct
from urllib.parse import urlsplit

from gateway.wire import commands
from gateway.wire.commands import BaseCommand, CommandType
from gateway.wire.entry import build_entry
from gateway.wire.frames import frame_command, frame_payload_command
from gateway.wire.metadata import MessageMetadata

RECEIPT_MARK = CommandType.SEND_RECEIPT
RECEIVE_BYTES = 1 << 18
DIFFERENT_ENTRIES = 4096
"""More than any commit group compresses together."""


class RawProducer:
    """One producer on one connection."""

    def __init__(self, service_url: str, topic: str, *, payload_bytes: int = 100) -> None:
        parts = urlsplit(service_url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 6650), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._sequence_id = 0
        metadata = MessageMetadata(producer_name="bench", sequence_id=0, publish_time=1)
        # Random bytes, and many of them: what compresses well would flatter a log that compresses.
        chance = random.Random(1)
        self._entries = [
            build_entry(metadata.SerializeToString(), chance.randbytes(payload_bytes)) for _ in range(DIFFERENT_ENTRIES)
        ]
        connect = commands.CommandConnect(client_version="bench", protocol_version=19)
        self._ask(BaseCommand(type=CommandType.CONNECT, connect=connect), CommandType.CONNECTED)
        lookup = commands.CommandLookupTopic(topic=topic, request_id=1)
        self._ask(BaseCommand(type=CommandType.LOOKUP, lookupTopic=lookup), CommandType.LOOKUP_RESPONSE)
        producer = commands.CommandProducer(topic=topic, producer_id=1, request_id=2)
        self._ask(BaseCommand(type=CommandType.PRODUCER, producer=producer), CommandType.PRODUCER_SUCCESS)

    def send(self, messages: int, in_flight: int = 1000) -> None:
        """Send so many entries and wait for all receipts."""
        chunk = max(1, in_flight // 10)
        sent = received = 0
        frames = self._frames(messages, chunk)
        while received < messages:
            while sent < messages and sent - received <= in_flight - chunk:
                data, count = next(frames)
                self._socket.sendall(data)
                sent += count
            received += self._receipts()

    def close(self) -> None:
        self._socket.close()

    def _frames(self, messages: int, chunk: int):  # type: ignore[no-untyped-def]
        send = BaseCommand(type=CommandType.SEND)
        send.send.producer_id = 1
        for first in range(0, messages, chunk):
            parts = []
            count = min(chunk, messages - first)
            for _ in range(count):
                send.send.sequence_id = self._sequence_id
                entry = self._entries[self._sequence_id % DIFFERENT_ENTRIES]
                self._sequence_id += 1
                parts += (frame_payload_command(send.SerializeToString(), entry), entry)
            yield b"".join(parts), count

    def _receipts(self) -> int:
        """Wait for bytes and count the receipts in them."""
        data = self._rest + self._socket.recv(RECEIVE_BYTES)
        offset = count = 0
        while len(data) - offset >= 8:
            total, size = struct.unpack_from(">II", data, offset)
            if len(data) - offset < total + 4:
                break
            # The command's first field is its type: 08 xx.
            kind = data[offset + 9]
            if kind == RECEIPT_MARK:
                count += 1
            elif kind == CommandType.PING:
                self._socket.sendall(frame_command(BaseCommand(type=CommandType.PONG, pong={}).SerializeToString()))
            else:
                raise AssertionError(BaseCommand.FromString(data[offset + 8 : offset + 8 + size]))
            offset += total + 4
        self._rest = data[offset:]
        return count

    def _ask(self, command: BaseCommand, answer: int) -> None:
        self._socket.sendall(frame_command(command.SerializeToString()))
        while len(self._rest) < 4 or len(self._rest) < struct.unpack(">I", self._rest[:4])[0] + 4:
            self._rest += self._socket.recv(65536)
        total, size = struct.unpack(">II", self._rest[:8])
        received = BaseCommand.FromString(self._rest[8 : 8 + size])
        assert received.type == answer, received
        self._rest = self._rest[4 + total :]
