"""Publishers of MQTT 3.1.1, QoS 1, with pre-built packets: many connections in one thread, each with a window of
packets in flight."""

from __future__ import annotations

import random
import selectors
import socket
from dataclasses import dataclass

RECEIVE_BYTES = 1 << 16
CHUNK = 10
"""Packets per write."""
PUBACK_BYTES = 4
PUBACK = 0x40


@dataclass(slots=True)
class _Publisher:
    socket: socket.socket
    chunks: list[bytes]
    """Pre-built writes of CHUNK packets; ids go round."""
    to_send: int
    next_chunk: int = 0
    sent: int = 0
    acknowledged: int = 0
    backlog: bytes = b""
    """What the socket did not take."""
    odd_bytes: int = 0


class Publishers:
    """So many connections to one broker."""

    def __init__(
        self,
        port: int,
        *,
        connections: int = 16,
        in_flight: int = 100,
        payload_bytes: int = 100,
        topic: str = "bench/{n}/temp",
    ) -> None:
        self._in_flight = in_flight
        self._publishers = []
        # Random bytes: what compresses well would flatter a log that compresses.
        chance = random.Random(1)
        for number in range(connections):
            peer = socket.create_connection(("127.0.0.1", port), timeout=30)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.sendall(_connect(f"bench-{number}"))
            answer = peer.recv(4)
            assert answer == b"\x20\x02\x00\x00", answer
            peer.setblocking(False)
            name = topic.replace("{n}", str(number)).encode()
            ids = iter(range(1, 5 * in_flight + 1))
            chunks = [
                b"".join(_publish(name, next(ids), chance.randbytes(payload_bytes)) for _ in range(CHUNK))
                for _ in range(5 * in_flight // CHUNK)
            ]
            self._publishers.append(_Publisher(peer, chunks, 0))

    def send(self, messages: int) -> None:
        """Publish so many and wait until all are acknowledged."""
        each = messages // len(self._publishers) // CHUNK * CHUNK
        with selectors.DefaultSelector() as selector:
            for publisher in self._publishers:
                publisher.to_send += each
                selector.register(publisher.socket, selectors.EVENT_READ, publisher)
                self._fill(publisher)
            waiting = len(self._publishers)
            while waiting:
                for key, _ in selector.select(30) or self._stuck():
                    publisher = key.data
                    data = publisher.socket.recv(RECEIVE_BYTES)
                    assert data, "the broker closed a connection"
                    total = publisher.odd_bytes + len(data)
                    publisher.acknowledged += total // PUBACK_BYTES
                    publisher.odd_bytes = total % PUBACK_BYTES
                    self._fill(publisher)
                    if publisher.acknowledged == publisher.to_send:
                        selector.unregister(publisher.socket)
                        waiting -= 1

    def messages(self, wanted: int) -> int:
        """How many `send(wanted)` really publishes."""
        return wanted // len(self._publishers) // CHUNK * CHUNK * len(self._publishers)

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.socket.close()

    def _fill(self, publisher: _Publisher) -> None:
        parts = [publisher.backlog] if publisher.backlog else []
        while publisher.sent < publisher.to_send and publisher.sent - publisher.acknowledged <= self._in_flight - CHUNK:
            parts.append(publisher.chunks[publisher.next_chunk])
            publisher.next_chunk = (publisher.next_chunk + 1) % len(publisher.chunks)
            publisher.sent += CHUNK
        if parts:
            data = b"".join(parts)
            try:
                publisher.backlog = data[publisher.socket.send(data) :]
            except BlockingIOError:
                publisher.backlog = data

    @staticmethod
    def _stuck() -> list[tuple[selectors.SelectorKey, int]]:
        raise AssertionError("nothing was acknowledged for 30 s")


def _connect(client_id: str) -> bytes:
    name = client_id.encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
    return bytes([0x10, len(body)]) + body


def _publish(topic: bytes, packet_id: int, payload: bytes) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + payload
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    return b"\x32" + length + body
