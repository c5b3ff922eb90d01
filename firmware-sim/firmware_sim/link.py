"""A device's MQTT connection: QoS 1 by paho, a bounded number of messages in flight, resent until they are
acknowledged.

The connection is made again for as long as it takes, and what was not acknowledged is sent again on the new one, before
anything newer: a device's messages arrive in order, repetitions apart. For that paho runs in the device's own thread;
with paho's thread beside it, a new message could overtake those that are resent.

With a ledger, each acknowledged payload is a line in a file before its place in flight is free again: a test that
kills the gateway compares that file with what the gateway kept.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

RECONNECT_S_MIN = 0.05
RECONNECT_S_MAX = 2.0
KEEP_ALIVE_S = 30
POLL_S_MAX = 0.1
"""How long a connection waits for its socket before it looks whether it should stop."""
IN_FLIGHT_MAX = 1_000
"""Greatest `in_flight_max`: packet ids have 16 bits, and a lost connection resends all of it."""


class Ledger:
    """A file with one line for each acknowledged payload, in the order of acknowledgement. Shared by threads."""

    def __init__(self, path: Path) -> None:
        """Appends. Raises: OSError."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, payload: bytes) -> None:
        """Add a line: one write, so that lines of several threads don't mix and a kill cuts none."""
        os.write(self._file, payload + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Link:
    """One connection, for one thread. It moves only inside `publish`, `wait` and `flush`."""

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        *,
        in_flight_max: int = 20,
        ledger: Ledger | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Connects when it is first used, and again and again if nobody listens. `stop` ends all waiting."""
        if not 1 <= in_flight_max <= IN_FLIGHT_MAX:
            raise ValueError(f"between 1 and {IN_FLIGHT_MAX} messages can be in flight")
        self.published = 0
        """Handed to the connection."""
        self.acknowledged = 0
        self.connects = 0
        """Connections that the gateway accepted."""
        self._address = host, port
        self._in_flight_max = in_flight_max
        self._ledger = ledger
        self._stop = stop or threading.Event()
        self._connected = False
        self._retry_s = RECONNECT_S_MIN
        self._retry_at = 0.0
        self._waiting: dict[int, bytes] = {}
        # A session that is kept is what allows a device to resend: MQTT 3.1.1, section 4.4.
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
        self._client.max_inflight_messages_set(in_flight_max)
        self._client.on_publish = self._on_publish
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def in_flight(self) -> int:
        return self.published - self.acknowledged

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1, after waiting for a connection and a place in flight. False: `stop` was set first."""
        while not self._connected or self.in_flight >= self._in_flight_max:
            if self._stop.is_set():
                return False
            self._poll(POLL_S_MAX)
        self.published += 1
        self._waiting[self._client.publish(topic, payload, qos=1).mid] = payload
        return True

    def wait(self, until: float) -> bool:
        """Let the connection work until this time of `time.monotonic`. False: `stop` was set first."""
        while (left := until - time.monotonic()) > 0:
            if self._stop.is_set():
                return False
            self._poll(min(left, POLL_S_MAX))
        return not self._stop.is_set()

    def flush(self, until: float | None = None) -> bool:
        """Wait until everything is acknowledged. False: it is `until`; without that, `stop` was set."""
        while self.in_flight:
            left = POLL_S_MAX if until is None else until - time.monotonic()
            if left <= 0 or (until is None and self._stop.is_set()):
                return False
            self._poll(min(left, POLL_S_MAX))
        return True

    def close(self) -> None:
        """Disconnect. What is not acknowledged is given up."""
        self._client.disconnect()

    def _poll(self, seconds: float) -> None:
        """Receive, keep alive, and connect if the connection is gone."""
        if self._client.socket() is not None:
            self._client.loop(seconds)
            return
        now = time.monotonic()
        if now < self._retry_at:
            self._stop.wait(min(seconds, self._retry_at - now))
            return
        self._retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, RECONNECT_S_MAX)
        try:
            self._client.connect(*self._address, keepalive=KEEP_ALIVE_S)
        except OSError:
            # Nobody listens, or not any more: the next try is due in a moment.
            return

    def _on_publish(self, client: mqtt.Client, data: Any, message_id: int, reason: Any, properties: Any) -> None:
        payload = self._waiting.pop(message_id)
        if self._ledger is not None:
            self._ledger.write(payload)
        self.acknowledged += 1

    def _on_connect(self, client: mqtt.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:
            self._connected = True
            self._retry_s = RECONNECT_S_MIN
            self.connects += 1

    def _on_disconnect(self, client: mqtt.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._connected = False
