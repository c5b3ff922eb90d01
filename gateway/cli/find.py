"""Finds the gateway that a command is about: by option, environment, configuration file, or the usual ports."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.errors import GatewayError, ProtocolError
from gateway.names import PUBLIC_DEFAULT, TopicName

if TYPE_CHECKING:
    from gateway.cli.control import ControlClient
    from gateway.client.api import Client
    from gateway.config.settings import Settings

DEFAULT_CONFIG = Path("/etc/headwater/headwater.yaml")
DEFAULT_SERVICE_URL = "pulsar://127.0.0.1:6650"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the gateway is, as far as the command line says."""

    config: Path | None
    service_url: str | None
    admin_url: str | None
    token_file: Path | None = None
    trust_certs_file: Path | None = None

    def settings(self) -> Settings | None:
        """The settings of the configuration file that applies; None: there is none. Raises: ConfigError."""
        path = self.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
        if path is None:
            return None
        from gateway.config.load import load

        return load(path)

    def find_service_url(self) -> str:
        """Where Pulsar clients connect. Raises: GatewayError."""
        if self.service_url:
            return self.service_url
        if self.config is None and "HEADWATER_URL" in os.environ:
            return os.environ["HEADWATER_URL"]
        settings = self.settings()
        if settings is None:
            return DEFAULT_SERVICE_URL
        if settings.pulsar.port == 0:
            # The file leaves the port to the system: the running gateway knows which it took.
            return f"pulsar://{self.control().get('/admin/status')['addresses']['pulsar']}"
        return f"pulsar://{settings.pulsar}"

    async def connect(self) -> Client:
        """A client of the gateway. Raises: GatewayError."""
        from gateway.client.remote import RemoteClient

        token = None
        if self.token_file is not None:
            try:
                token = self.token_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise GatewayError(f"the token in {self.token_file} can't be read: {error}") from error
        trust = str(self.trust_certs_file) if self.trust_certs_file else None
        url = self.find_service_url()
        try:
            return await RemoteClient.connect(url, token=token, trust_certs_file=trust)
        except ValueError as error:
            raise GatewayError(f"'{url}' is not a service URL: {error}", hint="write pulsar://HOST:6650") from error
        except ProtocolError as error:
            hint = "start it with `headwater run FILE`, or say where it is: --service-url, HEADWATER_URL or --config"
            error.hint = error.hint or hint
            raise

    def find_topic(self, text: str) -> str:
        """A topic's full name; the configuration's default namespace expands short ones. Raises: GatewayError."""
        settings = None if "/" in text else self.settings()
        return str(TopicName.parse(text, default_namespace=settings.default_namespace if settings else PUBLIC_DEFAULT))

    def control(self) -> ControlClient:
        """The administration of the gateway. Raises: GatewayError."""
        from gateway.cli.control import ControlClient

        if self.admin_url:
            return ControlClient.over_tcp(self.admin_url)
        settings = self.settings()
        if settings is None:
            raise GatewayError(
                "there is no configuration to find the gateway by",
                hint=f"give --config FILE, or put it at {DEFAULT_CONFIG}",
            )
        return ControlClient.over_socket(settings.log.data_dir)


def target_options(*, pulsar: bool = False, admin: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that every command has to find its gateway by; they arrive as one argument `target`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            *args: Any,
            config: Path | None,
            service_url: str | None = None,
            admin_url: str | None = None,
            token_file: Path | None = None,
            trust_certs_file: Path | None = None,
            **kwargs: Any,
        ) -> Any:
            target = Target(config, service_url, admin_url, token_file, trust_certs_file)
            return command(*args, target=target, **kwargs)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        decorated: Callable[..., Any] = call
        if admin:
            decorated = click.option(
                "--admin-url", metavar="URL", help="Administration over HTTP instead of the socket."
            )(decorated)
        if pulsar:
            file = click.Path(path_type=Path, dir_okay=False)
            decorated = click.option("--token-file", type=file, help="Holds the token to authenticate with.")(decorated)
            decorated = click.option("--trust-certs-file", type=file, help="Certificates to trust (pulsar+ssl).")(
                decorated
            )
            decorated = click.option("--service-url", metavar="URL", help="Such as pulsar://127.0.0.1:6650.")(decorated)
        return click.option(
            "--config",
            "-c",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The gateway's configuration file.",
        )(decorated)

    return decorate
