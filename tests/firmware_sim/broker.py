"""A broker that a test can let down: it takes PUBLISH packets and acknowledges as many as it is told to.

Written from MQTT 3.1.1's text with plain sockets, because the simulator must not be tested against the gateway alone.
"""

from __future__ import annotations

import socket
import threading
from types import TracebackType


class Broker:
    """Listens on a free port. Everything that arrives is noted; `acknowledging` and `drop` make it behave badly."""

    def __init__(self, port: int = 0) -> None:
        self.acknowledging = True
        self.payloads: list[bytes] = []
        """Of all PUBLISH packets, resent ones included."""
        self.topics: set[str] = set()
        self.client_ids: list[str] = []
        self.acknowledged: list[bytes] = []
        self.drop_after: list[int] = []
        """Close the connection, unacknowledged, when so many payloads have arrived in all; each is used once."""
        self.unacknowledged_max = 0
        self.changed = threading.Condition()
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._waiting: list[tuple[socket.socket, bytes, bytes]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self.changed:
            for connection in self._sockets:
                _shut(connection)
        for thread in self._threads:
            thread.join(10)

    def wait(self, payloads: int) -> None:
        """Wait until so many have arrived."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.payloads) >= payloads, 10), len(self.payloads)

    def acknowledge(self) -> None:
        """Acknowledge everything that waits for it, and whatever comes."""
        with self.changed:
            self.acknowledging = True
            waiting, self._waiting = self._waiting, []
            for connection, packet_id, payload in waiting:
                self._acknowledge(connection, packet_id, payload)

    def _acknowledge(self, connection: socket.socket, packet_id: bytes, payload: bytes) -> None:
        self.acknowledged.append(payload)
        connection.sendall(b"\x40\x02" + packet_id)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self.changed:
                self._sockets.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        try:
            while first := stream.read(1):
                length = shift = 0
                while True:
                    byte = stream.read(1)[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                if not self._handle(connection, first[0], stream.read(length)):
                    return
        except (OSError, IndexError):
            return
        finally:
            with self.changed:
                self._waiting = [waiting for waiting in self._waiting if waiting[0] is not connection]
                self._sockets.discard(connection)
            _shut(connection)
            stream.close()
            connection.close()

    def _handle(self, connection: socket.socket, first: int, body: bytes) -> bool:
        if first == 0x10:
            size = int.from_bytes(body[10:12])
            self.client_ids.append(body[12 : 12 + size].decode())
            connection.sendall(b"\x20\x02\x00\x00")
        elif first == 0xC0:
            connection.sendall(b"\xd0\x00")
        elif first == 0xE0:
            return False
        else:
            assert first & 0xF6 == 0x32, "only PUBLISH with QoS 1 is expected"
            size = int.from_bytes(body[:2])
            self.topics.add(body[2 : 2 + size].decode())
            packet_id, payload = body[2 + size : 4 + size], body[4 + size :]
            with self.changed:
                self.payloads.append(payload)
                self.changed.notify_all()
                if self.drop_after and len(self.payloads) >= self.drop_after[0]:
                    self.drop_after.pop(0)
                    return False
                if self.acknowledging:
                    self._acknowledge(connection, packet_id, payload)
                else:
                    self._waiting.append((connection, packet_id, payload))
                    self.unacknowledged_max = max(self.unacknowledged_max, len(self._waiting))
        return True


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
