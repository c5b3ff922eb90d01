"""The real gateway as a child process: `headwater run FILE`."""

from __future__ import annotations

import json
import selectors
import sys
import time
from pathlib import Path
from typing import Any

from gateway.cli.control import ControlClient
from gateway.errors import GatewayError
from tests.support.ports import free_port
from tests.support.process import Child

START_TIMEOUT_S = 30.0
POLL_S = 0.05


class GatewayRig:
    """One gateway with a folder of its own; killed and started again on the same data and the same ports."""

    def __init__(self, folder: Path, *, gateway_id: str = "edge", **sections: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data_dir = folder / "data"
        self.file = folder / "headwater.yaml"
        self.pulsar_port = free_port()
        self.mqtt_port = free_port()
        self.configuration: dict[str, Any] = {
            "gateway": {
                "id": gateway_id,
                "data_dir": "data",
                "disk_quota": "1GiB",
                "listen": {"pulsar": f"127.0.0.1:{self.pulsar_port}", "http": "127.0.0.1:0"},
            },
            **sections,
        }
        self.child: Child | None = None
        self.addresses: dict[str, str] = {}

    @property
    def service_url(self) -> str:
        return f"pulsar://127.0.0.1:{self.pulsar_port}"

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.process.pid

    def add_mqtt(self, **sensor: Any) -> None:
        """A sensor on this gateway's MQTT port."""
        self.configuration.setdefault("sensors", []).append(
            {"type": "mqtt", "listen": f"127.0.0.1:{self.mqtt_port}", **sensor}
        )

    def start(self) -> GatewayRig:
        """Start it and wait until it serves."""
        self.file.write_text(json.dumps(self.configuration))
        self.child = Child([sys.executable, "-m", "gateway.cli", "run", self.file], self.folder / "log.txt", pipe=True)
        try:
            words = self._ready_line().split()
            assert words[:1] == ["ready"], f"not ready: {self.child.tail()}"
        except BaseException:
            # Whoever could not enter does not leave either.
            self.child.kill()
            raise
        self.addresses = dict(word.split("=", 1) for word in words[1:])
        return self

    def _ready_line(self) -> str:
        assert self.child is not None
        stdout = self.child.process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            assert selector.select(START_TIMEOUT_S), f"no ready line:\n{self.child.tail()}"
        return stdout.readline().decode()

    def kill(self) -> None:
        """SIGKILL, as the OOM killer would."""
        assert self.child is not None
        self.child.kill()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.child is not None
        return self.child.stop()

    def control(self, path: str) -> Any:
        """GET on the control socket."""
        return ControlClient.over_socket(self.data_dir).get(path)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.control("/admin/status")
        return status

    def wait_replicated(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the cloud has confirmed everything. The replication's status."""
        deadline = time.monotonic() + timeout_s
        replication: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                replication = self.status()["replication"][0]
            except GatewayError:
                replication = {}
            ledgers = {topic["name"]: topic["entries"] for topic in self.control("/admin/topics") if topic["ledger_id"]}
            done = {topic["topic"]: topic["confirmed_entry_id"] + 1 for topic in replication.get("topics", [])}
            if done and all(ledgers[name] == confirmed for name, confirmed in done.items()):
                return replication
            time.sleep(POLL_S)
        raise AssertionError(f"not replicated after {timeout_s} s: {replication}")

    def __enter__(self) -> GatewayRig:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()
