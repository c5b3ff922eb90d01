"""Other MQTT brokers, to compare with: mosquitto from Debian, NATS JetStream from its Go module."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.process import Child

NATS_VERSION = "v2.15.2"
NATS_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "nats"
START_TIMEOUT_S = 30.0
BUILD_TIMEOUT_S = 900


class BrokerMissing(Exception):
    """The broker can't be had on this machine; the text says why."""


class BrokerRig:
    """An MQTT broker on a free port."""

    port: int
    child: Child

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def _wait(self) -> None:
        def ready() -> bool:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True

        self.child.wait_ready(ready, START_TIMEOUT_S)

    def __exit__(self, *_: Any) -> None:
        self.child.stop()


class Mosquitto(BrokerRig):
    """mosquitto with persistence on."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise BrokerMissing("mosquitto is not installed")
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        self._program, self._folder = program, folder

    def __enter__(self) -> Mosquitto:
        self.port = free_port()
        configuration = self._folder / "mosquitto.conf"
        # As root it would become a user who can't write into the folder, and then keeps nothing at all.
        user = "user root\n" if os.geteuid() == 0 else ""
        configuration.write_text(
            f"{user}listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {self._folder}/\nautosave_interval 1\n"
            "max_inflight_messages 0\nmax_queued_messages 0\n"
        )
        self.child = Child([self._program, "-c", configuration], self._folder / "log.txt")
        self._wait()
        return self


class Nats(BrokerRig):
    """NATS JetStream's MQTT listener, syncing what it acknowledges."""

    def __init__(self, folder: Path) -> None:
        program = NATS_CACHE / "nats-server"
        if not program.exists():
            if shutil.which("go") is None:
                raise BrokerMissing("NATS needs Go to be built, which is not installed")
            NATS_CACHE.mkdir(parents=True, exist_ok=True)
            outcome = subprocess.run(
                ["go", "install", f"github.com/nats-io/nats-server/v2@{NATS_VERSION}"],
                env={**os.environ, "GOBIN": str(NATS_CACHE)},
                capture_output=True,
                text=True,
                timeout=BUILD_TIMEOUT_S,
                check=False,
            )
            if outcome.returncode:
                raise BrokerMissing(f"NATS could not be built: {outcome.stderr[-300:]}")
        folder.mkdir(parents=True)
        self._program, self._folder = program, folder

    def __enter__(self) -> Nats:
        self.port = free_port()
        configuration = self._folder / "nats.conf"
        configuration.write_text(
            f"server_name: bench\nhost: 127.0.0.1\nport: {free_port()}\n"
            f'jetstream {{ store_dir: "{self._folder}", sync_interval: always }}\n'
            f"mqtt {{ host: 127.0.0.1, port: {self.port}, max_ack_pending: 1000 }}\n"
        )
        self.child = Child([self._program, "-c", configuration], self._folder / "log.txt")
        self._wait()
        return self
