"""Where each ledger's entries lie: which commit groups hold them. In memory, arrays only. Pure.

Per segment and ledger one item for each group that holds entries of it: group number (16 bits), number of entries (16
bits); ids by running sum from an *anchor* (item, entry id), of which there is one every ANCHOR_INTERVAL items and
wherever ids don't follow on each other, so that a damaged group can't shift later ids. Nothing is kept per entry.
Message counts take four more bytes an item, but only in segments where some entry of the ledger holds more than one.

Belongs to one thread (the event loop's, once the log is open).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.log.format import SegmentHeader
from gateway.log.positions import JournalPosition, Run

ANCHOR_INTERVAL = 64
ITEM_ENTRIES_MAX = 65_535
"""More entries of one ledger in one group become several items."""


class GroupPlace(NamedTuple):
    """A group that holds the entries in question, and where it lies."""

    path: Path
    segment: SegmentHeader
    group_number: int
    offset: int
    """Bytes."""
    first_entry_id: int
    """Of the item: the first of this ledger in the group."""
    entries: int

    @property
    def position(self) -> JournalPosition:
        return JournalPosition(self.segment.segment_number, self.group_number)


class SegmentIndex:
    """What the index knows of a segment as a whole."""

    __slots__ = ("header", "offsets", "path")

    def __init__(self, path: Path, header: SegmentHeader) -> None:
        self.path = path
        self.header = header
        self.offsets = array("I")
        """Per group number: its offset in units; 0: a group that is damaged, so nothing points to it."""

    def add_group(self, group_number: int, offset: int) -> None:
        while len(self.offsets) < group_number:
            self.offsets.append(0)
        self.offsets.append(offset // self.header.align)


class LedgerItems:
    """One ledger's items in one segment."""

    __slots__ = (
        "anchor_entry_ids",
        "anchor_items",
        "entries",
        "first_entry_id",
        "groups",
        "messages",
        "next_entry_id",
        "segment",
    )

    def __init__(self, segment: SegmentIndex, first_entry_id: int) -> None:
        self.segment = segment
        self.first_entry_id = first_entry_id
        self.next_entry_id = first_entry_id
        self.groups = array("H")
        self.entries = array("H")
        self.messages: array[int] | None = None
        """None: every entry holds one message."""
        self.anchor_items = array("I")
        self.anchor_entry_ids = array("Q")

    def add(self, group_number: int, run: Run) -> None:
        """Append a run. Several runs of one group that follow on each other become one item."""
        assert run.first_entry_id >= self.next_entry_id, "entry ids go up"
        first, entries, messages = run.first_entry_id, run.entries, run.messages
        follows = first == self.next_entry_id
        if (
            follows
            and self.groups
            and self.groups[-1] == group_number
            and self.entries[-1] + entries <= ITEM_ENTRIES_MAX
        ):
            self._count_messages(messages, entries)
            self.entries[-1] += entries
            if self.messages is not None:
                self.messages[-1] += messages
            self.next_entry_id = first + entries
            return
        while entries > ITEM_ENTRIES_MAX:
            share = messages * ITEM_ENTRIES_MAX // entries
            self._append(group_number, first, ITEM_ENTRIES_MAX, share)
            first, entries, messages = first + ITEM_ENTRIES_MAX, entries - ITEM_ENTRIES_MAX, messages - share
        self._append(group_number, first, entries, messages)

    def _append(self, group_number: int, first_entry_id: int, entries: int, messages: int) -> None:
        item = len(self.groups)
        if first_entry_id != self.next_entry_id or not item or item - self.anchor_items[-1] >= ANCHOR_INTERVAL:
            self.anchor_items.append(item)
            self.anchor_entry_ids.append(first_entry_id)
        self._count_messages(messages, entries)
        self.groups.append(group_number)
        self.entries.append(entries)
        if self.messages is not None:
            self.messages.append(messages)
        self.next_entry_id = first_entry_id + entries

    def _count_messages(self, messages: int, entries: int) -> None:
        if messages != entries and self.messages is None:
            self.messages = array("Q", self.entries)

    def items_from(self, entry_id: int) -> Iterator[tuple[int, int, int, int]]:
        """Items that hold `entry_id` or later ones: group number, first entry id, entries, messages."""
        anchor = max(bisect_right(self.anchor_entry_ids, entry_id) - 1, 0)
        item = self.anchor_items[anchor]
        first = self.anchor_entry_ids[anchor]
        anchor += 1
        while item < len(self.groups):
            if anchor < len(self.anchor_items) and self.anchor_items[anchor] == item:
                first = self.anchor_entry_ids[anchor]
                anchor += 1
            entries = self.entries[item]
            if first + entries > entry_id:
                yield self.groups[item], first, entries, self.messages[item] if self.messages is not None else entries
            first += entries
            item += 1

    @property
    def messages_total(self) -> int:
        return sum(self.entries if self.messages is None else self.messages)


