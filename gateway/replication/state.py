"""What a replication keeps in the journal: keyed values under one owner, a few of them for each ledger."""

from __future__ import annotations

import secrets

from gateway.client.api import Client, Commit, StateChange
from gateway.replication.progress import Progress

INCARNATION = "incarnation"
INCARNATION_BYTES = 6
CONNECTED = "connected"
"""In place of a start bound: the remote was reached since the start."""


class ReplicationState:
    """The keys of one replication: `incarnation`, and `LEDGER/` followed by `confirmed`, `acknowledged`, `base`,
    `bound`, `incarnation`, `suspect` or `parked/ENTRY`."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._owner = f"replication/{name}"
        self._values: dict[str, bytes] = {}
        self._unsure: set[str] = set()
        """Keys whose last commit failed or was given up: nobody knows what the journal holds."""
        self.incarnation = ""
        """Random, made with the data directory; a restored copy brings its old one along, which is how it is found
        out."""

    async def load(self) -> None:
        """Read everything; make the incarnation on first use. Raises: StorageUnavailable."""
        self._values = await self._client.load_state(self._owner)
        if INCARNATION not in self._values:
            await self.put({INCARNATION: new_incarnation()})
        self.incarnation = self._values[INCARNATION].decode()

    def knows(self, ledger_id: int) -> bool:
        """Whether a start or a connection has noted this ledger."""
        return f"{ledger_id}/bound" in self._values

    def progress(self, ledger_id: int) -> Progress:
        """A ledger's progress as the journal has it."""
        confirmed = self._number(ledger_id, "confirmed", -1)
        base = self._number(ledger_id, "base", -1)
        suspect = self._number(ledger_id, "suspect", -1)
        bound = self._values.get(f"{ledger_id}/bound", CONNECTED.encode()).decode()
        prefix = f"{ledger_id}/parked/"
        return Progress(
            confirmed=confirmed,
            acknowledged=self._number(ledger_id, "acknowledged", base),
            persisted=confirmed,
            base=base,
            bound=None if bound == CONNECTED else int(bound),
            sent=confirmed,
            suspect=None if suspect < 0 else suspect,
            parked={
                int(key.removeprefix(prefix)): value.decode()
                for key, value in self._values.items()
                if key.startswith(prefix) and int(key.removeprefix(prefix)) <= confirmed
            },
        )

    def incarnation_of(self, ledger_id: int) -> str:
        """The incarnation under which a ledger is sent."""
        return self._values.get(f"{ledger_id}/incarnation", self.incarnation.encode()).decode()

    async def save(self, ledger_id: int, progress: Progress, **more: str) -> None:
        """Make a ledger's progress durable, and further values of it. Raises: StorageUnavailable."""
        confirmed = progress.confirmed
        values: dict[str, str | None] = {
            "confirmed": str(confirmed),
            "acknowledged": str(progress.acknowledged),
            "suspect": None if progress.suspect is None else str(progress.suspect),
            **more,
        }
        await self.put({f"{ledger_id}/{key}": value for key, value in values.items()})
        progress.persisted = confirmed

    async def put(self, values: dict[str, str | None]) -> None:
        """Make values durable together; None deletes. Raises: StorageUnavailable."""
        encoded = {key: None if value is None else value.encode() for key, value in values.items()}
        # A key costs bytes on flash every time, so what is known to stand in the journal is not written again.
        changed = {
            key: value for key, value in encoded.items() if key in self._unsure or value != self._values.get(key)
        }
        if not changed:
            return
        self._unsure.update(changed)
        await self._client.commit(
            Commit(state=[StateChange(self._owner, key, value) for key, value in changed.items()])
        )
        self._unsure.difference_update(changed)
        for key, value in changed.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    def _number(self, ledger_id: int, key: str, default: int) -> int:
        value = self._values.get(f"{ledger_id}/{key}")
        return default if value is None else int(value)


def new_incarnation() -> str:
    return secrets.token_hex(INCARNATION_BYTES)
