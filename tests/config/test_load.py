"""A file becomes the settings that the packages own, in this process or in a child."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from connectors.mqtt.sensor import BatchBy, MqttSettings
from gateway.broker.settings import NamespacePolicy, TopicPolicy
from gateway.config.load import load, load_in_child
from gateway.config.settings import Address
from gateway.errors import ConfigError
from gateway.replication.settings import ReplicationSettings

TEXT = """\
gateway: {id: hall-7, data_dir: data, disk_quota: 64MiB, listen: {pulsar: "[::1]:6650", http: "localhost:0"}}
defaults: {namespace: plant/hall7}
namespaces:
  plant/hall7: {commit_interval: 250ms, deduplication: false}
topics:
  alarms: {commit_interval: 0ms}
  many: {partitions: 4}
sensors:
  - {name: boilers, type: mqtt, listen: "127.0.0.1:1883", subscribe: ["boiler/+/temp", "x/#"], topic: t,
     key: "{level[1]}", format: json, batch: key}
replication:
  - {name: cloud, service_url: "pulsar+ssl://c:6651", namespaces: [plant/hall7], token_file: token,
     topic: "persistent://plant/{gateway.id}/{topic}", admin_url: "https://c:8443"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "headwater.yaml"
    path.write_text(TEXT)
    return path


def test_load_builds_the_settings_of_every_package(file: Path) -> None:
    """Each value of the file arrives in the unit and type of the package that it configures."""
    settings = load(file)
    assert settings.gateway_id == "hall-7"
    assert settings.log.data_dir == file.parent / "data"
    assert settings.log.quota_bytes == 64 << 20
    assert settings.pulsar == Address("::1", 6650)
    assert settings.http == Address("127.0.0.1", 0)
    assert settings.broker.namespaces == {"plant/hall7": NamespacePolicy(250_000_000, False)}
    assert settings.broker.topics == {
        "persistent://plant/hall7/alarms": TopicPolicy(0, 0),
        "persistent://plant/hall7/many": TopicPolicy(None, 4),
    }
    assert settings.sensors == {
        "mqtt": (
            MqttSettings(
                name="boilers",
                listen="127.0.0.1:1883",
                subscribe=("boiler/+/temp", "x/#"),
                topic="t",
                key="{level[1]}",
                format="json",
                batch=BatchBy.key,
            ),
        )
    }
    assert settings.replications == (
        ReplicationSettings(
            name="cloud",
            gateway_id="hall-7",
            service_url="pulsar+ssl://c:6651",
            namespaces=("plant/hall7",),
            topic="persistent://plant/{gateway.id}/{topic}",
            admin_url="https://c:8443",
            token_file=str(file.parent / "token"),
        ),
    )


def test_child_returns_the_same_settings(file: Path) -> None:
    """The daemon, which reads through a child, gets exactly what the command line gets."""
    settings = load_in_child(file)
    assert settings == load(file)
    assert type(settings.sensors["mqtt"][0].batch) is BatchBy


def test_child_returns_the_same_mistakes(file: Path) -> None:
    """A mistake found in the child keeps its place and hint."""
    file.write_text(TEXT.replace("250ms", "250").replace("partitions", "partition"))
    with pytest.raises(ConfigError) as in_process:
        load(file)
    with pytest.raises(ConfigError) as in_child:
        load_in_child(file)
    assert in_child.value.mistakes == in_process.value.mistakes
    assert len(in_child.value.mistakes) == 2


def test_load_names_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    """A missing file and a directory are mistakes without a line."""
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="can't be read") as caught:
            load(path)
        assert (caught.value.mistakes[0].line, caught.value.mistakes[0].file) == (0, str(path))


def test_load_names_the_place_of_a_byte_that_is_not_utf8(file: Path) -> None:
    """A file in another encoding is refused at the first byte that shows it."""
    file.write_bytes(b"gateway:\n  id: M\xfcnchen\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert (caught.value.mistakes[0].line, caught.value.mistakes[0].column) == (2, 8)


def test_load_ignores_a_byte_order_mark(file: Path) -> None:
    """What some editors put at the beginning is no part of the first key."""
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load(file).gateway_id == "hall-7"


def test_daemon_learns_when_the_reading_child_dies(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that was killed is a mistake with the file's name, never half a configuration."""
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nprintf '{\"gateway_id\":'\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(killer))
    with pytest.raises(ConfigError, match="ended with -9"):
        load_in_child(file)


def test_child_reads_with_this_program_wherever_it_was_started(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that happens to hold a `json.py` or a `gateway` of somebody's own does not take part."""
    (tmp_path / "gateway").mkdir()
    for name in ("json.py", "yaml.py", "gateway/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('not the one that was meant')\n")
    monkeypatch.chdir(tmp_path)
    assert load_in_child(file) == load(file)
