"""Serves the application inside the daemon's event loop, on the HTTP port and on the control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from gateway.errors import GatewayError

CONTROL_SOCKET = "control.sock"
"""Its name in the data directory."""
CONTROL_SOCKET_MODE = 0o600
SHUTDOWN_TIMEOUT_S = 2
CONNECTIONS_MAX = 100
UNIX_PATH_MAX = 107
"""Bytes of a Unix socket's path. Source: unix(7)."""


class HttpServer:
    """uvicorn without what a daemon has already: no signal handlers, no process of its own, no ticking while idle."""

    def __init__(self, application: Starlette) -> None:
        config = uvicorn.Config(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._sockets: list[socket.socket] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on bound sockets."""
        self._sockets = sockets
        # Server.serve() would do the same and then wake up ten times a second to see whether it is to stop.
        await self._server.startup(sockets=sockets)

    async def close(self) -> None:
        """Answer what is being answered, then close."""
        if self._sockets:
            await self._server.shutdown(sockets=self._sockets)


def open_control_socket(data_dir: Path) -> socket.socket:
    """Bind the control socket; only its owner may connect. Raises: GatewayError."""
    path = data_dir / CONTROL_SOCKET
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise GatewayError(f"{path} is too long for a Unix socket", hint="choose a shorter gateway.data_dir")
    # The lock on the data directory is ours, so a socket that is still here belongs to a gateway that was killed.
    path.unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~CONTROL_SOCKET_MODE)
    try:
        control.bind(str(path))
    except OSError as error:
        control.close()
        raise GatewayError(f"{path} can't be made: {error.strerror}") from error
    finally:
        os.umask(umask)
    return control
