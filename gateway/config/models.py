"""The configuration file's shape, as pydantic models. Only who reads a file imports this: pydantic costs 9 MiB."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from gateway.broker.broker import PARTITIONS_MAX
from gateway.config.units import parse_duration, parse_size
from gateway.errors import GatewayError
from gateway.limits import COMMIT_INTERVAL_MAX_NS, MIB, NAME_LENGTH_MAX, SECOND, SEGMENT_SIZE_MIN
from gateway.log.log import SEGMENTS_MIN
from gateway.names import NamespaceName, TopicName
from gateway.replication.settings import fill_template

CONNECTORS = "headwater.connectors"
"""Entry point group in which connectors bring the settings of their kind of sensor."""
QUOTA_MIN = SEGMENTS_MIN * SEGMENT_SIZE_MIN
QUOTA_MAX = 1 << 60
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _with_unit(value: Any, example: str) -> str:
    # YAML reads `250` as a number: say what is missing instead of "input should be a string".
    if isinstance(value, int | float):
        raise ValueError(f"'{value}' needs a unit; such as {example}")
    if not isinstance(value, str):
        raise ValueError(f"should be text; such as {example}")
    return value


def _duration(value: Any) -> int:
    duration = parse_duration(_with_unit(value, "250ms"))
    if duration > COMMIT_INTERVAL_MAX_NS:
        raise ValueError(f"'{value}' is too long; at most {COMMIT_INTERVAL_MAX_NS // SECOND}s")
    return duration


def _quota(value: Any) -> int:
    size = parse_size(_with_unit(value, "8GiB"))
    if size < QUOTA_MIN:
        raise ValueError(f"'{value}' is too small for a log; at least {QUOTA_MIN // MIB}MiB")
    if size > QUOTA_MAX:
        raise ValueError(f"'{value}' is more than any disk holds; such as 8GiB")
    return size


def _identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value) or len(value) > NAME_LENGTH_MAX:
        raise ValueError(f"'{value}' is no identifier: letters, digits and . _ - are allowed")
    return value


def _namespace(value: str) -> str:
    _translated(lambda: NamespaceName.parse(value))
    return value


def _topic(value: str) -> str:
    _translated(lambda: TopicName.parse(value))
    name = TopicName.parse(value)
    if name.partition >= 0:
        raise ValueError(f"'{value}' is one partition; settings are for the whole topic, '{name.partitioned_name}'")
    return value


def _translated(check: Callable[[], object]) -> None:
    try:
        check()
    except GatewayError as error:
        raise ValueError(f"{error}; {error.hint}" if error.hint else str(error)) from error


def _loopback(value: str) -> str:
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"'{value}' is not an address to listen on; write HOST:PORT, such as 127.0.0.1:6650")
    if host == "localhost":
        return f"127.0.0.1:{port}"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ValueError(f"'{host}' is not an IP address; write 127.0.0.1:{port}") from None
    if not loopback:
        raise ValueError(
            f"listening on {value} is refused: there are no users, certificates or tokens yet; write 127.0.0.1:{port}"
        )
    return value


def _service_url(value: str) -> str:
    if not _is_url(value, "pulsar", "pulsar+ssl"):
        raise ValueError(f"'{value}' is no service URL; write pulsar://HOST:6650 or pulsar+ssl://HOST:6651")
    return value


def _admin_url(value: str) -> str:
    if not _is_url(value, "http", "https"):
        raise ValueError(f"'{value}' is no address of an admin REST; write http://HOST:8080")
    return value


def _is_url(value: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # A port that is no number, or a bracket that is not closed.
        return False


def _remote_template(value: str) -> str:
    filled = fill_template(value, TopicName.parse("persistent://tenant/namespace/topic"), "gateway")
    _translated(lambda: TopicName.parse(filled))
    return value


Duration = Annotated[int, BeforeValidator(_duration, json_schema_input_type=str)]
Quota = Annotated[int, BeforeValidator(_quota, json_schema_input_type=str)]
Namespace = Annotated[str, AfterValidator(_namespace)]
Listen = Annotated[str, AfterValidator(_loopback)]


class _Model(BaseModel):
    # Strict: YAML's `yes` is text in version 1.2, and must not become true after all.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class ListenModel(_Model):
    """Where clients and people reach the gateway. Port 0 takes a free one."""

    pulsar: Listen = "127.0.0.1:6650"
    http: Listen = "127.0.0.1:8080"


class GatewayModel(_Model):
    """The gateway itself."""

    id: Annotated[str, AfterValidator(_identifier)] = Field(description="Names this gateway at the cloud.")
    data_dir: str = Field(min_length=1, description="Where the log lives; relative to this file.")
    disk_quota: Quota = Field(default=cast(int, "8GiB"), description="What the log may take on the disk.")
    listen: ListenModel = ListenModel()


class DefaultsModel(_Model):
    """What holds where nothing else is said."""

    namespace: Namespace = Field(default="public/default", description="Where short topic names of this file live.")


class NamespaceModel(_Model):
    """Policies of a namespace."""

    commit_interval: Duration = Field(
        default=cast(int, "0ms"),
        description="How long an entry may wait for others before it is made durable: 0ms, 250ms, 5s.",
    )
    deduplication: bool = Field(
        default=True, description="Store entries of named producers once, whatever comes again."
    )


class TopicModel(_Model):
    """What one topic does differently from its namespace."""

    commit_interval: Duration | None = None
    partitions: int = Field(default=0, ge=0, le=PARTITIONS_MAX)


class ReplicationModel(_Model):
    """One way to a cloud."""

    name: Annotated[str, AfterValidator(_identifier)]
    service_url: Annotated[str, AfterValidator(_service_url)]
    namespaces: list[Namespace] = Field(min_length=1)
    topic: Annotated[str, AfterValidator(_remote_template)] | None = Field(
        default=None,
        description="The remote topic; {tenant}, {namespace}, {topic} and {gateway.id} are filled in. "
        "Without it: the same name.",
    )
    admin_url: Annotated[str, AfterValidator(_admin_url)] | None = Field(
        default=None, description="Pulsar's admin REST, for `headwater replication doctor`."
    )
    token_file: str | None = Field(default=None, min_length=1, description="Holds the token; relative to this file.")
    trust_certs_file: str | None = Field(
        default=None, min_length=1, description="Certificates to trust instead of the system's; relative to this file."
    )


def load_connectors() -> dict[str, Any]:
    """The installed connectors by the `type` of their sensors."""
    return {entry.name: entry.load() for entry in importlib.metadata.entry_points(group=CONNECTORS)}


def file_model() -> type[BaseModel]:
    """The model of a whole file, with the sensors of all installed connectors."""
    models = [connector.settings_model() for _, connector in sorted(load_connectors().items())]
    sensor: Any = models[0] if models else _Model
    for model in models[1:]:
        sensor = sensor | model
    if len(models) > 1:
        sensor = Annotated[sensor, Field(discriminator="type")]
    return create_model(
        "Configuration",
        __base__=_Model,
        __doc__="A gateway's configuration.",
        gateway=(GatewayModel, ...),
        defaults=(DefaultsModel, DefaultsModel()),
        namespaces=(dict[Namespace, NamespaceModel], {}),
        topics=(dict[Annotated[str, AfterValidator(_topic)], TopicModel], {}),
        sensors=(list[sensor], []),
        replication=(list[ReplicationModel], []),
    )
