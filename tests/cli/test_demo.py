"""The demo, as a person and as a program start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "gateway.cli", "demo", "--json", "--devices", "3"]
ENDS_WITHIN_S = 60

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name: Unix sockets are made in it."""
    with tempfile.TemporaryDirectory(prefix="hw-") as folder:
        yield Path(folder)


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    """A demo whose folders lie in a place of its own."""
    tmp_path.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def result_of(demo: subprocess.Popen[str]) -> dict[str, object]:
    """The JSON object in its last line."""
    out, errors = demo.communicate(timeout=ENDS_WITHIN_S)
    assert demo.returncode == 0, out + errors
    result: dict[str, object] = json.loads(out.splitlines()[-1])
    return result


def processes_of(tmp_path: Path) -> list[str]:
    """Command lines of processes that still run out of a demo's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(tmp_path) in command:
            found.append(command)
    return found


def test_two_demos_at_once_lose_and_double_nothing(short_path: Path) -> None:
    """Both find free ports and see their cloud cut off; both end with everything at the cloud, and leave nothing."""
    demos = [start(short_path / name, "--for", "6s") for name in ("one", "two")]
    for demo, name in zip(demos, ("one", "two"), strict=True):
        result = result_of(demo)
        assert result["missing"] == 0
        assert result["duplicated"] == 0
        assert result["entries_edge"] == result["entries_cloud"]
        events = result["events_in"]
        assert isinstance(events, dict)
        assert events["mqtt"] > 20
        assert isinstance(result["cut_seconds"], float)
        assert result["cut_seconds"] > 0
        assert isinstance(result["backlog_max"], int)
        assert result["backlog_max"] > 0
        assert list((short_path / name).iterdir()) == []
        assert processes_of(short_path / name) == []


def test_interrupted_demo_ends_cleanly(short_path: Path) -> None:
    """Ctrl-C ends the readings; what was taken still reaches the cloud, and nothing is left running."""
    demo = start(short_path)
    deadline = time.monotonic() + ENDS_WITHIN_S
    while len(processes_of(short_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    # Both gateways run, or are about to; some readings later it is enough.
    time.sleep(5)
    demo.send_signal(signal.SIGINT)
    result = result_of(demo)
    assert result["missing"] == 0
    assert processes_of(short_path) == []
    assert list(short_path.iterdir()) == []
