"""`make torture HOURS=8`: crash states for as long as one likes, counted per commit in `.cache/torture.json`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ROOT / ".cache" / "torture.json"
STATES_PER_ROUND = 100_000


def main() -> int:
    deadline = time.monotonic() + float(sys.argv[1]) * 3600
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    name = commit.stdout.strip()
    COUNTS.parent.mkdir(exist_ok=True)
    counts = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    while time.monotonic() < deadline:
        seed = str(secrets.randbelow(2**32))
        environment = {**os.environ, "HEADWATER_CRASH_STATES": str(STATES_PER_ROUND), "HEADWATER_SEED": seed}
        outcome = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--timeout", "0", "tests/crash/test_crash_states.py"],
            cwd=ROOT,
            env=environment,
            check=False,
        )
        if outcome.returncode:
            print(f"failed with HEADWATER_CRASH_STATES={STATES_PER_ROUND} HEADWATER_SEED={seed}", file=sys.stderr)
            return outcome.returncode
        counts[name] = counts.get(name, 0) + STATES_PER_ROUND
        COUNTS.write_text(json.dumps(counts))
        print(f"{name}: {counts[name]:,} crash states without a lost, reordered or invented entry", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
