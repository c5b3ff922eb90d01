"""The views' database: SQLite, in a thread of its own, as of a journal position."""

from __future__ import annotations

from typing import Any

from gateway.metadata.states import TopicState, TopicSummary


class Metadata:
    next_ledger_id: int
    """Greater than any ledger id ever given, as of the start. 1 in a new log."""
    next_subscription_id: int

    async def load_topic(self, name: str) -> TopicState | None:
        raise NotImplementedError

    async def list_topics(self, namespace: str | None = None) -> list[TopicSummary]:
        """Topics of `tenant/namespace` (None: all), by name; partitioned topics themselves too (ledger id 0)."""
        raise NotImplementedError

    async def list_namespaces(self) -> dict[str, dict[str, Any]]:
        raise NotImplementedError

    async def load_state(self, owner: str) -> dict[str, bytes]:
        raise NotImplementedError

    async def checkpoint(self) -> None:
        raise NotImplementedError
