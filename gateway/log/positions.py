"""What the log's parts call a place, a stretch of entries and a stored entry. Pure.

A *journal position* names a commit group, never a byte and never a place in a topic.
"""

from __future__ import annotations

from typing import NamedTuple


class JournalPosition(NamedTuple):
    """A commit group of the journal. Compares in the order in which groups became durable."""

    segment_number: int
    """Counts segments from 0 over the life of the data directory."""
    group_number: int
    """Counts groups from 0 within the segment."""


BEFORE_JOURNAL = JournalPosition(-1, -1)
"""The position of views that nothing has been folded into."""


class Run(NamedTuple):
    """Consecutive entries of one ledger inside one commit group."""

    ledger_id: int
    first_entry_id: int
    entries: int
    messages: int
    """Messages in the entries' batches together."""

    @property
    def next_entry_id(self) -> int:
        return self.first_entry_id + self.entries


class StoredEntry(NamedTuple):
    """An entry as the log hands it out."""

    entry_id: int
    data: bytes
    """From the CRC32C magic (0x0e01) on, exactly as it was appended."""
    messages: int
    arrival_ms: int
    """Wall clock, milliseconds since 1970, as the machine believed when the entry was committed."""
