"""The views as the event loop sees them: folds gather in memory, a thread of its own brings them into SQLite.

    committed groups ─► pending fold ──(before a read, every REPLAY_SIZE_MAX of journal, at a clean stop)──► SQLite

A checkpoint is a transaction that is synced; the journal is replayed from its position at the next start. Every other
transaction may be lost in a power cut, as a whole, with the position it carries. An error of SQLite loses nothing: the
fold stays and is tried again, and at the worst the next start replays more of the journal.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gateway.errors import LogError
from gateway.limits import MIB, REPLAY_SIZE_MAX
from gateway.log.groups import CommittedGroup
from gateway.log.positions import JournalPosition
from gateway.metadata.fold import Fold
from gateway.metadata.states import TopicState, TopicSummary
from gateway.metadata.views import Views

logger = logging.getLogger(__name__)

DAMAGED_SUFFIX = ".damaged"
FOLD_WEIGHT_MAX = 2 * MIB
"""Bytes of memory that changes may take before they are brought into the database without being asked for."""
SIDE_FILES = ("-wal", "-shm")
"""What SQLite keeps beside a database."""

Result = TypeVar("Result")


class Metadata:
    """Made by `Log.open`; lives on one event loop."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: in memory, for tests."""
        self.next_ledger_id = 1
        """Greater than any ledger id that was ever given, as of `Log.open`."""
        self.next_subscription_id = 1
        """Greater than any subscription id that was ever given, as of `Log.open`."""
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="views")
        self._views: Views | None = None
        self._pending = Fold()
        self._flushing = asyncio.Lock()
        """Folds go in one at a time, in order."""
        self._flushes: set[asyncio.Task[None]] = set()
        """Under way, whether or not anybody still waits for them."""
        self._bytes_since_checkpoint = 0
        self._working: asyncio.Task[None] | None = None
        """A checkpoint or a flush that nobody waits for but `close`."""
        self.position_at_open = self._pending.position
        """Of the views when they were opened: recovery replays from here."""

    async def open(self, directory_id: bytes) -> None:
        """Open the database;

        one that is damaged or belongs to another journal is set aside and made again. Raises: LogError.
        """
        await self._run(lambda: self._open(directory_id))

    def replay(self, position: JournalPosition, runs: list[Any], records: list[Any]) -> None:
        """Add a group that recovery found behind `position_at_open`.

        Not to be mixed with `add`: for the time before the loop serves.
        """
        self._pending.apply(position, runs, records)

    async def ready(self) -> None:
        """Bring the replayed groups in and learn the next ids. Raises: LogError."""
        await self._read(lambda views: None)
        views = self._opened
        self.next_ledger_id, self.next_subscription_id = await self._run(
            lambda: (views.next_ledger_id, views.next_subscription_id)
        )

    def add(self, group: CommittedGroup) -> None:
        """Fold a durable group; starts a checkpoint when one is due, and a flush when much is pending."""
        self._pending.apply(group.position, group.runs, group.records)
        self._bytes_since_checkpoint += group.stored_bytes
        due = self._bytes_since_checkpoint >= REPLAY_SIZE_MAX
        if (due or self._pending.weight >= FOLD_WEIGHT_MAX) and (self._working is None or self._working.done()):
            work = self.checkpoint() if due else self._flush(durable=False)
            self._working = asyncio.get_running_loop().create_task(self._in_background(work))

    async def load_topic(self, name: str) -> TopicState | None:
        """Everything durable about one topic. The cursors are the caller's. Raises: LogError."""
        return await self._read(lambda views: views.load_topic(name))

    async def list_topics(self, namespace: str | None = None) -> list[TopicSummary]:
        """Topics of `tenant/namespace` (None:

        all), by name; partitioned topics themselves too (ledger id 0). Raises: LogError.
        """
        return await self._read(lambda views: views.list_topics(namespace))

    async def list_namespaces(self) -> dict[str, dict[str, Any]]:
        """Namespaces that have policies, with them. Raises: LogError."""
        return await self._read(lambda views: views.list_namespaces())

    async def load_state(self, owner: str) -> dict[str, bytes]:
        """All keys that an owner keeps. Raises: LogError."""
        return await self._read(lambda views: views.load_state(owner))

    async def checkpoint(self) -> None:
        """Bring the views up to the last durable group and sync them. Raises: LogError."""
        self._bytes_since_checkpoint = 0
        await self._flush(durable=True)

    async def close(self) -> None:
        """Let go of the database; what is not in it is in the journal."""
        if self._working is not None:
            await asyncio.wait([self._working])
        await asyncio.gather(*self._flushes, return_exceptions=True)
        if self._views is not None:
            await self._run(self._opened.close)
        self._pool.shutdown()

    @property
    def _opened(self) -> Views:
        assert self._views is not None, "the views are open"
        return self._views

    async def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LogError as error:
            # Nothing is lost: the journal keeps what the views lack, and what comes next brings the next attempt.
            logger.error("%s", error)

    async def _read(self, read: Callable[[Views], Result]) -> Result:
        await self._flush(durable=False)
        views = self._opened
        return await self._run(lambda: read(views))

    async def _flush(self, *, durable: bool) -> None:
        """Bring what is pending into the database. Raises: LogError.

        Whoever waits for it may be cancelled; the flush itself is not. A fold that was taken from what is pending and
        then dropped would be missing for ever, because the views' position goes past it with the next one.
        """
        flush = asyncio.get_running_loop().create_task(self._flush_pending(durable))
        self._flushes.add(flush)
        flush.add_done_callback(self._flushes.discard)
        await asyncio.shield(flush)

    async def _flush_pending(self, durable: bool) -> None:
        """What the database refuses stays pending, before what came meanwhile."""
        async with self._flushing:
            fold = self._pending
            if fold.empty and not durable:
                return
            self._pending = Fold(fold.position)
            views = self._opened
            try:
                await self._run(lambda: views.apply(fold, durable=durable))
            except LogError:
                fold.append(self._pending)
                self._pending = fold
                raise

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except sqlite3.Error as error:
            raise LogError(f"the views can't be read: {error}") from error

    def _open(self, directory_id: bytes) -> None:
        try:
            self._views = self._open_views(directory_id)
        except sqlite3.DatabaseError as error:
            logger.error("%s is set aside and made again from the journal: %s", self._path, error)
            self._set_aside()
            self._views = self._open_views(directory_id)
        self.position_at_open = self._views.position
        self._pending = Fold(self.position_at_open)

    def _open_views(self, directory_id: bytes) -> Views:
        views = Views(self._path)
        if views.directory_id is None:
            views.start(directory_id)
        elif views.directory_id != directory_id:
            views.close()
            raise sqlite3.DatabaseError("these views belong to another journal")
        return views

    def _set_aside(self) -> None:
        assert self._path is not None
        for suffix in ("", *SIDE_FILES):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(self._path.with_name(self._path.name + DAMAGED_SUFFIX + suffix))
