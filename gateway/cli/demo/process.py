"""A gateway of the demo: the real `headwater run`, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gateway.cli.control import ControlClient
from gateway.errors import GatewayError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


class GatewayProcess:
    """One running gateway, with a folder of its own."""

    def __init__(self, folder: Path, configuration: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        self._file = folder / "headwater.yaml"
        # JSON is YAML.
        self._file.write_text(json.dumps(configuration, indent=2))
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Start it and wait until it serves. Raises: GatewayError."""
        with (self._folder / "log.txt").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.cli", "run", str(self._file),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # Ctrl-C is for the demo alone: it ends its parts in order.
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self._process.stdout.readline()
        words = line.decode().split()
        if words[:1] != ["ready"]:
            last = (self._folder / "log.txt").read_text().strip().splitlines()[-1:]
            raise GatewayError(f"a gateway of the demo did not start: {''.join(last)}")
        self.addresses = dict(word.split("=", 1) for word in words[1:])

    @property
    def service_url(self) -> str:
        return f"pulsar://{self.addresses['pulsar']}"

    async def status(self) -> dict[str, Any]:
        """What it says of itself. Raises: GatewayError."""
        status: dict[str, Any] = await asyncio.to_thread(
            ControlClient.over_socket(self._folder / "data").get, "/admin/status"
        )
        return status

    async def doctor(self, replication: str) -> None:
        """Let it set up the cloud's namespace. Raises: GatewayError."""
        await asyncio.to_thread(
            ControlClient.over_socket(self._folder / "data").post, f"/admin/replication/{replication}/doctor"
        )

    async def stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
