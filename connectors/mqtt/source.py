"""The MQTT source: several sensors behind one listener, and the way of each message into their topics.

A message that several sensors want is stored for each of them, in one commit group. One that nobody wants, or that a
sensor's template makes no valid topic of, goes to the topic `unmatched` of the default namespace, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors.base import SensorReport, SensorSettings, Source, SourceContext
from connectors.mqtt.listener import Listener
from connectors.mqtt.sensor import BatchBy, MqttSettings, Sensor, parse_listen
from connectors.partitions import choose_partition
from connectors.publisher import Publisher
from connectors.rounds import Route
from gateway.errors import ConnectorError, GatewayError, InvalidTopicName
from gateway.names import PARTITION_SUFFIX, TopicName

UNMATCHED = "unmatched"
"""Topic of the default namespace for what no sensor wants."""
STOP_GRACE_S = 5.0
"""How long a stopping source waits for commits."""
CLOSE_GRACE_S = 1.0


def build_sources(sensors: Sequence[SensorSettings]) -> list[Source]:
    """One source for each address that sensors listen on. Raises: ConnectorError."""
    by_address: dict[str, list[MqttSettings]] = {}
    for settings in sensors:
        if not isinstance(settings, MqttSettings):
            raise ConnectorError(f"sensor '{settings.name}' is not an MQTT sensor")
        by_address.setdefault(str(parse_listen(settings.listen)), []).append(settings)
    return [MqttSource(listen, shared) for listen, shared in by_address.items()]


class MqttSource(Source):
    """All sensors of one listening address."""

    def __init__(self, listen: str, sensors: Sequence[MqttSettings]) -> None:
        """Compile the sensors' filters and templates. Raises: ConnectorError."""
        self.name = f"mqtt {listen}"
        self._address = parse_listen(listen)
        self._sensors = [Sensor(settings) for settings in sensors]

    async def run(self, context: SourceContext) -> None:
        publisher = Publisher(context, on_pressure=lambda held: listener.hold(held))
        router = Router(self.name, self._sensors, publisher, context)
        listener = Listener(
            self._address,
            publisher=publisher,
            find_routes=router.routes,
            clock=context.clock,
            report=context.report,
        )
        try:
            await router.find_partitions()
            address = await listener.start()
            context.report.addresses[:] = [str(address)]
            context.report.ready.set()
            await publisher.failed
        finally:
            context.report.ready.clear()
            listener.stop()
            await publisher.close(grace_s=STOP_GRACE_S)
            await listener.close(grace_s=CLOSE_GRACE_S)


class Router:
    """Finds the ways of a device's messages from an MQTT topic into the log."""

    def __init__(self, name: str, sensors: Sequence[Sensor], publisher: Publisher, context: SourceContext) -> None:
        self._name = name
        self._publisher = publisher
        self._sensors = [(sensor, context.report.sensor(sensor.settings.name)) for sensor in sensors]
        self._unmatched = context.report.sensor(UNMATCHED)
        self._context = context
        self._partitions: dict[str, int] = {}

    async def find_partitions(self) -> None:
        """Learn which of the sensors' topics are partitioned; those whose name depends on the message never are."""
        for sensor, _ in self._sensors:
            if (topic := sensor.constant_topic) is not None:
                name = str(TopicName.parse(topic, default_namespace=self._context.default_namespace))
                try:
                    self._partitions[topic] = await self._context.client.partitions(name)
                except GatewayError as error:
                    raise ConnectorError(f"{self._name} can't look up {name}: {error}", hint=error.hint) from error

    def routes(self, topic: str, device: str) -> tuple[Route, ...]:
        """At least one way; the caller keeps them for as long as the device is connected."""
        routes = []
        for sensor, report in self._sensors:
            target = sensor.target(topic, device)
            if target is None:
                continue
            settings = sensor.settings
            if target.topic is None:
                routes.append(self._unmatched_route(topic, device, settings.name, f"{settings.topic}: no such level"))
                continue
            try:
                routes.append(self._route(topic, device, settings, report, target.topic, target.key))
            except InvalidTopicName as error:
                routes.append(self._unmatched_route(topic, device, settings.name, str(error)))
        return tuple(routes) or (self._unmatched_route(topic, device, self._name, "no sensor subscribes to it"),)

    def _route(
        self, topic: str, device: str, settings: MqttSettings, report: SensorReport, target: str, key: str | None
    ) -> Route:
        if partitions := self._partitions.get(target, 0):
            # Without a key it is the device that keeps its messages in order.
            target += f"{PARTITION_SUFFIX}{choose_partition(device if key is None else key, partitions)}"
        lane = self._publisher.lane(report, target, key if settings.batch == BatchBy.key else None)
        properties = _properties(settings.name, device, topic)
        if settings.format:
            properties.append(("format", settings.format))
        return self._publisher.route(lane, properties, key)

    def _unmatched_route(self, topic: str, device: str, source: str, reason: str) -> Route:
        lane = self._publisher.lane(self._unmatched, UNMATCHED)
        return self._publisher.route(lane, [*_properties(source, device, topic), ("reason", reason)], None)


def _properties(source: str, device: str, topic: str) -> list[tuple[str, str]]:
    return [("source", source), ("device", device), ("mqtt_topic", topic)]
