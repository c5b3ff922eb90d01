"""A freshly started gateway with one MQTT sensor and nothing to do: memory, CPU, and what the start costs."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench.measure import arguments, scratch, table, title
from tests.support.gateway import GatewayRig
from tests.support.process import cpu_seconds, memory_mib

IDLE_S = 20.0


def main() -> None:
    options = arguments(__doc__ or "")
    title("an idle gateway with one MQTT sensor")
    idle_s = 2.0 if options.quick else IDLE_S
    starts, memories, loads = [], [], []
    with scratch() as folder:
        for number in range(options.rounds):
            gateway = GatewayRig(Path(folder) / str(number))
            gateway.add_mqtt(name="boilers", subscribe=["boiler/#"], topic="temperature")
            with gateway:
                starts.append(children_cpu(gateway.pid))
                before, began = cpu_seconds(gateway.pid), time.monotonic()
                time.sleep(idle_s)
                loads.append((cpu_seconds(gateway.pid) - before) / (time.monotonic() - began) * 100)
                memories.append(memory_mib(gateway.pid))
    table(
        ["figure", "goal", "measured"],
        [
            ["RSS, MiB", "62", statistics.median(memories)],
            ["CPU, % of a core", "1", statistics.median(loads)],
            ["start to ready, s of CPU, the child that reads the file included", "0.8", statistics.median(starts)],
        ],
    )


def children_cpu(pid: int) -> float:
    """CPU of a process and of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return cpu_seconds(pid) + (int(fields[13]) + int(fields[14])) / 100


if __name__ == "__main__":
    main()
