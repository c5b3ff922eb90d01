"""Checks a configuration as a whole: first each value by its model, then what no single value shows."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.cli.control import CONTROL_SOCKET
from gateway.config.load import as_plain, full_topic_name
from gateway.config.mistakes import mistakes_of
from gateway.config.models import file_model, load_connectors
from gateway.config.positions import Document, TreePath, parse_document
from gateway.errors import ConfigError, ConfigMistake, ConnectorError
from gateway.names import Domain, NamespaceName, TopicName
from gateway.replication.settings import fill_template, keeps_topics_apart

UNIX_PATH_BYTES_MAX = 107
"""A socket's path. Source: unix(7), sun_path without its ending zero."""


@cache
def _model() -> type[BaseModel]:
    return file_model()


def schema() -> dict[str, Any]:
    """The file's JSON Schema, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_model().model_json_schema()}


def check_text(text: str, file: str) -> dict[str, Any]:
    """Check a configuration. Returns plain data for `gateway.config.load.build`. Raises: ConfigError."""
    document = parse_document(text, file)
    if not isinstance(document.data, dict):
        raise ConfigError([document.mistake((), "the file must be a mapping", hint="begin with `gateway:`")])
    try:
        model: Any = _model().model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(_in_order(mistakes_of(document, error, _model()))) from error
    folder = Path(file).resolve().parent
    mistakes = [
        *_path_mistakes(document, model, folder),
        *_names_twice(document, model),
        *_replication_mistakes(document, model),
        *_topic_mistakes(document, model),
    ]
    mistakes += [*_listen_mistakes(document, model), *_sensor_mistakes(document, model)]
    if mistakes:
        raise ConfigError(_in_order(mistakes))
    return _describe(model, folder)


def _in_order(mistakes: list[ConfigMistake]) -> list[ConfigMistake]:
    return sorted(dict.fromkeys(mistakes), key=lambda mistake: (mistake.line, mistake.column))


def _describe(model: Any, folder: Path) -> dict[str, Any]:
    default_namespace = model.defaults.namespace
    sensors: dict[str, list[dict[str, Any]]] = {}
    for sensor in model.sensors:
        sensors.setdefault(sensor.type, []).append(as_plain(sensor.settings()))
    return {
        "gateway_id": model.gateway.id,
        "log": {"data_dir": str(_data_dir(model, folder)), "quota_bytes": model.gateway.disk_quota},
        "broker": {
            "namespaces": {
                name: {"commit_interval_ns": policy.commit_interval, "deduplication": policy.deduplication}
                for name, policy in model.namespaces.items()
            },
            "topics": {
                full_topic_name(name, default_namespace): {
                    "commit_interval_ns": policy.commit_interval,
                    "partitions": policy.partitions,
                }
                for name, policy in model.topics.items()
            },
        },
        "pulsar": _address(model.gateway.listen.pulsar),
        "http": _address(model.gateway.listen.http),
        "default_namespace": default_namespace,
        "sensors": sensors,
        "replications": [
            {
                "name": item.name,
                "gateway_id": model.gateway.id,
                "service_url": item.service_url,
                "namespaces": item.namespaces,
                "topic": item.topic or "",
                "admin_url": item.admin_url or "",
                "token_file": _file(folder, item.token_file),
                "trust_certs_file": _file(folder, item.trust_certs_file),
            }
            for item in model.replication
        ],
    }


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _file(folder: Path, name: str | None) -> str:
    return str(folder / name) if name else ""


# What a model can't see


def _path_mistakes(document: Document, model: Any, folder: Path) -> list[ConfigMistake]:
    mistakes = []
    given: list[tuple[TreePath, str]] = [(("gateway", "data_dir"), model.gateway.data_dir)]
    for index, item in enumerate(model.replication):
        given += [
            (("replication", index, key), value)
            for key in ("token_file", "trust_certs_file")
            if (value := getattr(item, key)) is not None
        ]
    for path, value in given:
        if value.startswith("~"):
            # It would become a folder of that name: only shells know whose home is meant.
            mistakes.append(document.mistake(path, f"'{value}' begins with ~", hint="write the path in full"))
    control_socket = _data_dir(model, folder) / CONTROL_SOCKET
    if len(os.fsencode(control_socket)) > UNIX_PATH_BYTES_MAX:
        mistakes.append(
            document.mistake(
                ("gateway", "data_dir"),
                f"{control_socket} would be too long a name for a socket",
                hint=f"at most {UNIX_PATH_BYTES_MAX} bytes: choose a shorter data_dir",
            )
        )
    return mistakes


def _data_dir(model: Any, folder: Path) -> Path:
    return Path(os.path.normpath(folder / model.gateway.data_dir))


def _names_twice(document: Document, model: Any) -> list[ConfigMistake]:
    mistakes = []
    for section in ("sensors", "replication"):
        seen: set[str] = set()
        for index, item in enumerate(getattr(model, section)):
            if item.name in seen:
                mistakes.append(
                    document.mistake(
                        (section, index, "name"), f"'{item.name}' is the name of another one", hint="names are unique"
                    )
                )
            seen.add(item.name)
    return mistakes


def _replication_mistakes(document: Document, model: Any) -> list[ConfigMistake]:
    mistakes = []
    own_ports = {_address(model.gateway.listen.pulsar)[1]}
    writers: dict[tuple[str, str], str] = {}
    """Who writes a remote topic, by service URL and the name that a probe gets there."""
    for index, item in enumerate(model.replication):
        path = ("replication", index)
        for namespace in sorted(set(item.namespaces)):
            probe = TopicName(Domain.persistent, NamespaceName.parse(namespace), "probe")
            remote = fill_template(item.topic, probe, model.gateway.id) if item.topic else str(probe)
            writer = writers.setdefault((item.service_url, remote), item.name)
            if writer != item.name:
                message = (
                    f"the topics of {namespace} are written there by '{writer}' already: each event would arrive twice"
                )
                mistakes.append(document.mistake((*path, "namespaces"), message, hint="give each its own namespaces"))
        if not keeps_topics_apart(item.topic or "", tuple(item.namespaces), model.gateway.id):
            mistakes.append(
                document.mistake(
                    (*path, "topic"),
                    "two topics would be written to one remote topic",
                    hint="put {topic} into the name, and {namespace} where several namespaces are replicated",
                )
            )
        host, _, port = item.service_url.partition("://")[2].rpartition(":")
        if host in ("127.0.0.1", "localhost", "[::1]") and port.isdigit() and int(port) in own_ports - {0}:
            mistakes.append(
                document.mistake(
                    (*path, "service_url"),
                    "the gateway would replicate to itself, in a circle",
                    hint="give the cloud's address, not gateway.listen.pulsar",
                )
            )
    return mistakes


def _topic_mistakes(document: Document, model: Any) -> list[ConfigMistake]:
    mistakes = []
    seen: dict[str, str] = {}
    for name in model.topics:
        full_name = full_topic_name(name, model.defaults.namespace)
        if full_name in seen:
            mistakes.append(
                document.mistake(("topics", name), f"'{name}' is the same topic as '{seen[full_name]}'", of_key=True)
            )
        seen[full_name] = name
    return mistakes


def _listen_mistakes(document: Document, model: Any) -> list[ConfigMistake]:
    """One address can be listened on once; sensors of one type may share theirs, which their connector decides."""
    mistakes = []
    taken: dict[tuple[str, int], tuple[str, str]] = {}
    wanted: list[tuple[TreePath, str, str]] = [
        (("gateway", "listen", "pulsar"), model.gateway.listen.pulsar, "pulsar"),
        (("gateway", "listen", "http"), model.gateway.listen.http, "http"),
    ]
    for index, sensor in enumerate(model.sensors):
        if getattr(sensor, "listen", None):
            wanted.append((("sensors", index, "listen"), sensor.listen, sensor.type))
    for path, text, kind in wanted:
        host, port = _address(text)
        address = ("127.0.0.1" if host == "localhost" else host, port)
        other = taken.setdefault(address, (kind, text))
        if port and other[0] != kind:
            hint = f"{other[0]} listens there: choose another port"
            mistakes.append(document.mistake(path, f"'{text}' is taken in this file", hint=hint))
    return mistakes


def _sensor_mistakes(document: Document, model: Any) -> list[ConfigMistake]:
    """Let each connector look at its sensors together."""
    mistakes = []
    for kind, connector in load_connectors().items():
        indexes = [index for index, sensor in enumerate(model.sensors) if sensor.type == kind]
        if not indexes:
            continue
        try:
            connector.sources([model.sensors[index].settings() for index in indexes])
        except ConnectorError as error:
            mistakes.append(document.mistake(("sensors", indexes[0]), str(error), hint=error.hint))
    return mistakes