class Index:
    """All segments' items."""

    def __init__(self) -> None:
        self._segments: dict[int, SegmentIndex] = {}
        self._ledgers: dict[int, list[LedgerItems]] = {}

    def add_group(
        self, path: Path, segment: SegmentHeader, group_number: int, offset: int, runs: Iterable[Run]
    ) -> None:
        """Enter a group; groups come in the order of the journal. `offset` in bytes."""
        known = self._segments.get(segment.segment_number)
        if known is None:
            known = self._segments[segment.segment_number] = SegmentIndex(path, segment)
        known.add_group(group_number, offset)
        for run in runs:
            parts = self._ledgers.get(run.ledger_id)
            if parts is None:
                parts = self._ledgers[run.ledger_id] = []
            if not parts or parts[-1].segment is not known:
                parts.append(LedgerItems(known, run.first_entry_id))
            parts[-1].add(group_number, run)

    def first_entry_id(self, ledger_id: int) -> int:
        """Of the first entry that is kept; -1: none."""
        parts = self._ledgers.get(ledger_id)
        return parts[0].first_entry_id if parts else -1

    def last_entry_id(self, ledger_id: int) -> int:
        """Of the last entry; -1: none."""
        parts = self._ledgers.get(ledger_id)
        return parts[-1].next_entry_id - 1 if parts else -1

    def places(self, ledger_id: int, entry_id: int) -> Iterator[GroupPlace]:
        """The groups that hold `entry_id` or later entries of the ledger, in order."""
        parts = self._ledgers.get(ledger_id, [])
        for part in parts[self._part(parts, entry_id) :]:
            segment = part.segment
            for group_number, first, entries, _ in part.items_from(entry_id):
                offset = segment.offsets[group_number] * segment.header.align
                yield GroupPlace(segment.path, segment.header, group_number, offset, first, entries)

    def messages_between(self, ledger_id: int, after_entry_id: int, up_to_entry_id: int) -> int:
        """Messages in the entries of (after, up_to].

        Inside an item that a bound cuts, each entry counts as the item's average, rounded up.
        """
        parts = self._ledgers.get(ledger_id, [])
        total = 0
        for part in parts[self._part(parts, after_entry_id + 1) :]:
            if part.first_entry_id > up_to_entry_id:
                break
            if part.first_entry_id > after_entry_id and part.next_entry_id - 1 <= up_to_entry_id:
                total += part.messages_total
                continue
            if part.messages is None and part.next_entry_id - part.first_entry_id == sum(part.entries):
                low = max(part.first_entry_id, after_entry_id + 1)
                total += max(min(part.next_entry_id - 1, up_to_entry_id) - low + 1, 0)
                continue
            for _, first, entries, messages in part.items_from(after_entry_id + 1):
                if first > up_to_entry_id:
                    break
                wanted = min(first + entries - 1, up_to_entry_id) - max(first, after_entry_id + 1) + 1
                total += -(-messages * wanted // entries)
        return total

    @staticmethod
    def _part(parts: list[LedgerItems], entry_id: int) -> int:
        low = bisect_right(parts, entry_id, key=_first_entry_id) - 1
        return max(low, 0)


def _first_entry_id(part: LedgerItems) -> int:
    return part.first_entry_id
