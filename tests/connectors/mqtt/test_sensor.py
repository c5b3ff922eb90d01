"""Addresses and the mapping of one sensor."""

from __future__ import annotations

import pytest

from connectors.mqtt.sensor import MqttSettings, Sensor, Target, parse_listen
from gateway.errors import ConnectorError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:1883", "127.0.0.1:1883"),
        ("localhost:0", "127.0.0.1:0"),
        ("[::1]:1883", "[::1]:1883"),
        ("127.9.9.9:1", "127.9.9.9:1"),
    ],
)
def test_listen_reads_loopback_addresses(text: str, shown: str) -> None:
    """Loopback in each form is taken."""
    assert str(parse_listen(text)) == shown


@pytest.mark.parametrize("text", ["0.0.0.0:1883", "[::]:1883", ":1883", "192.168.1.2:1883", "gateway.example.com:1883"])
def test_listen_refuses_what_others_can_reach(text: str) -> None:
    """Off loopback anybody could publish, so it is refused until devices can authenticate."""
    with pytest.raises(ConnectorError, match="authenticate"):
        parse_listen(text)


@pytest.mark.parametrize(
    "text", ["", "1883", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:1883", "127.0.0.1:¹"]
)
def test_listen_refuses_what_is_no_address(text: str) -> None:
    """The error shows what to write."""
    with pytest.raises(ConnectorError) as caught:
        parse_listen(text)
    assert "HOST:PORT" in caught.value.hint


def test_sensor_maps_what_it_subscribes_to() -> None:
    """Any of the filters is enough; other topics are not this sensor's."""
    sensor = Sensor(
        MqttSettings("s", "127.0.0.1:0", ("boiler/+/temp", "hall/#"), topic="t.{level[0]}", key="{level[1]}")
    )
    assert sensor.target("boiler/3/temp", "d") == Target("t.boiler", "3")
    assert sensor.target("hall", "d") == Target("t.hall", None)
    assert sensor.target("kitchen/3/temp", "d") is None


def test_sensor_has_no_topic_for_a_missing_level() -> None:
    """The caller learns that the message is wanted and has nowhere to go."""
    sensor = Sensor(MqttSettings("s", "127.0.0.1:0", ("#",), topic="{level[1]}"))
    assert sensor.target("a", "d") == Target(None, None)
