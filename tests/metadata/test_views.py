"""One truth:

views made from a checkpoint and the journal behind it equal views made from the journal alone, field by field.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.log.positions import BEFORE_JOURNAL, JournalPosition, Run
from gateway.log.records import (
    AckRecord,
    PolicyRecord,
    ProducerRecord,
    Record,
    StateRecord,
    SubscriptionRecord,
    TopicRecord,
    decode_record,
    encode_record,
)
from gateway.metadata.cursor import CursorState
from gateway.metadata.fold import Fold
from gateway.metadata.states import ProducerState, TopicSummary
from gateway.metadata.views import Views

Group = tuple[JournalPosition, list[Run], list[Record]]

ledgers = st.integers(1, 4)
subscriptions = st.integers(1, 5)
names = st.sampled_from(["persistent://a/b/one", "persistent://a/b/two", "persistent://c/d/one"])
few = st.sampled_from(["x", "y"])
marks = st.integers(-1, 20)


@st.composite
def acks(draw: st.DrawFn) -> AckRecord:
    mark = draw(marks)
    first = mark + 2 + draw(st.integers(0, 5))
    ranges = draw(st.sampled_from([(), ((first, first + 2),), ((first, first), (first + 4, first + 5))]))
    batches = draw(st.sampled_from([(), ((first + 7, 4, 0b0110),), ((first + 7, 4, 0b1010),)]))
    return AckRecord(draw(subscriptions), mark, ranges, batches, draw(st.booleans()))


records = st.one_of(
    st.builds(TopicRecord, ledgers, names, st.just(0), st.booleans(), st.dictionaries(few, few, max_size=1)),
    st.builds(SubscriptionRecord, subscriptions, ledgers, few, marks, st.booleans()),
    acks(),
    acks(),
    st.builds(ProducerRecord, ledgers, few, st.integers(-1, 100), st.integers(0, 3)),
    st.builds(PolicyRecord, st.sampled_from(["a/b", "c/d"]), st.sampled_from(["", "{}", '{"retention": 3}'])),
    st.builds(StateRecord, few, few, st.none() | st.binary(max_size=3)),
)


@st.composite
def journals(draw: st.DrawFn) -> list[Group]:
    groups: list[Group] = []
    next_ids: dict[int, int] = {}
    for number, kept in enumerate(draw(st.lists(st.lists(records, max_size=4), max_size=25))):
        runs = []
        for ledger_id in sorted(draw(st.sets(ledgers, max_size=2))):
            count = draw(st.integers(1, 5))
            runs.append(Run(ledger_id, next_ids.get(ledger_id, 0), count, count))
            next_ids[ledger_id] = next_ids.get(ledger_id, 0) + count
        groups.append((JournalPosition(number // 7, number % 7), runs, kept))
    return groups


def fold_of(groups: list[Group], after: JournalPosition) -> Fold:
    fold = Fold(after)
    for position, runs, kept in groups:
        fold.apply(position, runs, kept)
    return fold


def reread(kept: list[Record]) -> list[Record]:
    """Records as recovery finds them."""
    decoded = [decode_record(*encode_record(record)) for record in kept]
    return [record for record in decoded if record is not None]


@settings(deadline=None, max_examples=60)
@given(journals(), st.data())
def test_views_do_not_depend_on_where_checkpoints_were(groups: list[Group], data: st.DataObject) -> None:
    """Group by group, all at once, or cut anywhere, with records from memory or from their bytes."""
    whole, cut, single, joined = (Views(None) for _ in range(4))
    whole.apply(fold_of(groups, BEFORE_JOURNAL), durable=True)
    at = data.draw(st.integers(0, len(groups)))
    cut.apply(fold_of(groups[:at], BEFORE_JOURNAL), durable=True)
    cut.apply(fold_of([(*group[:2], reread(group[2])) for group in groups[at:]], cut.position))
    for group in groups:
        single.apply(fold_of([group], single.position))
    first = fold_of(groups[:at], BEFORE_JOURNAL)
    first.append(fold_of(groups[at:], first.position))
    joined.apply(first)
    expected = whole.dump()
    assert cut.dump() == expected
    assert single.dump() == expected
    assert joined.dump() == expected
    assert whole.position == (groups[-1][0] if groups else BEFORE_JOURNAL)
    for views in (whole, cut, single, joined):
        views.close()


@pytest.fixture
def views() -> Views:
    views = Views(None)
    groups: list[Group] = [
        (
            JournalPosition(0, 0),
            [],
            [
                TopicRecord(1, "persistent://a/b/t", properties={"k": "v"}),
                TopicRecord(0, "persistent://a/b/p", partitions=2),
                TopicRecord(2, "persistent://a/b/p-partition-0"),
                TopicRecord(3, "persistent://c/d/u"),
                SubscriptionRecord(1, 1, "s", mark_delete=4),
                SubscriptionRecord(2, 2, "other"),
                PolicyRecord("a/b", '{"retention": 1}'),
                StateRecord("me", "key", b"\0"),
            ],
        ),
        (JournalPosition(0, 1), [Run(1, 0, 9, 20)], [ProducerRecord(1, "p", 7, 1), AckRecord(1, 6, ((8, 8),))]),
    ]
    views.apply(fold_of(groups, BEFORE_JOURNAL))
    return views


def test_topic_is_loaded_with_everything_about_it(views: Views) -> None:
    """Cursor, producers, properties, next entry id."""
    topic = views.load_topic("persistent://a/b/t")
    assert topic is not None
    assert (topic.ledger_id, topic.partitions, topic.next_entry_id, topic.properties) == (1, 0, 9, {"k": "v"})
    assert topic.producers == {"p": ProducerState(7, 1)}
    (subscription,) = topic.subscriptions
    expected = CursorState(6)
    expected.ack(8)
    assert (subscription.subscription_id, subscription.name, subscription.cursor) == (1, "s", expected)
    assert views.load_topic("persistent://a/b/none") is None


def test_topics_are_listed_by_namespace(views: Views) -> None:
    """Partitioned topics themselves too; all of them without a namespace."""
    assert views.list_topics("a/b") == [
        TopicSummary("persistent://a/b/p", 0, 2, 0),
        TopicSummary("persistent://a/b/p-partition-0", 2, 0, 0),
        TopicSummary("persistent://a/b/t", 1, 0, 9),
    ]
    assert [topic.name for topic in views.list_topics(None)][-1] == "persistent://c/d/u"
    assert views.list_namespaces() == {"a/b": {"retention": 1}}
    assert views.load_state("me") == {"key": b"\0"}


def test_ids_never_go_back(views: Views) -> None:
    """Not even when the topic that had the highest is deleted."""
    assert (views.next_ledger_id, views.next_subscription_id) == (4, 3)
    views.apply(
        fold_of(
            [(JournalPosition(0, 2), [], [TopicRecord(3, "persistent://c/d/u", deleted=True)])],
            views.position,
        )
    )
    assert views.load_topic("persistent://c/d/u") is None
    assert views.next_ledger_id == 4


def test_refused_fold_changes_nothing(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold goes in whole or not at all, its position included."""
    before = views.dump()
    kept: list[Record] = [StateRecord("me", "other", b"x"), AckRecord(1, 9)]
    fold = fold_of([(JournalPosition(0, 2), [Run(1, 9, 1, 1)], kept)], views.position)

    def broken(subscription_id: int, change: AckRecord) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(views, "_move_cursor", broken)
        with pytest.raises(RuntimeError):
            views.apply(fold)
    assert views.dump() == before
    views.apply(fold)
    assert views.load_state("me") == {"key": b"\0", "other": b"x"}


def test_views_are_there_after_a_restart(tmp_path: Path) -> None:
    """What was applied is read from the file, and belongs to the directory that it was made for."""
    path = tmp_path / "views.sqlite3"
    first = Views(path)
    first.start(b"i" * 16)
    first.apply(fold_of([(JournalPosition(2, 3), [], [StateRecord("me", "key", b"x")])], BEFORE_JOURNAL), durable=True)
    first.close()
    second = Views(path)
    assert second.directory_id == b"i" * 16
    assert second.position == JournalPosition(2, 3)
    assert second.load_state("me") == {"key": b"x"}
    second.close()
