"""Each file of `examples/` is run as it is, on free ports, and does what its first lines promise."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE_S, environment, headwater

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., tuple[Path, dict[str, str]]]


@pytest.fixture
def run_example(tmp_path: Path) -> Iterator[Run]:
    """Starts an example on free ports; returns its copy and its addresses by the words of the ready line."""
    (tmp_path / "examples").mkdir()
    running: list[subprocess.Popen[str]] = []

    def run(name: str, **replaced: str) -> tuple[Path, dict[str, str]]:
        text = re.sub(r'"127\.0\.0\.1:\d+"', '"127.0.0.1:0"', (EXAMPLES / name).read_text())
        for old, new in replaced.items():
            assert re.search(old, text), f"{name} has no {old}"
            text = re.sub(rf"{old}: .*", f"{old}: {new}", text)
        copy = tmp_path / "examples" / name
        copy.write_text(text)
        command = [sys.executable, "-m", "gateway.cli", "run", str(copy)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        running.append(process)
        assert process.stdout is not None
        ready, *addresses = process.stdout.readline().split() or [""]
        assert ready == "ready", name
        return copy, dict(address.split("=") for address in addresses)

    yield run
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
    assert [process.wait(PATIENCE_S) for process in running] == [0] * len(running)


def test_every_example_is_run_here() -> None:
    """An example that is added gets a test that runs it."""
    assert {path.name for path in EXAMPLES.glob("*")} == {"first.yaml", "edge.yaml", "cloud.yaml"}


def test_first_example_takes_readings_in_and_hands_them_out(run_example: Run) -> None:
    """The smallest gateway: a device's readings come out at a Pulsar client with the key that the file promises."""
    config, addresses = run_example("first.yaml")
    port = addresses["mqtt"].rpartition(":")[2]
    simulated = headwater("sim", "thermometer", "--port", port, "--count", "3", "--interval", "0")
    assert simulated.returncode == 0, simulated.stderr
    lines = headwater("tail", "temperature", "--from", "earliest", "-n", "3", "--json", "--config", config).stdout
    messages = [json.loads(line) for line in lines.splitlines()]
    assert [message["key"] for message in messages] == ["thermometer-1"] * 3
    assert {message["topic"] for message in messages} == {"persistent://plant/hall7/temperature"}


def test_edge_example_reaches_the_cloud_example(run_example: Run) -> None:
    """What is published at the edge arrives under the gateway's name at the second gateway, which plays the cloud."""
    cloud, cloud_addresses = run_example("cloud.yaml")
    edge, edge_addresses = run_example("edge.yaml", service_url=f'"pulsar://{cloud_addresses["pulsar"]}"')
    assert "mqtt" in edge_addresses
    produced = headwater("produce", "alarms", "-m", "too hot", "-k", "boiler-1", "--config", edge)
    assert produced.returncode == 0, produced.stderr
    received = headwater(
        *("consume", "plant/hall-7/alarms", "-s", "watch", "--from", "earliest", "--timeout", str(PATIENCE_S // 2)),
        *("--json", "--config", cloud),
    )
    assert received.returncode == 0, received.stderr
    message = json.loads(received.stdout)
    assert (message["payload"], message["key"]) == ("too hot", "boiler-1")
