"""MQTT: devices publish to the gateway itself, and PUBACK means that the message is durable.

Guarantee: at least once for QoS 1, at most once for QoS 0 (a message that arrived before a power cut may be lost,
because nobody was told that it arrived). QoS 2 is refused. Messages of one device to one topic are stored in the order
in which it sent them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from connectors.base import Connector, SensorSettings, Source

if TYPE_CHECKING:
    from pydantic import BaseModel


class MqttConnector(Connector):
    """What the entry point `mqtt` names."""

    kind = "mqtt"

    def settings_model(self) -> type[BaseModel]:
        from connectors.mqtt.settings import MqttModel

        return MqttModel

    def sources(self, sensors: Sequence[SensorSettings]) -> list[Source]:
        from connectors.mqtt.source import build_sources

        return build_sources(sensors)


connector = MqttConnector()
