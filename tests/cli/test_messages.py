"""produce, consume and tail against a running gateway."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE_S, RunningGateway, environment, headwater

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z (\d+:\d+:-1)(?: (\S+))?  (.*)")


def test_tail_shows_a_person_time_id_key_and_text(gateway: RunningGateway) -> None:
    """Text is printed as it is, with what identifies the message in front."""
    produced = gateway("produce", "seen", "-m", "21.5 °C", "-k", "boiler-1")
    assert produced.returncode == 0, produced.stderr
    assert b"1 message is durable" in produced.stdout
    shown = gateway("tail", "seen", "--from", "earliest", "--no-follow").stdout.decode().rstrip("\n")
    match = LINE.fullmatch(shown)
    assert match is not None, shown
    assert match[2] == "boiler-1"
    assert match[3] == "21.5 °C"


def test_tail_shows_binary_as_hexadecimal_and_never_steers_the_terminal(gateway: RunningGateway) -> None:
    """Bytes that are no text appear as their size and first bytes; an escape sequence is not passed through."""
    gateway(
        "produce",
        "binary",
        stdin=bytes(range(128, 178)) + b"\n\x1b[2J\n",
    )
    first, second = gateway("tail", "binary", "--from", "earliest", "--no-follow").stdout.decode().splitlines()
    assert "[50 bytes] 80 81 82" in first
    assert first.endswith("9f …")
    assert second.endswith("[4 bytes] 1b 5b 32 4a")


def test_tail_gives_a_program_one_json_object_a_line(gateway: RunningGateway) -> None:
    """With --json a payload arrives unchanged: as text if it is UTF-8, else as base64."""
    gateway(
        "produce", "objects", "-k", "k", "-p", "unit=C", "-p", "empty=", stdin='{"c": "°"}\n'.encode() + b"\xff\x00\n"
    )
    lines = gateway("tail", "objects", "--from", "earliest", "--no-follow", "--json").stdout.splitlines()
    text, binary = (json.loads(line) for line in lines)
    assert text["payload"] == '{"c": "°"}'
    assert text["key"] == "k"
    assert text["properties"] == {"unit": "C", "empty": ""}
    assert text["topic"] == "persistent://plant/hall7/objects"
    assert base64.b64decode(binary["payload_base64"]) == b"\xff\x00"


def test_produce_sends_each_line_of_standard_input_in_order(gateway: RunningGateway) -> None:
    """Lines become messages in order, also across the ends of what is read at once; the last needs no line end."""
    lines = [f"line {number} {'.' * 90}".encode() for number in range(2_500)]
    produced = gateway("produce", "lines", "--json", stdin=b"\n".join(lines))
    assert json.loads(produced.stdout)["messages"] == 2_500
    received = gateway("consume", "lines", "-s", "s", "--from", "earliest", "-n", "2500", "--json").stdout.splitlines()
    assert [json.loads(line)["payload"].encode() for line in received] == lines


def test_produce_reads_standard_input_from_a_file(gateway: RunningGateway, tmp_path: Path) -> None:
    """A regular file, which no event loop can watch, is read all the same."""
    file = tmp_path / "lines"
    file.write_bytes(b"a\r\nb\n")
    with file.open("rb") as stdin:
        command = [sys.executable, "-m", "gateway.cli", "produce", "file", "--config", str(gateway.config)]
        subprocess.run(command, stdin=stdin, check=True, timeout=PATIENCE_S, capture_output=True)
    received = gateway("tail", "file", "--from", "earliest", "--no-follow", "--json").stdout.splitlines()
    assert [json.loads(line)["payload"] for line in received] == ["a", "b"]


def test_produce_sends_a_line_before_the_next_one_comes(gateway: RunningGateway) -> None:
    """A slow program's line is durable while the pipe stays open, and Ctrl-C ends the command at once."""
    command = [sys.executable, "-m", "gateway.cli", "produce", "slow", "--config", str(gateway.config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as producing:
        assert producing.stdin is not None
        producing.stdin.write(b"first\n")
        producing.stdin.flush()
        received = gateway("tail", "slow", "--from", "earliest", "-n", "1", "--json")
        assert json.loads(received.stdout)["payload"] == "first"
        producing.send_signal(signal.SIGINT)
        assert producing.wait(PATIENCE_S) == 130
        assert producing.stderr is not None
        assert b"Traceback" not in producing.stderr.read()


def test_produce_with_a_name_is_stored_once(gateway: RunningGateway) -> None:
    """A producer's name goes on where it ended: its second run is not taken for a repetition."""
    for text in ("one", "two"):
        gateway("produce", "named", "--name", "plc-1", "-m", text)
    lines = gateway("tail", "named", "--from", "earliest", "--no-follow", "--json").stdout.splitlines()
    assert [(json.loads(line)["payload"], json.loads(line)["sequence_id"]) for line in lines] == [
        ("one", 0),
        ("two", 1),
    ]


def test_consume_goes_on_where_the_subscription_ended(gateway: RunningGateway) -> None:
    """What was printed is acknowledged: nobody sees it again under that subscription."""
    gateway("produce", "queue", stdin=b"1\n2\n3\n")
    first = gateway("consume", "queue", "-s", "work", "--from", "earliest", "-n", "2", "--json")
    rest = gateway("consume", "queue", "-s", "work", "-n", "0", "--timeout", "0.5", "--json")
    assert [json.loads(line)["payload"] for line in first.stdout.splitlines()] == ["1", "2"]
    assert [json.loads(line)["payload"] for line in rest.stdout.splitlines()] == ["3"]
    assert rest.returncode == 1
    assert b"nothing came for 0.5 s" in rest.stderr


def test_tail_of_a_closed_pipe_ends_quietly(gateway: RunningGateway) -> None:
    """`headwater tail … | head` is an ordinary end: exit code 0 and not a word."""
    gateway("produce", "piped", "-m", "x", "-n", "500")
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "tail",
        "piped",
        "--from",
        "earliest",
        "--config",
        str(gateway.config),
    ]
    try:
        outcome = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    finally:
        os.close(writing)
    assert (outcome.returncode, outcome.stderr) == (0, b"")


def test_tail_ends_with_ctrl_c_without_a_traceback(gateway: RunningGateway) -> None:
    """Ctrl-C is how a person ends it: exit code 130, no traceback."""
    gateway("produce", "endless", "-m", "x")
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "tail",
        "endless",
        "--from",
        "earliest",
        "--config",
        str(gateway.config),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=environment()) as tailing:  # type: ignore[call-overload]
        tailing.stdout.readline()
        tailing.send_signal(signal.SIGINT)
        assert tailing.wait(PATIENCE_S) == 130
        assert b"Traceback" not in tailing.stderr.read()


