"""The rules for every way in which two sides can disagree, line by line, and that no order of events breaks the
invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.replication.progress import (
    CASES,
    FINDINGS,
    PERSIST_EVERY,
    Case,
    Finding,
    Progress,
    case_of,
    finding_of,
)


def progress(confirmed: int, *, base: int = -1, bound: int | None = None, suspect: int | None = None) -> Progress:
    return Progress(
        confirmed=confirmed,
        acknowledged=confirmed,
        persisted=confirmed,
        base=base,
        bound=bound,
        sent=confirmed,
        suspect=suspect,
    )


@pytest.mark.parametrize(
    ("side", "remote_last", "expected"),
    [
        # Nothing was sent yet, here or ever.
        (progress(-1), -1, Case.resume),
        (progress(-1, bound=-1), -1, Case.resume),
        # In step, or the remote has taken in more than it confirmed.
        (progress(49, bound=80), 49, Case.resume),
        (progress(49, bound=80), 80, Case.resume),
        (progress(49), 2_000, Case.resume),
        # It knows ids that were never here.
        (progress(49, bound=49), 50, Case.older_copy),
        (progress(-1, bound=-1), 0, Case.older_copy),
        (progress(49, bound=49, suspect=50), 119, Case.older_copy),
        # It knows less than it confirmed.
        (progress(49, bound=80), 48, Case.remote_forgot),
        (progress(49, bound=80), -1, Case.remote_forgot),
        (progress(0), -1, Case.remote_forgot),
        # A new incarnation that has not confirmed anything owes nothing.
        (progress(49, base=49, bound=49), -1, Case.resume),
        (progress(50, base=49, bound=60), -1, Case.remote_forgot),
        # A refused send.
        (progress(49, suspect=50), 49, Case.refused),
        (progress(49, suspect=50), 99, Case.refused),
        (progress(49, suspect=50), 10, Case.remote_forgot),
    ],
)
def test_remote_last_id_chooses_the_case(side: Progress, remote_last: int, expected: Case) -> None:
    """The decision table of the confirmed id, the start bound and what the remote says."""
    assert case_of(side, remote_last) is expected


def test_case_ignores_what_was_never_sent() -> None:
    """Entries that were parked or stopped count as confirmed, but the remote can't be asked for them."""
    side = progress(49)
    side.skip(50)
    assert (side.confirmed, side.acknowledged) == (50, 49)
    assert case_of(side, 49) is Case.resume


@pytest.mark.parametrize(
    ("side", "highest", "expected"),
    [
        (progress(49), -1, Finding.nothing),
        (progress(49), 48, Finding.lost),
        (progress(49), 49, Finding.holds),
        (progress(49), 60, Finding.holds),
        (progress(49, bound=60), 60, Finding.holds),
        (progress(49, bound=60), 61, Finding.older_copy),
        (progress(49, base=40), 41, Finding.lost),
        (progress(49, base=49), 49, Finding.holds),
    ],
)
def test_tail_gives_a_finding(side: Progress, highest: int, expected: Finding) -> None:
    """The decision table of what the remote holds under our name."""
    assert finding_of(side, highest) is expected


def test_every_line_of_the_tables_is_reached() -> None:
    """A line that no state reaches would be a rule that nobody follows."""
    sides = [
        progress(confirmed, base=base, bound=bound, suspect=suspect)
        for confirmed in (-1, 0, 5)
        for base in (-1, 0)
        if base <= confirmed
        for bound in (None, -1, 5)
        for suspect in (None, confirmed + 1)
    ]
    assert {case_of(side, r) for side in sides for r in (-1, 4, 9)} == {line.case for line in CASES}
    assert {finding_of(side, h) for side in sides for h in (-1, 0, 4, 9)} == {line.finding for line in FINDINGS}


def test_new_incarnation_begins_behind_the_bound() -> None:
    """What the older copy had is at the remote; what comes after it is sent."""
    side = progress(30, bound=49, suspect=31)
    side.begin_incarnation()
    side.connected()
    assert (side.base, side.confirmed, side.acknowledged, side.sent) == (49, 49, 49, 49)
    assert (side.suspect, side.bound) == (None, None)
    side.check_invariants()


def test_lost_entries_are_sent_again() -> None:
    """The position falls back to what the remote still holds, and is written when it differs from the journal."""
    side = progress(49)
    side.fall_back(30)
    side.sending(31)
    side.confirm(31)
    assert (side.confirmed, side.sent) == (31, 31)


def test_confirmed_id_is_due_for_the_journal_after_half_a_window() -> None:
    """Not before: each writing costs flash."""
    side = progress(-1)
    for entry_id in range(PERSIST_EVERY):
        assert not side.persist_due
        side.sending(entry_id)
        side.confirm(entry_id)
    assert side.persist_due


@given(st.integers(-1, 50), st.integers(-1, 50), st.integers(-1, 50))
def test_receipts_are_not_believed_out_of_order(confirmed: int, sent: int, receipt: int) -> None:
    """What was not sent, or is confirmed already, can't be confirmed: that would be our own mistake."""
    side = progress(confirmed)
    if sent > confirmed:
        side.sending(sent)
    if confirmed < receipt <= side.sent:
        side.confirm(receipt)
        assert side.confirmed == receipt
    else:
        with pytest.raises(AssertionError):
            side.confirm(receipt)


class AnyOrder(RuleBasedStateMachine):
    """Everything that can happen to a progress, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.side = progress(-1, bound=-1)
        self.last = -1
        self.under_way: list[int] = []

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        self.last += count

    @precondition(lambda self: self.side.bound is None and self.side.suspect is None and self.side.sent < self.last)
    @rule()
    def send(self) -> None:
        self.side.sending(self.side.sent + 1)
        self.under_way.append(self.side.sent)

    @precondition(lambda self: self.under_way and self.side.suspect is None)
    @rule()
    def receipt(self) -> None:
        self.side.confirm(self.under_way.pop(0))

    @precondition(lambda self: self.under_way and self.side.suspect is None)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        self.side.suspect = data.draw(st.sampled_from(self.under_way))

    @precondition(
        lambda self: (
            not self.under_way
            and self.side.bound is None
            and self.side.suspect is None
            and self.side.sent == self.side.confirmed < self.last
        )
    )
    @rule()
    def park(self) -> None:
        self.side.skip(self.side.sent + 1)
        self.side.parked[self.side.sent] = "too large"

    @rule()
    def lose_link(self) -> None:
        self.under_way.clear()
        self.side.disconnected()

    @rule()
    def restart(self) -> None:
        self.lose_link()
        self.side.persisted = self.side.confirmed
        if self.side.bound is None:
            self.side.bound = self.last

    @precondition(lambda self: not self.under_way)
    @rule(found=st.integers(-1, 40))
    def connect(self, found: int) -> None:
        side = self.side
        finding = finding_of(side, found)
        if case_of(side, found) is Case.older_copy or finding is Finding.older_copy:
            side.begin_incarnation()
        elif case_of(side, found) is not Case.resume:
            if finding is Finding.lost:
                side.fall_back(found)
                side.parked = {k: v for k, v in side.parked.items() if k <= found}
            side.resume(min(found, self.last))
            side.suspect = None
        side.connected()

    @invariant()
    def holds(self) -> None:
        self.side.check_invariants()
        assert self.side.sent <= max(self.last, self.side.base)


TestAnyOrder = AnyOrder.TestCase
