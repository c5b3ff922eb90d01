"""CursorState against sets: whatever is done to it in whatever order, it says the same as a set of messages would."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.log.records import decode_record, encode_record
from gateway.metadata.cursor import CursorState

ENTRIES = 40
BATCH = 5
EVERY = (1 << BATCH) - 1
entry_ids = st.integers(0, ENTRIES - 1)


class CursorMachine(RuleBasedStateMachine):
    """A cursor, a naive model of it, and two copies that only hear of its changes through records."""

    @initialize(mark=st.integers(-1, 10))
    def begin(self, mark: int) -> None:
        self.cursor = CursorState(mark)
        self.model = {entry_id: set(range(BATCH)) for entry_id in range(mark + 1, ENTRIES)}
        """Entry id -> messages still unacknowledged."""
        self.follower = CursorState(mark)
        """Applies each delta as it is taken, as recovery does."""
        self.gathered = CursorState()
        """Gathers deltas between two folds, from nothing."""
        self.gathered_reset = False
        self.folded = CursorState(mark)
        """Gets what was gathered, as the views do."""

    def _ack(self, entry_id: int) -> None:
        self.model.pop(entry_id, None)

    @rule(entry_id=entry_ids)
    def ack(self, entry_id: int) -> None:
        assert self.cursor.ack(entry_id) == (entry_id in self.model)
        self._ack(entry_id)

    @rule(first=entry_ids, length=st.integers(1, 8))
    def ack_range(self, first: int, length: int) -> None:
        last = min(first + length, ENTRIES) - 1
        self.cursor.ack_range(first, last)
        for entry_id in range(first, last + 1):
            self._ack(entry_id)

    @rule(entry_id=entry_ids)
    def ack_cumulative(self, entry_id: int) -> None:
        self.cursor.ack_cumulative(entry_id)
        for acked in range(entry_id + 1):
            self._ack(acked)

    @rule(entry_id=entry_ids, still_unacked=st.integers(0, EVERY))
    def ack_batch(self, entry_id: int, still_unacked: int) -> None:
        whole = self.cursor.ack_batch(entry_id, BATCH, still_unacked)
        if entry_id in self.model:
            self.model[entry_id] &= {index for index in range(BATCH) if still_unacked >> index & 1}
            if not self.model[entry_id]:
                self._ack(entry_id)
        assert whole == (entry_id not in self.model)

    @rule(mark=st.integers(-1, ENTRIES - 1))
    def reset(self, mark: int) -> None:
        self.cursor.reset(mark)
        self.model = {entry_id: set(range(BATCH)) for entry_id in range(mark + 1, ENTRIES)}

    @rule()
    def take_changes(self) -> None:
        record = self.cursor.take_changes(1)
        if record is not None:
            decoded = decode_record(*encode_record(record))
            assert decoded == record
            self.follower.apply(record)
            self.gathered.apply(record)
            self.gathered_reset |= record.reset
        assert self.cursor.take_changes(1) is None
        assert self.follower == self.cursor

    @precondition(lambda self: self.follower is not None)
    @rule()
    def fold(self) -> None:
        self.folded.apply(self.gathered.snapshot(1, reset=self.gathered_reset))
        self.gathered, self.gathered_reset = CursorState(), False
        assert self.folded == self.follower
        again = CursorState()
        again.apply(self.folded.snapshot(1))
        assert again == self.folded

    @invariant()
    def agrees_with_the_model(self) -> None:
        cursor = self.cursor
        cursor.check_invariants()
        unacked = sorted(self.model)
        assert [entry_id for entry_id in range(ENTRIES) if not cursor.contains(entry_id)] == unacked
        for entry_id in range(ENTRIES):
            mask = sum(1 << index for index in self.model.get(entry_id, ()))
            assert cursor.unacked_messages(entry_id, BATCH) == mask
            assert cursor.next_unacked(entry_id) == min((one for one in unacked if one >= entry_id), default=ENTRIES)
        assert cursor.mark_delete == (unacked[0] if unacked else ENTRIES) - 1

    @rule(after=st.integers(-1, ENTRIES - 1), count=st.integers(0, ENTRIES))
    def acked_between(self, after: int, count: int) -> None:
        up_to = min(after + count, ENTRIES - 1)
        expected = sum(entry_id not in self.model for entry_id in range(after + 1, up_to + 1))
        assert self.cursor.acked_between(after, up_to) == expected


TestCursor = CursorMachine.TestCase
TestCursor.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_delta_holds_only_what_changed() -> None:
    """A long history of holes is not written again with each ack."""
    cursor = CursorState()
    for entry_id in range(1, 2001, 2):
        cursor.ack(entry_id)
    cursor.take_changes(1)
    cursor.ack(3000)
    record = cursor.take_changes(1)
    assert record is not None
    assert record.ranges == ((3000, 3000),)


def test_acks_that_became_contiguous_are_in_the_mark_alone() -> None:
    """The usual consumer costs one number."""
    cursor = CursorState()
    for entry_id in (2, 1, 0, 4, 3):
        cursor.ack(entry_id)
    record = cursor.take_changes(1)
    assert record is not None
    assert (record.mark_delete, record.ranges) == (4, ())


@given(st.lists(st.integers(0, 200), max_size=80))
def test_order_of_acks_does_not_matter(entry_ids: list[int]) -> None:
    """Acknowledgements are a set."""
    forwards, backwards = CursorState(), CursorState()
    for entry_id in entry_ids:
        forwards.ack(entry_id)
    for entry_id in reversed(entry_ids):
        backwards.ack(entry_id)
    assert forwards == backwards