def test_commands_find_the_gateway_by_option_and_environment(gateway: RunningGateway) -> None:
    """--service-url goes before HEADWATER_URL; neither needs a file, and short names are public/default's."""
    by_option = headwater(
        "produce",
        "found",
        "-m",
        "a",
        "--service-url",
        gateway.url,
        env=environment(HEADWATER_URL="pulsar://127.0.0.1:1"),
    )
    by_environment = headwater("produce", "found", "-m", "b", env=environment(HEADWATER_URL=gateway.url))
    assert by_option.returncode == by_environment.returncode == 0, by_environment.stderr
    tailed = gateway("tail", "persistent://public/default/found", "--from", "earliest", "--no-follow", "--json")
    assert [json.loads(line)["payload"] for line in tailed.stdout.splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tail", "t", "--service-url", "pulsar://127.0.0.1:1"], 1, "headwater run FILE"),
        (["tail", "t", "--service-url", "http://127.0.0.1:1"], 1, "not a service URL"),
        (["tail", "t", "--service-url", "pulsar://127.0.0.1:x"], 1, "not a service URL"),
        (["tail", "t", "--config", "missing.yaml"], 2, "missing.yaml: can't be read"),
        (["tail", "t", "--token-file", "missing", "--service-url", "pulsar://127.0.0.1:1"], 1, "missing"),
        (["produce", "t", "-p", "x", "-m", "y"], 2, "KEY=VALUE"),
        (["produce", "t", "-n", "2"], 2, "-n repeats"),
        (["produce"], 2, "Missing argument"),
        (["consume", "t"], 2, "--subscription"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_commands_say_in_one_sentence_what_is_wrong(arguments: list[str], code: int, words: str) -> None:
    """A mistake is answered with its reason on standard error and the right exit code, never with a traceback."""
    outcome = headwater(*arguments)
    assert outcome.returncode == code
    assert outcome.stdout == b""
    assert words in outcome.stderr.decode()
    assert b"Traceback" not in outcome.stderr


def test_broker_refusals_reach_the_user_with_their_hint(gateway: RunningGateway) -> None:
    """A partitioned topic is refused by name, with a partition to use instead."""
    refused = gateway("tail", "parted")
    assert refused.returncode == 1
    assert b"has 2 partitions" in refused.stderr
    assert b"parted-partition-0" in refused.stderr
    gateway("produce", "parted-partition-1", "-m", "x")
    assert gateway("tail", "parted-partition-1", "--from", "earliest", "--no-follow").stdout.endswith(b"  x\n")
