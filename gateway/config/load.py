"""From a YAML file to `Settings`: all mistakes at once, each with its line, column and a hint.

The daemon calls `load_in_child`: a short-lived process reads and checks the file and hands back plain JSON, so that
pydantic and PyYAML never enter the daemon, whose memory has better uses: 42 MiB instead of 50 (`docs/decisions/0003`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gateway.broker.settings import BrokerSettings, NamespacePolicy, TopicPolicy
from gateway.config.settings import Address, Settings
from gateway.errors import ConfigError, ConfigMistake
from gateway.log import LogSettings
from gateway.names import TopicName
from gateway.replication.settings import ReplicationSettings

CHILD_TIMEOUT_S = 60


def load(path: Path) -> Settings:
    """Read and check a file. Raises: ConfigError."""
    return build(describe(path))


def load_in_child(path: Path) -> Settings:
    """As `load`, without importing what reading a file needs. Raises: ConfigError."""
    # -P: a `json.py` or a `gateway` in the folder where this was started is not to take part.
    command = [sys.executable, "-P", "-m", "gateway.config", str(path)]
    try:
        outcome = subprocess.run(command, capture_output=True, timeout=CHILD_TIMEOUT_S, check=False)
        answer = json.loads(outcome.stdout)
    except subprocess.TimeoutExpired:
        message = f"was not read within {CHILD_TIMEOUT_S} s"
        raise ConfigError(
            [ConfigMistake(message, str(path), 0, 0, "try again when the machine is less busy")]
        ) from None
    except ValueError:
        # The child died: killed for want of memory, or a fault of our own, which its last line names.
        lines = outcome.stderr.decode(errors="replace").strip().splitlines()
        message = f"can't be read: {lines[-1] if lines else f'the reading process ended with {outcome.returncode}'}"
        raise ConfigError([ConfigMistake(message, str(path), 0, 0)]) from None
    if "mistakes" in answer:
        raise ConfigError([ConfigMistake(**mistake) for mistake in answer["mistakes"]])
    return build(answer)


def describe(path: Path) -> dict[str, Any]:
    """Read and check a file; the result is plain data that `build` understands. Raises: ConfigError."""
    from gateway.config.check import check_text

    file = str(path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        hint = "give the path of a YAML file"
        raise ConfigError([ConfigMistake(f"can't be read: {error.strerror or error}", file, 0, 0, hint)]) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(
            [ConfigMistake("a byte that is not UTF-8", file, line, column, "save it as UTF-8")]
        ) from error
    return check_text(text, file)


def build(described: dict[str, Any]) -> Settings:
    """The settings from plain data as `describe` returns it."""
    log = described["log"]
    broker = described["broker"]
    return Settings(
        gateway_id=described["gateway_id"],
        log=LogSettings.for_quota(Path(log["data_dir"]), log["quota_bytes"]),
        broker=BrokerSettings(
            {name: NamespacePolicy(**policy) for name, policy in broker["namespaces"].items()},
            {name: TopicPolicy(**policy) for name, policy in broker["topics"].items()},
        ),
        pulsar=Address(*described["pulsar"]),
        http=Address(*described["http"]),
        default_namespace=described["default_namespace"],
        sensors={kind: tuple(_rebuild(sensor) for sensor in sensors) for kind, sensors in described["sensors"].items()},
        replications=tuple(
            ReplicationSettings(**{**item, "namespaces": tuple(item["namespaces"])})
            for item in described["replications"]
        ),
    )


def as_plain(settings: Any) -> dict[str, Any]:
    """A connector's frozen settings as plain data, with the class to build them again by."""
    return {"class": f"{type(settings).__module__}:{type(settings).__qualname__}", "values": asdict(settings)}


def _rebuild(plain: dict[str, Any]) -> Any:
    """A connector's settings again: lists become tuples, words members of an enumeration where the default is one."""
    module_name, class_name = plain["class"].split(":")
    kind = getattr(importlib.import_module(module_name), class_name)
    values = {}
    for field in fields(kind):
        value = plain["values"][field.name]
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and isinstance(field.default, str) and type(field.default) is not str:
            value = type(field.default)(value)
        values[field.name] = value
    return kind(**values)


def full_topic_name(text: str, default_namespace: str) -> str:
    """A topic name of the file, in full."""
    return str(TopicName.parse(text, default_namespace=default_namespace))
