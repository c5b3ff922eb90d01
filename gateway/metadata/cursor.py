"""What a subscription has acknowledged, as sets of entry ids and of messages inside batches. Pure."""

from __future__ import annotations

from gateway.log.records import AckRecord


class CursorState:
    mark_delete: int
    """Every entry up to this one is acknowledged; -1: none."""
    batches: dict[int, tuple[int, int]]
    """Partly acknowledged entries: entry id -> (batch size, bit mask of messages still unacknowledged)."""

    def __init__(self, mark_delete: int = -1) -> None:
        raise NotImplementedError

    def ranges(self) -> list[tuple[int, int]]:
        """Acknowledged beyond mark_delete: (first, last), inclusive, ascending, never adjacent."""
        raise NotImplementedError

    def contains(self, entry_id: int) -> bool:
        """Whether the whole entry is acknowledged."""
        raise NotImplementedError

    def ack(self, entry_id: int) -> bool:
        """Acknowledge an entry. Returns whether that was new."""
        raise NotImplementedError

    def ack_range(self, first: int, last: int) -> None:
        """Acknowledge entries first..last, both inclusive (a gap that no reader can fill, for instance)."""
        raise NotImplementedError

    def ack_batch(self, entry_id: int, batch_size: int, still_unacked: int) -> bool:
        """Acknowledge messages of a batch: bits of `still_unacked` that are 0 are acknowledged. Returns whether the whole entry now is."""
        raise NotImplementedError

    def ack_cumulative(self, entry_id: int) -> bool:
        """Acknowledge everything up to and including an entry. Returns whether that was new."""
        raise NotImplementedError

    def reset(self, mark_delete: int) -> None:
        """Forget all acknowledgements beyond `mark_delete` (seek), forwards or backwards."""
        raise NotImplementedError

    def next_unacked(self, entry_id: int) -> int:
        """The first entry at or after `entry_id` that is not wholly acknowledged."""
        raise NotImplementedError

    def acked_between(self, after: int, up_to: int) -> int:
        """How many entries of (after, up_to] are acknowledged."""
        raise NotImplementedError

    def take_changes(self, subscription_id: int) -> AckRecord | None:
        """What changed since the last call, as the delta to write into the journal; None: nothing."""
        raise NotImplementedError

    def apply(self, record: AckRecord) -> None:
        """Fold a delta."""
        raise NotImplementedError

    def check_invariants(self) -> None:
        raise NotImplementedError
