"""What a device measured, and how it writes it down. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement as the device reports it."""

    sequence: int
    """Counts what the device sends, from 0; a duplicate repeats it, so that a receiver can tell gaps from doubles."""
    time_ms: int
    """By the device's clock, which may be wrong; milliseconds since 1970."""
    celsius: float
    faults: tuple[str, ...] = ()
    """Names of the faults that shaped this reading. Not reported: a device does not know them."""

    def payload(self, device: str) -> bytes:
        """The JSON that the device sends, on one line."""
        time = (EPOCH + timedelta(milliseconds=self.time_ms)).isoformat(timespec="milliseconds")
        fields = {"device": device, "seq": self.sequence, "time": time.replace("+00:00", "Z"), "c": self.celsius}
        return json.dumps(fields, separators=(",", ":")).encode()


class Device(Protocol):
    """Something that measures."""

    name: str
    """Its MQTT client id."""
    topic: str
    """MQTT topic that it publishes to."""

    def readings(self) -> Iterator[list[Reading]]:
        """What it sends at each of its intervals: one reading, or none or two if it is faulty. The same each time."""
