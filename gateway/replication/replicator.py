"""The service of one replication: watches the edge's topics, and runs one task for each of their ledgers."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.client.api import Client, TopicInfo
from gateway.replication.link import Link
from gateway.replication.settings import ReplicationSettings
from gateway.replication.state import ReplicationState
from gateway.replication.topic import TopicReplication

WATCH_INTERVAL_S = 1.0
"""How soon a new topic is found."""
NOTHING = -1
"""Start bound of a ledger that did not exist at the start."""


class Replicator:
    """One replication. `prepare` before anybody can publish, then `run` until cancelled."""

    def __init__(self, client: Client, settings: ReplicationSettings) -> None:
        self.settings = settings
        self._client = client
        self._link = Link(settings)
        self._state = ReplicationState(client, settings.name)
        self._topics: dict[int, TopicReplication] = {}
        """By ledger id."""
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """Note where each ledger ended at this start. It must run before anything is published: a restored older copy
        is recognised by the cloud's knowing ids beyond that end. Raises: StorageUnavailable.
        """
        await self._state.load()
        bounds: dict[str, str | None] = {}
        for info in await self._list():
            if not self._state.knows(info.ledger_id):
                # Made since the last start and never noted: nothing of it was here then.
                bounds[f"{info.ledger_id}/bound"] = str(NOTHING)
            elif self._state.progress(info.ledger_id).bound is None:
                bounds[f"{info.ledger_id}/bound"] = str(info.last_entry_id)
        if bounds:
            await self._state.put(bounds)

    async def run(self) -> None:
        """Replicate until cancelled."""
        try:
            while True:
                for info in await self._list():
                    topic = self._topics.get(info.ledger_id) or await self._start(info)
                    topic.heard_of(info.last_entry_id)
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(WATCH_INTERVAL_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._link.close()

    async def _list(self) -> list[TopicInfo]:
        return [info for namespace in self.settings.namespaces for info in await self._client.topics(namespace)]

    async def _start(self, info: TopicInfo) -> TopicReplication:
        if not self._state.knows(info.ledger_id):
            # Noted before anything of it is sent: after a further start nobody could tell when it was made.
            await self._state.put({f"{info.ledger_id}/bound": str(NOTHING)})
        progress = self._state.progress(info.ledger_id)
        topic = TopicReplication(
            topic=info.name,
            ledger_id=info.ledger_id,
            edge=self._client,
            link=self._link,
            settings=self.settings,
            state=self._state,
            progress=progress,
        )
        self._topics[info.ledger_id] = topic
        self._tasks.append(asyncio.create_task(topic.run(), name=f"replication {self.settings.name} {info.name}"))
        return topic

    def status(self) -> dict[str, Any]:
        """What `headwater replication status` shows."""
        topics = list(self._topics.values())
        return {
            "name": self.settings.name,
            "service_url": self.settings.service_url,
            "connected": self._link.connected,
            "lag_entries": sum(topic.lag_entries for topic in topics),
            "sent_entries": sum(topic.sent_entries for topic in topics),
            "confirmed_entries": sum(topic.confirmed_entries for topic in topics),
            "last_error": "" if self._link.connected else self._link.last_error,
            "alarms": [alarm for topic in topics for alarm in topic.alarms],
            "topics": [topic.status() for topic in topics],
        }
