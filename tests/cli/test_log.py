"""`headwater log repair` on a log whose state records were damaged on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.gateway import GatewayRig


def headwater(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_repair_lets_a_damaged_log_start_and_names_what_it_gave_up(tmp_path: Path) -> None:
    """Before: `run` refuses and names the command. After: the gateway starts, and says what is lost."""
    rig = GatewayRig(tmp_path)
    with rig:
        for topic in ("a", "b", "c"):
            outcome = headwater("produce", topic, "-m", "x", "--service-url", rig.service_url)
            assert outcome.returncode == 0, outcome.stderr
        rig.kill()
    # The views are lost as well, so the journal is all there is; a byte of its first group, a topic's record, flips.
    for views in rig.data_dir.glob("*.sqlite*"):
        views.unlink()
    segment = min((rig.data_dir / "journal").iterdir())
    data = bytearray(segment.read_bytes())
    data[4096 + 128 + 16 + 8] ^= 0xFF
    segment.write_bytes(data)
    refused = headwater("run", rig.file)
    assert refused.returncode == 1
    assert "headwater log repair" in refused.stderr
    repaired = headwater("log", "repair", "--config", rig.file, "--yes", "--json")
    assert repaired.returncode == 0, repaired.stderr
    assert json.loads(repaired.stdout)["damages"]
    with rig:
        assert rig.status()["log"]["state"] == "open"


def test_repair_refuses_the_log_of_a_running_gateway(tmp_path: Path) -> None:
    """The data directory is locked."""
    with GatewayRig(tmp_path) as rig:
        outcome = headwater("log", "repair", "--config", rig.file, "--yes")
        assert outcome.returncode == 1
        assert "running" in outcome.stderr or "another" in outcome.stderr
