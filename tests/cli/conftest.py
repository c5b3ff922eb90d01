"""A real gateway and the real command line, as separate processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE_S = 60
"""After this long a process of a test counts as hanging."""
CONFIGURATION = """\
gateway: {id: hall-7, data_dir: data, disk_quota: 64MiB, listen: {pulsar: "127.0.0.1:0", http: "127.0.0.1:0"}}
defaults: {namespace: plant/hall7}
topics:
  parted: {partitions: 2}
sensors:
  - {name: boilers, type: mqtt, listen: "127.0.0.1:0", subscribe: ["boiler/+/temp"], topic: temperature}
replication:
  - {name: cloud, service_url: "pulsar://127.0.0.1:1", namespaces: [plant/hall7]}
"""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would lead a command to some other gateway."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER")}
    return {**kept, **more}


def headwater(
    *arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        env=env or environment(),
    )


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that serves."""

    config: Path
    process: subprocess.Popen[str]
    addresses: dict[str, str]
    """By the words of its ready line."""

    @property
    def url(self) -> str:
        return f"pulsar://{self.addresses['pulsar']}"

    def __call__(self, command: str, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command that finds this gateway by its configuration."""
        return headwater(command, *arguments, "--config", self.config, stdin=stdin)


def start_gateway(folder: Path) -> RunningGateway:
    """Start `headwater run` and wait for its ready line."""
    config = folder / "headwater.yaml"
    config.write_text(CONFIGURATION)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "run", str(config)],
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    ready, *addresses = process.stdout.readline().split() or [""]
    assert ready == "ready", (folder / "stderr").read_text()
    return RunningGateway(config, process, dict(address.split("=") for address in addresses))


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One gateway for all tests of the command line; each test has topics of its own."""
    running = start_gateway(tmp_path_factory.mktemp("gateway"))
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(PATIENCE_S)
    assert code == 0, (running.config.parent / "stderr").read_text()
