"""The command line, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_sim.cli import main
from tests.firmware_sim.broker import Broker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


def run(broker: Broker, *arguments: str) -> int:
    return main([*arguments, "--port", str(broker.port)])


def start(broker: Broker, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "firmware-sim")}
    return subprocess.Popen(
        [sys.executable, "-m", "firmware_sim", *arguments, "--port", str(broker.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_thermometers_publish_their_readings(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """Several devices, each under its name and topic; the summary is one JSON object."""
    assert run(broker, "thermometer", "--devices", "3", "--interval", "0", "--count", "50", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["devices"], summary["published"], summary["acknowledged"]) == (3, 150, 150)
    assert sorted(broker.client_ids) == ["thermometer-1", "thermometer-2", "thermometer-3"]
    assert "boiler/thermometer-2/temp" in broker.topics
    first = [json.loads(payload) for payload in broker.payloads if b'"thermometer-1"' in payload]
    assert [reading["seq"] for reading in first] == list(range(50))


def test_thermometers_of_one_seed_repeat_themselves(broker: Broker) -> None:
    """The default start time is fixed, so that two runs send the same bytes."""
    arguments = ("thermometer", "--interval", "0", "--count", "100", "--seed", "5", "--fault", "all", "--json")
    assert run(broker, *arguments) == 0
    first = broker.payloads[:]
    broker.payloads.clear()
    assert run(broker, *arguments) == 0
    assert broker.payloads == first


def test_replay_sends_a_file_and_keeps_a_ledger(broker: Broker, tmp_path: Path) -> None:
    """Each row arrives once, in order, and is in the ledger."""
    path = tmp_path / "r.csv"
    path.write_text("timestamp,value\n" + "".join(f"2026-01-01 00:00:{i:02},{i}\n" for i in range(60)))
    assert run(broker, "replay", str(path), "--acked", str(tmp_path / "acked"), "--in-flight", "7", "--json") == 0
    assert [json.loads(payload)["c"] for payload in broker.payloads] == list(range(60))
    assert (tmp_path / "acked").read_bytes().splitlines() == broker.payloads


def test_replay_fails_at_a_row_that_it_can_not_read(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence with file and line, exit code 1."""
    path = tmp_path / "r.csv"
    path.write_text("timestamp,value\n2026-01-01 00:00:00,1\nrubbish\n")
    assert run(broker, "replay", str(path), "--json") == 1
    assert f"{path}:3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "/does/not/exist.csv"),
        ("thermometer", "--fault", "gremlins"),
        ("thermometer", "--devices", "0"),
        ("thermometer", "--devices", "2", "--name", "same"),
        ("thermometer", "--rate", "0"),
        ("thermometer", "--in-flight", "5000"),
        ("thermometer", "--start", "yesterday"),
        (),
    ],
)
def test_wrong_arguments_end_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence on standard error, nothing sent."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_control_c_ends_cleanly(broker: Broker) -> None:
    """Everything sent is acknowledged, the summary is printed, no traceback, exit code 0."""
    process = start(broker, "thermometer", "--interval", "0.01", "--json")
    broker.wait(5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, ""), output
    summary = json.loads(output)
    assert summary["published"] == summary["acknowledged"] >= 5


def test_control_c_without_acknowledgements_ends_with_1(broker: Broker) -> None:
    """Who runs it learns that something is not known to have arrived."""
    broker.acknowledging = False
    process = start(broker, "thermometer", "--interval", "0.01", "--grace", "0", "--json")
    broker.wait(2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (1, "")
    assert json.loads(output)["acknowledged"] == 0


def test_simulator_imports_nothing_of_the_gateway() -> None:
    """It must not agree with our mistakes."""
    code = (
        "import sys, firmware_sim.cli; "
        "print([name for name in sys.modules if name.split('.')[0] in ('gateway', 'connectors')])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "firmware-sim")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"
