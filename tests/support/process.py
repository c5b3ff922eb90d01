"""Child processes of tests: started in a group of their own, watched until ready, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_S = 0.05
STOP_TIMEOUT_S = 20.0


class Child:
    """One process and its group."""

    def __init__(
        self, arguments: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, pipe: bool = False
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else output,
                stderr=output,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
            )

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll until `ready` says so. Fails with the process's last words."""
        deadline = time.monotonic() + timeout_s
        try:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise AssertionError(f"{self.process.args} ended with {self.process.returncode}:\n{self.tail()}")
                with contextlib.suppress(OSError):
                    if ready():
                        return
                time.sleep(POLL_S)
            raise AssertionError(f"{self.process.args} was not ready after {timeout_s} s:\n{self.tail()}")
        except BaseException:
            # Interrupted tests leave nothing behind either.
            self.kill()
            raise

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> int:
        """SIGTERM, wait, then kill."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """A field of /proc/PID/status, such as VmRSS or VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise AssertionError(field)


def device_bytes(pid: int) -> int:
    """Bytes that a process caused to be written to the device."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise AssertionError("write_bytes")
