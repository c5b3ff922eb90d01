"""The gateway over HTTP: health and metrics for everybody on the machine, administration on the control socket only.

One ASGI application serves both. The control socket lies in the data directory with mode 0600, so whoever can open it
is the gateway's own user or root; that is the whole of its access control. It never knows where the answers come
from: `Facts` does.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import GatewayError

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "::1", "testserver"]
"""A page of another origin that resolves its name to 127.0.0.1 must not read anything here (DNS rebinding)."""


class Facts(Protocol):
    """What the daemon tells about itself."""

    def problems(self) -> list[str]:
        """What keeps the gateway from doing its work, in words; empty: nothing."""

    def status(self) -> dict[str, Any]:
        """The whole picture, as `headwater status` shows it."""

    async def topics(self) -> list[dict[str, Any]]:
        """Every topic with its backlog."""

    def replication(self) -> list[dict[str, Any]]:
        """Every replication with its lag."""

    async def replication_doctor(self, name: str) -> list[dict[str, Any]]:
        """What stands between this gateway and a cloud. Raises: ReplicationError for an unknown name."""

    def metrics(self) -> bytes:
        """Prometheus' text format."""


def build_application(facts: Facts) -> Starlette:
    """The ASGI application over `facts`."""

    async def healthz(request: Request) -> Response:
        problems = facts.problems()
        return JSONResponse({"ok": not problems, "problems": problems}, status_code=503 if problems else 200)

    async def metrics(request: Request) -> Response:
        return Response(facts.metrics(), media_type=METRICS_CONTENT_TYPE)

    async def status(request: Request) -> Response:
        _require_control_socket(request)
        return JSONResponse(facts.status())

    async def topics(request: Request) -> Response:
        _require_control_socket(request)
        return JSONResponse(await facts.topics())

    async def replication(request: Request) -> Response:
        _require_control_socket(request)
        return JSONResponse(facts.replication())

    async def replication_doctor(request: Request) -> Response:
        _require_control_socket(request)
        return JSONResponse(await facts.replication_doctor(request.path_params["name"]))

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            Route("/admin/status", status),
            Route("/admin/topics", topics),
            Route("/admin/replication", replication),
            Route("/admin/replication/{name}/doctor", replication_doctor, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS)],
        exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error},
    )


def _require_control_socket(request: Request) -> None:
    """Hide what only the control socket may ask for."""
    server = request.scope.get("server")
    if server is None or server[1] is not None:
        raise HTTPException(404, "this is answered on the control socket in the data directory only")


async def _gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return JSONResponse({"error": str(error), "hint": error.hint}, status_code=400)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "hint": ""}, status_code=error.status_code)
