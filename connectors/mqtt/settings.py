"""What a user writes about an MQTT sensor, and what the connector makes of it.

Only who reads a configuration imports this module: pydantic costs memory that a running gateway has better uses for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from connectors.mqtt.sensor import BatchBy, MqttSettings, parse_listen, parse_topic
from connectors.mqtt.topics import Template, TopicFilter
from gateway.errors import ConnectorError


def _checked(check: Any) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            check(text)
        except ConnectorError as error:
            raise ValueError(f"{error}; {error.hint}" if error.hint else str(error)) from error
        return text

    return AfterValidator(validate)


class MqttModel(BaseModel):
    """One entry of `sensors:` with `type: mqtt`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=255, description="Stored with each message as its property `source`.")
    type: Literal["mqtt"]
    listen: Annotated[str, _checked(parse_listen)] = Field(
        description="HOST:PORT where devices connect to the gateway; sensors with the same value share it."
    )
    subscribe: list[Annotated[str, _checked(TopicFilter)]] = Field(
        min_length=1, description="MQTT topic filters; + stands for one level, # for the rest."
    )
    topic: Annotated[str, Field(min_length=1), _checked(parse_topic)] = Field(
        description="Where messages go; {topic}, {device} and {level[N]} are filled in from the MQTT topic."
    )
    key: Annotated[str, _checked(Template)] | None = Field(
        default=None, description="The messages' key; the same placeholders as in `topic`."
    )
    format: str = Field(default="", max_length=64, description="Stored with each message, such as json.")
    batch: BatchBy = Field(
        default=BatchBy.topic, description="`key`: one entry for each key, as key_shared consumers need."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_brokers(cls, data: Any) -> Any:
        if isinstance(data, dict) and "url" in data:
            raise ValueError(
                'sensors of an existing MQTT broker (url) are not supported yet; write listen: "127.0.0.1:1883" '
                "and let the devices, or a bridge of that broker, connect to the gateway"
            )
        return data

    @model_validator(mode="after")
    def _need_key(self) -> MqttModel:
        if self.batch is BatchBy.key and self.key is None:
            raise ValueError('batch: key needs a key, such as key: "{device}"')
        return self

    def settings(self) -> MqttSettings:
        """The connector's own settings."""
        return MqttSettings(
            name=self.name,
            listen=self.listen,
            subscribe=tuple(self.subscribe),
            topic=self.topic,
            key=self.key,
            format=self.format,
            batch=self.batch,
        )
