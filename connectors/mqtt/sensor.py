"""An MQTT sensor: its settings, where it listens, and the way of an MQTT topic to its log topic and key. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from connectors.mqtt.topics import Template, TopicFilter
from gateway.errors import ConnectorError, InvalidTopicName
from gateway.names import TopicName


class BatchBy(StrEnum):
    """Which messages may share an entry."""

    topic = "topic"
    key = "key"


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """One sensor."""

    name: str
    listen: str
    """HOST:PORT; sensors with the same text share a listener."""
    subscribe: tuple[str, ...]
    """MQTT topic filters; at least one."""
    topic: str
    """A template."""
    key: str | None = None
    """A template; None: messages have no key."""
    format: str = ""
    """What the payload is, such as json. Stored, not looked into."""
    batch: BatchBy = BatchBy.topic


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int
    """0: any free one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Address:
    """Read HOST:PORT. Raises: ConnectorError, also for a host that is not this machine's loopback."""
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65_535:
        raise ConnectorError(f"'{text}' is not an address to listen on", hint="write HOST:PORT, such as 127.0.0.1:1883")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        # Anybody on the network could publish: this stays refused until devices can prove who they are.
        raise ConnectorError(
            f"MQTT can't listen on '{host or '*'}' because devices can't authenticate yet",
            hint="listen on 127.0.0.1, ::1 or localhost",
        )
    return Address(host, int(port_text))


def parse_topic(text: str) -> Template:
    """Read a `topic:` template. Raises: ConnectorError, also for a constant one that is no valid topic name."""
    template = Template(text, slash=".")
    if template.constant:
        try:
            TopicName.parse(text)
        except InvalidTopicName as error:
            raise ConnectorError(str(error), hint=error.hint) from error
    return template


class Target(NamedTuple):
    """Where one message goes."""

    topic: str | None
    """As the sensor's template names it; None: the MQTT topic lacks a level that the template asks for."""
    key: str | None


class Sensor:
    """One sensor's mapping, compiled."""

    def __init__(self, settings: MqttSettings) -> None:
        """Compile. Raises: ConnectorError."""
        self.settings = settings
        self._filters = [TopicFilter(text) for text in settings.subscribe]
        self._topic = parse_topic(settings.topic)
        self._key = None if settings.key is None else Template(settings.key)

    @property
    def constant_topic(self) -> str | None:
        """The one topic of all of this sensor's messages; None: it depends on the message."""
        return self.settings.topic if self._topic.constant else None

    def target(self, topic: str, device: str) -> Target | None:
        """Where a message goes that `device` published to the MQTT topic `topic`; None: this sensor does not want it.

        A key that asks for a level which is not there is no key.
        """
        if not any(topic_filter.matches(topic) for topic_filter in self._filters):
            return None
        key = None if self._key is None else self._key.expand(topic, device)
        return Target(self._topic.expand(topic, device), key)
