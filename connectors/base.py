"""What a connector is: the promise between a source of events and whoever runs it.

A connector is found by the entry point group `headwater.connectors`; the entry's name is the `type` that a sensor
names in the configuration, and its value a `Connector`. A connector uses `gateway.client.api` and the ground modules,
never another connector.

    configuration ──settings model──► SensorSettings ──Connector.sources──► Source ──run(context)──► client.api
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.clock import Clock

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gateway.client.api import Client

ENTRY_POINT_GROUP = "headwater.connectors"


class SensorSettings(Protocol):
    """What every connector's settings have; each connector owns a frozen dataclass with more."""

    @property
    def name(self) -> str:
        """Unique among the sensors of a gateway; stored with each message as its property `source`."""


@dataclass(slots=True)
class SensorReport:
    """What is known about one sensor. Counts begin at 0 with the process; the source alone changes them."""

    name: str
    messages: int = 0
    """Made durable."""
    payload_bytes: int = 0
    """Of those messages, without what is stored about them."""
    refused: int = 0
    """Messages that a topic refused for good; their senders were not told "received"."""
    last_error: str = ""


@dataclass(slots=True)
class SourceReport:
    """What a source tells about itself while it runs. Read by metrics and `status`, on the same event loop."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the source takes events."""
    addresses: list[str] = field(default_factory=list)
    """Where it listens, as HOST:PORT, with the port that was really taken."""
    sensors: dict[str, SensorReport] = field(default_factory=dict)
    connections: int = 0
    """Devices connected now."""
    connections_refused: int = 0
    """Turned away: too many, or a CONNECT that can't be served."""
    protocol_errors: int = 0
    """Connections closed because the device broke its protocol."""
    in_flight_bytes: int = 0
    """Taken from devices and not yet durable."""
    held: bool = False
    """Whether nothing is read from devices now, because the log takes nothing or too much is in flight."""
    last_error: str = ""

    def sensor(self, name: str) -> SensorReport:
        """The report of one sensor, made when first asked for."""
        report = self.sensors.get(name)
        if report is None:
            report = self.sensors[name] = SensorReport(name)
        return report


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is given to work with."""

    client: Client
    """The door to topics. The source closes what it opens on it, never the client."""
    clock: Clock
    default_namespace: str
    """`tenant/namespace` of short topic names, and of the topic `unmatched`."""
    report: SourceReport = field(default_factory=SourceReport)


class Source(ABC):
    """Takes events from devices and publishes them.

    Who calls: the daemon (or the connector host) calls `run` once, on its event loop, and stops the source by
    cancelling it. Nothing in `run` may block the loop: what takes longer than a millisecond belongs in a thread or a
    child process.

    Delivery: a source tells a device "received" (PUBACK, 2.04) only after `send_entry`'s future has succeeded. When
    the log refuses for now (StorageUnavailable) the source keeps what it took, takes nothing more, and tries again for
    as long as it runs; it never drops what it took. Each source states the guarantee that follows for its protocol.

    Resuming: a source keeps nothing between two runs. What a device was not told is received is the device's to send
    again, so that a crash costs duplicates at most. A source with a position of its own (a file, a remote offset)
    commits it with the outputs in one `client.commit`.
    """

    name: str
    """For logs and status, such as `mqtt 127.0.0.1:1883`."""

    @abstractmethod
    async def run(self, context: SourceContext) -> None:
        """Serve until cancelled; then stop taking, wait briefly for what is in flight, and close what was opened.

        `context.report.ready` is set once events are taken.
        Raises: ConnectorError if the source can't start or can't go on (a port in use, a device that vanished).
        """


class Connector(ABC):
    """What the entry point names: the settings of a kind of sensor, and its sources. Cheap to import."""

    kind: str
    """As in `type: mqtt`; equals the entry point's name."""

    @abstractmethod
    def settings_model(self) -> type[BaseModel]:
        """The pydantic model of one sensor of this type, imported by this call: only who reads a configuration pays.

        The model has `name` and `type` (a Literal), refuses unknown keys, and has a method `settings()` that returns
        the connector's frozen dataclass.
        """

    @abstractmethod
    def sources(self, sensors: Sequence[SensorSettings]) -> list[Source]:
        """Build the sources for all sensors of this type at once, so that several can share one listener.

        Raises: ConnectorError if they contradict each other or ask for what is not allowed.
        """
