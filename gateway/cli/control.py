"""Asks a running gateway over its control socket: HTTP with JSON on a Unix socket in the data directory."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.errors import GatewayError

TIMEOUT_S = 30.0
CONTROL_SOCKET = "control.sock"


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


class ControlClient:
    """One gateway's administration."""

    def __init__(self, connection: http.client.HTTPConnection, where: str) -> None:
        self._connection = connection
        self._where = where

    @classmethod
    def over_socket(cls, data_dir: Path) -> ControlClient:
        path = data_dir / CONTROL_SOCKET
        return cls(_SocketConnection(path), str(path))

    @classmethod
    def over_tcp(cls, url: str) -> ControlClient:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise GatewayError(f"'{url}' is no HTTP address", hint="write http://127.0.0.1:8080")
        return cls(http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S), url)

    def get(self, path: str) -> Any:
        """The answer to GET. Raises: GatewayError."""
        return self._ask("GET", path)

    def post(self, path: str) -> Any:
        """The answer to POST. Raises: GatewayError."""
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> Any:
        try:
            self._connection.request(method, path)
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise GatewayError(
                f"no gateway answers at {self._where}",
                hint="start it with `headwater run FILE`, or name another --config",
            ) from error
        except PermissionError as error:
            raise GatewayError(f"{self._where} may not be opened by this user", hint="use sudo") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GatewayError(f"the gateway at {self._where} did not answer properly: {error}") from error
        finally:
            self._connection.close()
        if response.status >= 400 and "error" in answer:
            raise GatewayError(answer["error"], hint=answer.get("hint", ""))
        return answer
