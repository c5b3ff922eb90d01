"""Reads entries back: from the tail cache, from inflated frames, from the segments."""

from __future__ import annotations

from typing import NamedTuple

from gateway.log.positions import StoredEntry


class ReadResult(NamedTuple):
    entries: list[StoredEntry]
    next_entry_id: int
    """Where to go on reading; beyond gaps. Equals the first entry id asked for when nothing is there yet."""


class Reader:
    def cached(self, ledger_id: int, first_entry_id: int, entries_max: int, size_max: int) -> list[StoredEntry] | None:
        """Recent entries from memory, without IO; at least one, or None: use `read`."""
        raise NotImplementedError

    async def read(
        self, ledger_id: int, first_entry_id: int, *, entries_max: int, size_max: int
    ) -> ReadResult:
        """Durable entries from `first_entry_id` on. At least one where there is one, whatever `size_max` (bytes) says."""
        raise NotImplementedError

    def first_entry_id(self, ledger_id: int) -> int:
        """Of the first durable entry that is kept; -1: none."""
        raise NotImplementedError

    def last_entry_id(self, ledger_id: int) -> int:
        """Of the last durable entry; -1: none."""
        raise NotImplementedError

    def messages_between(self, ledger_id: int, after_entry_id: int, up_to_entry_id: int) -> int:
        """Messages in the entries of (after, up_to]; entries that share a group with the bounds count by their share of it."""
        raise NotImplementedError
