"""What a user may write."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.mqtt import connector
from connectors.mqtt.sensor import BatchBy, MqttSettings
from connectors.mqtt.settings import MqttModel

GOOD: dict[str, Any] = {
    "name": "boilers",
    "type": "mqtt",
    "listen": "127.0.0.1:1883",
    "subscribe": ["boiler/+/temp"],
    "topic": "temperature",
}


def test_settings_become_the_connectors_own() -> None:
    """The model of the configuration yields the frozen settings."""
    model = connector.settings_model()
    assert model is MqttModel
    settings = MqttModel.model_validate({**GOOD, "key": "{level[1]}", "format": "json", "batch": "key"}).settings()
    assert settings == MqttSettings(
        "boilers", "127.0.0.1:1883", ("boiler/+/temp",), "temperature", "{level[1]}", "json", BatchBy.key
    )
    assert connector.sources([settings])[0].name == "mqtt 127.0.0.1:1883"


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"listen": "0.0.0.0:1883"}, ("listen",), "authenticate"),
        ({"listen": "1883"}, ("listen",), "HOST:PORT"),
        ({"subscribe": []}, ("subscribe",), "at least 1"),
        ({"subscribe": ["a", "b/#/c"]}, ("subscribe", 1), "last one"),
        ({"topic": "{level}"}, ("topic",), "level["),
        ({"topic": "plant/hall7"}, ("topic",), "not a topic name"),
        ({"topic": ""}, ("topic",), "at least 1"),
        ({"key": "{x}"}, ("key",), "placeholder"),
        ({"batch": "key"}, (), "needs a key"),
        ({"batch": "device"}, ("batch",), "'topic' or 'key'"),
        ({"colour": "red"}, ("colour",), "not permitted"),
        ({"url": "mqtts://broker.example.com"}, (), "not supported yet"),
        ({"name": ""}, ("name",), "at least 1"),
    ],
)
def test_settings_refuse_mistakes_at_their_place(change: dict[str, Any], place: tuple[Any, ...], words: str) -> None:
    """Each mistake names the field that it is in, and says what is wrong."""
    with pytest.raises(ValidationError) as caught:
        MqttModel.model_validate({**GOOD, **change})
    (error,) = caught.value.errors()
    assert error["loc"] == place
    assert words in error["msg"]


def test_connector_is_imported_without_pydantic_and_asyncio_parts() -> None:
    """The daemon pays for the settings model only when it reads a configuration."""
    code = "import sys, connectors.mqtt; print([m for m in sys.modules if m.split('.')[0] in ('pydantic', 'paho')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
