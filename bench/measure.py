"""What all benches share: rounds and their medians, CPU per message, and a table that names the machine."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import cpu_seconds, device_bytes


def arguments(description: str) -> argparse.Namespace:
    """`--quick` and `--rounds`, which every bench has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, one round: does it run at all?")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default: 3)")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder on the device under test: in BENCH_DIR, else in this repository. The system's own may be memory."""
    place = Path(os.environ.get("BENCH_DIR", Path(__file__).resolve().parents[1] / ".cache" / "bench"))
    place.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="b", dir=place)


@dataclass(frozen=True, slots=True)
class Load:
    """What one round cost the server."""

    messages: int
    seconds: float
    cpu_s: float
    device_bytes: int

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU per message in microseconds."""
        return self.cpu_s / self.messages * 1e6

    @property
    def cores(self) -> float:
        """Cores that were busy."""
        return self.cpu_s / self.seconds

    @property
    def bytes_per_message(self) -> float:
        return self.device_bytes / self.messages


def measure(pid: int, messages: int, work: Callable[[], None]) -> Load:
    """Do `work`, and see what it costs the process `pid`."""
    cpu, written, started = cpu_seconds(pid), device_bytes(pid), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return Load(messages, seconds, cpu_seconds(pid) - cpu, device_bytes(pid) - written)


def median(loads: Sequence[Load], figure: Callable[[Load], float]) -> float:
    return statistics.median(figure(load) for load in loads)


def title(text: str) -> None:
    """The bench, the day and the machine."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    print(f"# {text}")
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {model}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need."""
    cells = [[f"{cell:,.2f}" if isinstance(cell, float) else f"{cell}" for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(head), *cells]) for column in range(len(head))]
    for line in [list(head), *cells]:
        print(
            "  ".join(
                part.rjust(width) if column else part.ljust(width)
                for column, (part, width) in enumerate(zip(line, widths, strict=True))
            )
        )
    print(flush=True)
