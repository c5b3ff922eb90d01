"""The link of one replication: one connection to the remote, shared by all its topics, made again whenever it is
lost."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from gateway.client.remote import RemoteClient
from gateway.errors import GatewayError, ReplicationError
from gateway.limits import BACKOFF_MAX_NS, BACKOFF_MIN_NS, SECOND
from gateway.replication.settings import ReplicationSettings


class Backoff:
    """Pauses that double from 0.1 s to 60 s, each shortened at random by up to a half, so that a fleet does not come
    back at once."""

    def __init__(self) -> None:
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    async def pause(self) -> None:
        """Wait, longer each time until something succeeded."""
        pause_ns = min(BACKOFF_MIN_NS * 2 ** min(self._failures, 20), BACKOFF_MAX_NS)
        self._failures += 1
        await asyncio.sleep(pause_ns / SECOND * random.uniform(0.5, 1.0))


class Link:
    """Connects on demand and tells everybody who asks at the same time the same answer."""

    def __init__(self, settings: ReplicationSettings) -> None:
        self._settings = settings
        self._client: RemoteClient | None = None
        self._connecting = asyncio.Lock()
        self._backoff = Backoff()
        self.last_error = ""

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.alive

    async def client(self) -> RemoteClient:
        """The connected client; waits for as long as the remote can't be reached."""
        async with self._connecting:
            while not self.connected:
                try:
                    # What is left of the last client, such as connections to other brokers of the cluster.
                    await self.close()
                    self._client = await connect(self._settings)
                    self._backoff.succeeded()
                    self.last_error = ""
                except GatewayError as error:
                    self.last_error = str(error)
                    await self._backoff.pause()
            assert self._client is not None
            return self._client

    async def close(self) -> None:
        """Close the connection; who asks next makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def connect(settings: ReplicationSettings) -> RemoteClient:
    """Connect to a replication's remote. The token is read anew each time: it may have been replaced.

    Raises: ReplicationError for an unreadable token, ProtocolError, BrokerError.
    """
    token = None
    if settings.token_file:
        try:
            token = await asyncio.to_thread(_read_token, settings.token_file)
        except OSError as error:
            raise ReplicationError(f"the token in {settings.token_file} can't be read: {error.strerror}") from error
    return await RemoteClient.connect(
        settings.service_url, token=token, trust_certs_file=settings.trust_certs_file or None
    )


def _read_token(file: str) -> str:
    return Path(file).read_text().strip()
