"""run, check, status, topics and replication, as a person and as a program uses them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE_S, RunningGateway, headwater, start_gateway


def test_status_says_how_the_gateway_is_doing(gateway: RunningGateway) -> None:
    """The same facts for a person in words and for a program as JSON."""
    facts = json.loads(gateway("status", "--json").stdout)
    assert facts["gateway"] == "hall-7"
    assert facts["addresses"] == gateway.addresses
    assert "boilers" in [sensor["name"] for sensor in facts["sensors"]]
    shown = gateway("status").stdout.decode()
    assert "gateway hall-7" in shown
    assert gateway.addresses["pulsar"] in shown


def test_topics_lists_entries_and_backlog(gateway: RunningGateway) -> None:
    """Each topic with what it stores, and how far its subscriptions are behind."""
    gateway("produce", "listed", stdin=b"1\n2\n3\n")
    gateway("consume", "listed", "-s", "slow", "--from", "earliest", "-n", "1")
    topics = {topic["name"]: topic for topic in json.loads(gateway("topics", "--json").stdout)}
    listed = topics["persistent://plant/hall7/listed"]
    assert listed["entries"] == 3
    assert [(item["name"], item["backlog_entries"]) for item in listed["subscriptions"]] == [("slow", 2)]
    assert topics["persistent://plant/hall7/parted"]["partitions"] == 2
    assert "slow (shared, backlog 2)" in gateway("topics").stdout.decode()


def test_replication_status_says_why_the_cloud_is_not_reached(gateway: RunningGateway) -> None:
    """Without a cloud the command works, and names the reason."""
    (described,) = json.loads(gateway("replication", "status", "--json").stdout)
    assert described["name"] == "cloud"
    assert described["connected"] is False
    assert "cloud to pulsar://127.0.0.1:1: not connected" in gateway("replication", "status").stdout.decode()


def test_replication_doctor_fails_without_a_cloud(gateway: RunningGateway) -> None:
    """What is wrong is a row with exit code 1; a name that is not configured is one sentence."""
    examined = gateway("replication", "doctor", "cloud")
    assert examined.returncode == 1
    assert b"BAD" in examined.stdout
    unknown = gateway("replication", "doctor", "clud")
    assert unknown.returncode == 1
    assert b"there is no replication 'clud'" in unknown.stderr
    assert b"configured: cloud" in unknown.stderr


def test_admin_commands_say_that_no_gateway_runs(tmp_path: Path) -> None:
    """Without a running gateway there is one sentence and a hint."""
    config = tmp_path / "headwater.yaml"
    config.write_text("gateway: {id: a, data_dir: data}\n")
    outcome = headwater("status", "--config", config)
    assert outcome.returncode == 1
    assert b"no gateway answers" in outcome.stderr
    assert b"headwater run" in outcome.stderr


def test_run_refuses_a_data_directory_that_is_in_use(gateway: RunningGateway) -> None:
    """The second gateway says in one sentence whose the directory is, and the first is not disturbed."""
    second = headwater("run", gateway.config)
    assert second.returncode == 1
    assert second.stdout == b""
    assert b"Traceback" not in second.stderr
    assert str(gateway.config.parent / "data") in second.stderr.decode()
    assert gateway("status").returncode == 0


def test_run_refuses_a_bad_configuration_with_exit_code_2(tmp_path: Path) -> None:
    """Mistakes are named by file, line and column, and nothing is made on the disk."""
    config = tmp_path / "headwater.yaml"
    config.write_text("gateway: {id: a, data_dir: data}\nsensor: []\n")
    outcome = headwater("run", config)
    assert outcome.returncode == 2
    assert f"{config}:2:1: 'sensor' is no setting".encode() in outcome.stderr
    assert b"did you mean 'sensors'?" in outcome.stderr
    assert not (tmp_path / "data").exists()


def test_run_refuses_a_port_in_use(gateway: RunningGateway, tmp_path: Path) -> None:
    """A port that another program has is one sentence and a hint."""
    config = tmp_path / "headwater.yaml"
    config.write_text(f"gateway: {{id: a, data_dir: data, listen: {{pulsar: '{gateway.addresses['pulsar']}'}}}}\n")
    outcome = headwater("run", config)
    assert outcome.returncode == 1
    assert f"can't listen on {gateway.addresses['pulsar']}".encode() in outcome.stderr
    assert b"Traceback" not in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_cleanly_and_keeps_what_it_acknowledged(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end it with exit code 0; the next start has everything."""
    first = start_gateway(tmp_path)
    try:
        first("produce", "kept", "-m", "x")
    finally:
        first.process.send_signal(number)
        code = first.process.wait(PATIENCE_S)
    assert code == 0
    assert not (tmp_path / "data" / "control.sock").exists()
    second = start_gateway(tmp_path)
    try:
        assert second("tail", "kept", "--from", "earliest", "--no-follow").stdout.endswith(b"  x\n")
    finally:
        second.process.terminate()
        second.process.wait(PATIENCE_S)


def test_check_tells_a_person_and_a_program(tmp_path: Path) -> None:
    """Exit code 0 and 2, in words and as JSON."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("gateway: {id: a, data_dir: data}\n")
    bad.write_text("gateway: {id: a, data_dir: data, disk_quota: 10}\n")
    assert b"is in order: gateway a" in headwater("check", good).stdout
    assert json.loads(headwater("check", good, "--json").stdout)["ok"] is True
    outcome = headwater("check", bad)
    assert outcome.returncode == 2
    assert outcome.stderr.decode() == f"{bad}:1:46: '10' needs a unit\n    hint: such as 8GiB\n"
    outcome = headwater("check", bad, "--json")
    assert outcome.returncode == 2
    (mistake,) = json.loads(outcome.stdout)["mistakes"]
    assert (mistake["line"], mistake["column"], mistake["hint"]) == (1, 46, "such as 8GiB")
    assert headwater("check").returncode == 2


def test_check_prints_a_schema() -> None:
    """The schema is JSON on standard output, ready for an editor."""
    assert json.loads(headwater("check", "--schema").stdout)["title"] == "Configuration"


def test_help_names_every_command() -> None:
    """Every command has a word of explanation, and none fails to load."""
    shown = headwater("--help").stdout.decode()
    for command in ("run", "demo", "check", "status", "topics", "produce", "consume", "tail", "replication", "sim"):
        assert f"\n  {command} " in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    """The script asks the command itself, so that it never grows old."""
    script = headwater("completion", shell)
    assert script.returncode == 0
    assert b"_HEADWATER_COMPLETE" in script.stdout


def test_sim_hands_its_arguments_to_the_simulator() -> None:
    """`headwater sim` is the simulator's own command line, its help and exit codes included."""
    helped = headwater("sim", "thermometer", "--help")
    assert helped.returncode == 0
    assert b"--fault" in helped.stdout
    assert headwater("sim", "nonsense").returncode == 2


def test_sim_reaches_the_listener(gateway: RunningGateway) -> None:
    """A simulated device's readings are in the log when it says that they were acknowledged."""
    host, port = gateway.addresses["mqtt"].split(":")
    outcome = headwater(
        "sim", "thermometer", "--host", host, "--port", port, "--count", "5", "--interval", "0", "--json"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["acknowledged"] == 5
    lines = gateway("tail", "temperature", "--from", "earliest", "--no-follow", "--json").stdout.splitlines()
    assert len(lines) == 5
    assert json.loads(lines[0])["properties"]["source"] == "boilers"
