"""What a replication keeps in the journal: read back as it was, written only when it changed, and never believed
unwritten."""

from __future__ import annotations

import pytest

from gateway.client.api import Commit
from gateway.errors import StorageUnavailable
from gateway.replication.progress import Progress
from gateway.replication.state import ReplicationState


class Journal:
    """The part of a client that keeps state."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes | None]] = []
        self.full = False

    async def commit(self, commit: Commit) -> list[object]:
        if self.full:
            raise StorageUnavailable("full")
        changes = {change.key: change.value for change in commit.state}
        assert {change.owner for change in commit.state} == {"replication/cloud"}
        self.commits.append(changes)
        for key, value in changes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        return []

    async def load_state(self, owner: str) -> dict[str, bytes]:
        return dict(self.values)


async def opened(journal: Journal) -> ReplicationState:
    state = ReplicationState(journal, "cloud")  # type: ignore[arg-type]
    await state.load()
    return state


async def test_incarnation_is_made_once() -> None:
    """With the data directory; further starts find it."""
    journal = Journal()
    first = await opened(journal)
    second = await opened(journal)
    assert first.incarnation == second.incarnation
    assert len(journal.commits) == 1
    assert (await opened(Journal())).incarnation != first.incarnation


async def test_progress_is_read_back_as_it_was_saved() -> None:
    """Field by field, also a suspect that has gone and what was parked."""
    journal = Journal()
    state = await opened(journal)
    side = Progress(confirmed=30, acknowledged=28, base=10, bound=7, sent=30, suspect=31, parked={29: "too large"})
    await state.put({"3/parked/29": "too large"})
    await state.save(3, side, base="10", bound="7", incarnation="b2")
    kept = await opened(journal)
    assert kept.progress(3) == Progress(30, 28, 30, 10, 7, 30, 31, {29: "too large"})
    assert (kept.incarnation_of(3), kept.incarnation_of(4)) == ("b2", state.incarnation)
    side.suspect = None
    await state.save(3, side, bound="connected")
    assert (await opened(journal)).progress(3) == Progress(30, 28, 30, 10, None, 30, None, {29: "too large"})


async def test_unknown_ledger_begins_at_the_beginning() -> None:
    """Nothing is confirmed, and no start has noted it."""
    state = await opened(Journal())
    assert not state.knows(3)
    assert state.progress(3) == Progress()


async def test_unchanged_values_are_not_written_again() -> None:
    """Each costs bytes on flash."""
    journal = Journal()
    state = await opened(journal)
    side = Progress(confirmed=5, acknowledged=5, sent=5)
    await state.save(3, side)
    written = len(journal.commits)
    await state.save(3, side)
    assert len(journal.commits) == written
    side.sending(6)
    side.confirm(6)
    await state.save(3, side)
    assert journal.commits[-1] == {"3/confirmed": b"6", "3/acknowledged": b"6"}


async def test_values_that_were_not_written_are_not_believed() -> None:
    """After a commit that failed nobody knows what the journal holds: the next one writes them, changed or not."""
    journal = Journal()
    state = await opened(journal)
    side = Progress(confirmed=5, acknowledged=5, sent=5)
    await state.save(3, side)
    journal.full = True
    side.sending(6)
    side.confirm(6)
    with pytest.raises(StorageUnavailable):
        await state.save(3, side)
    assert side.persisted == 5
    journal.full = False
    side.fall_back(5)
    await state.save(3, side)
    assert journal.commits[-1] == {"3/confirmed": b"5", "3/acknowledged": b"5"}
