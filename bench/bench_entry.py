"""Where the CPU goes from SEND to durable receipt, per unbatched 100-byte entry: this gateway under a profiler, and
without one.

The shares of the event loop's thread come from a profiled run, the thread's CPU from unprofiled ones; together they say
what each part costs. The log's other threads (compressing, writing, syncing) are a row of their own.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import subprocess
import sys
import threading
from pathlib import Path

from bench.bench_produce import raw
from bench.measure import arguments, measure, median, scratch, table, title
from tests.support.gateway import GatewayRig

MESSAGES = 200_000
PARTS = {
    "framing": ("wire/frames.py", "wire/connection.py:receive_data", "FromString", "value"),
    "parsing": ("wire/entry.py",),
    "broker": ("broker/",),
    "log": ("log/", "metadata/"),
    "receipts": ("wire/connection.py:send_receipt", "SerializeToString"),
}


def main() -> None:
    options = arguments(__doc__ or "")
    messages = MESSAGES // (10 if options.quick else 1)
    title("CPU per unbatched 100-byte entry, SEND to durable receipt")
    with scratch() as folder:
        with GatewayRig(Path(folder) / "plain") as gateway:
            raw(gateway.service_url, messages // 10)
            before = loop_cpu_seconds(gateway.pid)
            loads = [
                measure(gateway.pid, messages, lambda: raw(gateway.service_url, messages))
                for _ in range(options.rounds)
            ]
            loop = (loop_cpu_seconds(gateway.pid) - before) / (messages * options.rounds) * 1e6
        total = median(loads, lambda load: load.cpu_us)
        shares = profile(Path(folder) / "profiled", messages)
    rows: list[list[object]] = [[part, share * 100, share * loop] for part, share in shares.items()]
    rows += [["the log's other threads", "", total - loop], ["all of it", "", total]]
    table(["part", "share of the loop's time, %", "µs"], rows)


def loop_cpu_seconds(pid: int) -> float:
    """CPU of the main thread, which is the event loop's."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def profile(folder: Path, messages: int) -> dict[str, float]:
    """The parts' shares of the event loop's own time, in a gateway that runs under cProfile."""
    rig = GatewayRig(folder)
    rig.start()
    rig.stop()
    stats_file = folder / "profile"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.bench_entry", "--serve", str(rig.file), str(stats_file)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    raw(rig.service_url, messages)
    process.terminate()
    process.wait(30)
    stats = pstats.Stats(str(stats_file))
    spent: dict[str, float] = dict.fromkeys([*PARTS, "rest"], 0.0)
    for (file, _, function), (_, _, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        place = f"{file}:{function}"
        if "poll" in function:
            continue
        part = next((part for part, marks in PARTS.items() if any(mark in place for mark in marks)), "rest")
        spent[part] += own
    whole = sum(spent.values())
    return {part: seconds / whole for part, seconds in spent.items()}


def serve(file: str, stats_file: str) -> None:
    """Run the daemon in this process under the profiler; the profiler sees the event loop's thread only."""
    from gateway import daemon

    assert threading.current_thread() is threading.main_thread()
    profiler = cProfile.Profile()
    profiler.runcall(daemon.run, Path(file))
    profiler.dump_stats(stats_file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:4])
    else:
        main()
