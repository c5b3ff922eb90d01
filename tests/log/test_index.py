"""The index against a list of what was entered."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gateway.log.format import SegmentHeader
from gateway.log.index import Index
from gateway.log.positions import Run

ALIGN = 4096


def header(number: int) -> SegmentHeader:
    return SegmentHeader(ALIGN, number, bytes(16), bytes(16), bytes(16), 0, 0, 0, 0)


Plan = list[tuple[bool, dict[int, tuple[int, int, int]]]]
"""Groups: whether a new segment begins; by ledger id: ids skipped, entries, messages in each."""
runs = st.tuples(st.sampled_from([0, 0, 0, 7]), st.integers(1, 300), st.integers(1, 4))
groups = st.lists(st.tuples(st.booleans(), st.dictionaries(st.integers(1, 4), runs, max_size=3)), max_size=250)


@given(groups, st.data())
def test_index_finds_what_was_entered(plan: Plan, data: st.DataObject) -> None:
    """Groups of any shape in several segments, with gaps: places, first and last ids, messages."""
    index = Index()
    entered: dict[int, list[tuple[int, int, int, int, int, int]]] = {}
    segment = group_number = 0
    next_ids: dict[int, int] = {}
    for new_segment, ledgers in plan:
        if new_segment:
            segment, group_number = segment + 1, 0
        entered_runs = []
        for ledger_id, (gap, entries, messages_each) in sorted(ledgers.items()):
            first = next_ids.get(ledger_id, 0) + gap
            next_ids[ledger_id] = first + entries
            entered_runs.append(Run(ledger_id, first, entries, entries * messages_each))
            entered.setdefault(ledger_id, []).append(
                (segment, group_number, (group_number + 1) * ALIGN, first, entries, messages_each)
            )
        index.add_group(Path(f"{segment}"), header(segment), group_number, (group_number + 1) * ALIGN, entered_runs)
        group_number += 1
    for ledger_id, items in entered.items():
        assert index.first_entry_id(ledger_id) == items[0][3]
        last = items[-1][3] + items[-1][4] - 1
        assert index.last_entry_id(ledger_id) == last
        entry_id = data.draw(st.integers(0, last + 2))
        found = [
            (place.segment.segment_number, place.group_number, place.offset, place.first_entry_id, place.entries)
            for place in index.places(ledger_id, entry_id)
        ]
        assert found == [item[:5] for item in items if item[3] + item[4] > entry_id]
        after = data.draw(st.integers(-1, last))
        up_to = data.draw(st.integers(after, last + 3))
        exact = sum(
            max(min(first + entries - 1, up_to) - max(first, after + 1) + 1, 0) * each
            for _, _, _, first, entries, each in items
        )
        assert index.messages_between(ledger_id, after, up_to) == exact


def test_index_knows_nothing_of_other_ledgers() -> None:
    """No entries is -1, not 0."""
    index = Index()
    assert index.first_entry_id(1) == index.last_entry_id(1) == -1
    assert list(index.places(1, 0)) == []
    assert index.messages_between(1, -1, 100) == 0


def test_run_of_more_entries_than_an_item_holds() -> None:
    """A group of very many tiny entries is split over items."""
    index = Index()
    index.add_group(Path("0"), header(0), 0, ALIGN, [Run(1, 0, 150_000, 300_000)])
    places = list(index.places(1, 70_000))
    assert [(place.first_entry_id, place.entries) for place in places] == [(65_535, 65_535), (131_070, 18_930)]
    assert index.last_entry_id(1) == 149_999
    assert index.messages_between(1, -1, 149_999) == 300_000


def test_messages_of_a_run_may_be_more_than_32_bits_hold() -> None:
    """Each entry's count is a 32-bit number, so their sum need not be."""
    index = Index()
    most = 2**32 - 1
    index.add_group(Path("s"), header(0), 0, ALIGN, [Run(1, 0, 3, 3 * most)])
    index.add_group(Path("s"), header(0), 1, 2 * ALIGN, [Run(1, 3, 1, 1)])
    assert index.messages_between(1, -1, 3) == 3 * most + 1
