"""What a subscription has acknowledged, as sets of entry ids and of messages inside batches. Pure.

    entry ids   0 . . . . . . 7 8 9 10 11 12 13 14
    acked       x x x x x x x   x x     p  x
                            ^   └─┘     ^  └ range (12, 12)
                  mark_delete   range   partly acknowledged batch: bits of the messages still wanted

The same object serves the broker (the truth while it runs), the fold of the journal (deltas that are gathered before
they are stored) and the views. All operations but `reset` only add acknowledgements, so a delta gathered on an empty
cursor gives the same as its parts one by one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from gateway.log.records import AckRecord


class CursorState:
    """A subscription's acknowledgements."""

    __slots__ = (
        "_changed_batches",
        "_changed_entries",
        "_firsts",
        "_lasts",
        "_mark_taken",
        "_reset",
        "batches",
        "mark_delete",
    )

    def __init__(self, mark_delete: int = -1) -> None:
        self.mark_delete = mark_delete
        """Every entry up to this one is acknowledged; -1: none. The entry after it never is."""
        self.batches: dict[int, tuple[int, int]] = {}
        """Partly acknowledged entries beyond mark_delete:

        entry id -> (batch size, bit mask of the messages still unacknowledged).
        """
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        """Ranges acknowledged beyond mark_delete, both ends inclusive, ascending;

        at least one entry lies between neighbours.
        """
        self._mark_taken = mark_delete
        """mark_delete when changes were taken last."""
        self._changed_entries: list[tuple[int, int]] = []
        self._changed_batches: set[int] = set()
        self._reset = False
        """Whether the cursor was reset since changes were taken last."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Acknowledged beyond mark_delete: (first, last), both inclusive, ascending, never adjacent."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def contains(self, entry_id: int) -> bool:
        """Whether the whole entry is acknowledged."""
        if entry_id <= self.mark_delete:
            return True
        index = bisect_right(self._firsts, entry_id) - 1
        return index >= 0 and entry_id <= self._lasts[index]

    def unacked_messages(self, entry_id: int, batch_size: int) -> int:
        """Bit mask of the messages of a batch that are still to be acknowledged; 0: none."""
        if self.contains(entry_id):
            return 0
        size, mask = self.batches.get(entry_id, (0, 0))
        return mask if size else (1 << batch_size) - 1

    def ack(self, entry_id: int) -> bool:
        """Acknowledge an entry. Returns whether that was new."""
        if self.contains(entry_id):
            return False
        self._add(entry_id, entry_id)
        return True

    def ack_range(self, first: int, last: int) -> None:
        """Acknowledge entries first..last, both inclusive (what a damaged group has lost, for instance)."""
        first = max(first, self.mark_delete + 1)
        if first <= last:
            self._add(first, last)

    def ack_batch(self, entry_id: int, batch_size: int, still_unacked: int) -> bool:
        """Acknowledge the messages of a batch whose bits in `still_unacked` are 0.

        Returns whether the whole entry is acknowledged now.
        """
        if self.contains(entry_id):
            return True
        every = (1 << batch_size) - 1
        size, mask = self.batches.get(entry_id, (batch_size, every))
        remaining = mask & still_unacked
        if not remaining:
            self._add(entry_id, entry_id)
            return True
        if remaining != every:
            self.batches[entry_id] = (size, remaining)
            if remaining != mask:
                self._changed_batches.add(entry_id)
        return False

    def ack_cumulative(self, entry_id: int) -> bool:
        """Acknowledge everything up to and including an entry. Returns whether that was new."""
        if entry_id <= self.mark_delete:
            return False
        self._move_mark(entry_id)
        return True

    def reset(self, mark_delete: int) -> None:
        """Forget everything beyond `mark_delete`, and acknowledge everything up to it (seek, in either direction)."""
        self.mark_delete = mark_delete
        self.batches.clear()
        self._firsts.clear()
        self._lasts.clear()
        self._changed_entries.clear()
        self._changed_batches.clear()
        self._reset = True

    def next_unacked(self, entry_id: int) -> int:
        """The first entry at or after `entry_id` that is not wholly acknowledged."""
        if entry_id <= self.mark_delete:
            return self.mark_delete + 1
        index = bisect_right(self._firsts, entry_id) - 1
        return self._lasts[index] + 1 if index >= 0 and entry_id <= self._lasts[index] else entry_id

    def acked_between(self, after_entry_id: int, up_to_entry_id: int) -> int:
        """How many entries of (after, up_to] are acknowledged."""
        first = after_entry_id + 1
        acked = max(min(self.mark_delete, up_to_entry_id) - first + 1, 0)
        for index in range(bisect_left(self._lasts, first), len(self._firsts)):
            if self._firsts[index] > up_to_entry_id:
                break
            acked += min(self._lasts[index], up_to_entry_id) - max(self._firsts[index], first) + 1
        return acked

    def take_changes(self, subscription_id: int) -> AckRecord | None:
        """The changes since the last call as the delta for the journal. None: there are none."""
        mark = self.mark_delete
        if not self._reset and mark == self._mark_taken and not self._changed_entries and not self._changed_batches:
            return None
        gathered = CursorState(mark)
        for first, last in self._changed_entries:
            gathered.ack_range(first, last)
        # What became contiguous is part of the mark already, so `gathered` can't have moved its own beyond it.
        batches = tuple(
            (entry_id, *self.batches[entry_id])
            for entry_id in sorted(self._changed_batches)
            if entry_id in self.batches
        )
        record = AckRecord(subscription_id, mark, tuple(gathered.ranges), batches, reset=self._reset)
        self._mark_taken = mark
        self._changed_entries.clear()
        self._changed_batches.clear()
        self._reset = False
        return record

    def apply(self, record: AckRecord) -> None:
        """Fold a delta. What is applied does not count as a change."""
        if record.reset:
            self.reset(record.mark_delete)
            self._reset = False
        elif record.mark_delete > self.mark_delete:
            self._move_mark(record.mark_delete)
        for first, last in record.ranges:
            self.ack_range(first, last)
        for entry_id, batch_size, mask in record.batches:
            self.ack_batch(entry_id, batch_size, mask)
        self._mark_taken = self.mark_delete
        self._changed_entries.clear()
        self._changed_batches.clear()

    def snapshot(self, subscription_id: int, *, reset: bool = True) -> AckRecord:
        """The whole state as a record that makes it again. `reset` False: as a delta that adds it to what is there."""
        batches = tuple((entry_id, *batch) for entry_id, batch in sorted(self.batches.items()))
        return AckRecord(subscription_id, self.mark_delete, tuple(self.ranges), batches, reset=reset)

    def check_invariants(self) -> None:
        """Assert what the fields promise."""
        assert len(self._firsts) == len(self._lasts)
        end = self.mark_delete
        for first, last in self.ranges:
            assert first > end + 1, "ranges are ascending and never adjacent"
            assert last >= first
            end = last
        for entry_id, (size, mask) in self.batches.items():
            assert not self.contains(entry_id), "a wholly acknowledged entry has no mask"
            assert 0 < mask < (1 << size) - 1, "a mask says that some messages are acknowledged and some are not"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CursorState):
            return NotImplemented
        return self.snapshot(0) == other.snapshot(0)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"CursorState(mark_delete={self.mark_delete}, ranges={self.ranges}, batches={self.batches})"

    def _add(self, first: int, last: int) -> None:
        """Join first..last (beyond mark_delete) to the ranges."""
        self._changed_entries.append((first, last))
        low = bisect_left(self._lasts, first - 1)
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._drop_batches(first, last)
        if first == self.mark_delete + 1:
            self.mark_delete = last
            del self._firsts[low:high]
            del self._lasts[low:high]
            return
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def _move_mark(self, mark_delete: int) -> None:
        index = bisect_right(self._firsts, mark_delete + 1)
        if index and self._lasts[index - 1] > mark_delete:
            mark_delete = self._lasts[index - 1]
        del self._firsts[:index]
        del self._lasts[:index]
        self._drop_batches(self.mark_delete + 1, mark_delete)
        self.mark_delete = mark_delete

    def _drop_batches(self, first: int, last: int) -> None:
        if not self.batches:
            return
        if last - first < len(self.batches):
            for entry_id in range(first, last + 1):
                self.batches.pop(entry_id, None)
        else:
            for entry_id in [entry_id for entry_id in self.batches if first <= entry_id <= last]:
                del self.batches[entry_id]
