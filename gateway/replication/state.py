"""What a replication keeps in the journal: keyed values under one owner, one small group of them for each ledger."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from gateway.client.api import Client, Commit, StateChange
from gateway.replication.progress import Progress

INCARNATION = "incarnation"
INCARNATION_BYTES = 6


class ReplicationState:
    """The keys of one replication: `incarnation`, and for each ledger `LEDGER/confirmed`, `/base`, `/bound`, `/incarnation`,
    `/suspect`, `/parked/ENTRY`."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._owner = f"replication/{name}"
        self._values: dict[str, bytes] = {}
        self.incarnation = ""
        """Random, made with the data directory; a restored copy brings its old one along, which is how it is found out."""

    async def load(self) -> None:
        """Read everything; make the incarnation on first use. Raises: StorageUnavailable."""
        self._values = await self._client.load_state(self._owner)
        if INCARNATION not in self._values:
            await self.put({INCARNATION: new_incarnation()})
        self.incarnation = self._values[INCARNATION].decode()

    def progress(self, ledger_id: int) -> Progress:
        """A ledger's progress as the journal has it."""
        confirmed = self._number(ledger_id, "confirmed", -1)
        prefix = f"{ledger_id}/parked/"
        suspect = self._number(ledger_id, "suspect", -1)
        bound = self._number(ledger_id, "bound", -2)
        return Progress(
            confirmed=confirmed,
            persisted=confirmed,
            base=self._number(ledger_id, "base", -1),
            bound=None if bound == -2 else bound,
            sent=confirmed,
            suspect=None if suspect < 0 else suspect,
            parked={
                int(key.removeprefix(prefix)): value.decode()
                for key, value in self._values.items()
                if key.startswith(prefix)
            },
        )

    def incarnation_of(self, ledger_id: int) -> str:
        """The incarnation under which a ledger is sent."""
        return self._values.get(f"{ledger_id}/incarnation", self.incarnation.encode()).decode()

    async def put(self, values: dict[str, str | None]) -> None:
        """Make values durable together; None deletes. Raises: StorageUnavailable."""
        await self._client.commit(Commit(state=list(self._changes(values))))

    def _changes(self, values: dict[str, str | None]) -> Iterable[StateChange]:
        for key, value in values.items():
            encoded = None if value is None else value.encode()
            if encoded is None:
                self._values.pop(key, None)
            else:
                self._values[key] = encoded
            yield StateChange(self._owner, key, encoded)

    def _number(self, ledger_id: int, key: str, default: int) -> int:
        value = self._values.get(f"{ledger_id}/{key}")
        return default if value is None else int(value)


def new_incarnation() -> str:
    return secrets.token_hex(INCARNATION_BYTES)
