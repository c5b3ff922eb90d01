"""The journal's side that lives on the event loop: groups that fill, deadlines, riders and receipts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import LogError
from gateway.log.positions import JournalPosition, Run
from gateway.log.records import Record


class JournalState(StrEnum):
    open = "open"
    full = "full"
    """Entries are refused; ends by itself when room returns."""
    failed = "failed"


class PendingGroup:
    """The group that is being assembled. Belongs to the event loop's thread until it is sealed."""

    producers: dict[tuple[int, str], tuple[int, int]]
    """(ledger id, producer name) -> (last sequence id, epoch); becomes producer records when the group is sealed."""

    def add_entry(self, ledger_id: int, entry_id: int, data: bytes, messages: int, arrival_ns: int) -> None:
        """Append an entry; ids of one ledger are consecutive. `arrival_ns`: clock.boottime_ns()."""
        raise NotImplementedError

    def add_record(self, record: Record) -> None:
        raise NotImplementedError

    def when_durable(self, callback: Callable[[LogError | None], None]) -> None:
        """Call back on the event loop with None when the group is durable, or with the error."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CommittedGroup:
    """A group that is durable."""

    position: JournalPosition
    runs: list[Run]
    records: list[Record]
    stored_bytes: int
    """Bytes of the journal that the group occupies, padding included."""


@dataclass(slots=True)
class JournalStats:
    groups: int = 0
    entries: int = 0
    bytes_raw: int = 0
    bytes_written: int = 0
    syncs: int = 0
    sync_ns: int = 0
    commit_causes: dict[str, int] | None = None


class Journal:
    state: JournalState
    stats: JournalStats

    def group(self, size: int, *, essential: bool = False) -> PendingGroup:
        """The group now being assembled, with room for `size` raw bytes (entries' data plus encoded records, roughly).

        The caller adds its whole unit before it yields. `essential` (acks, catalogue, shutdown): may use the room
        that is kept back from entries. Raises: LogFull, LogFailed.
        """
        raise NotImplementedError

    def commit_within(self, interval_ns: int, cause: str = "") -> None:
        """Give the pending group a deadline; the earliest wins. 0: at the end of this turn of the loop, or when the group in flight is done."""
        raise NotImplementedError

    def ride(self, rider: Callable[[PendingGroup], None]) -> None:
        """Call `rider` once when the next group is sealed; it may add records. Opens no group, unless IDLE_COMMIT_INTERVAL_NS pass without one."""
        raise NotImplementedError

    def on_commit(self, listener: Callable[[CommittedGroup], None]) -> None:
        """Call `listener` on the loop for every durable group, in order, before those who wait for it."""
        raise NotImplementedError

    def on_state(self, listener: Callable[[JournalState], None]) -> None:
        raise NotImplementedError

    async def sync(self) -> None:
        """Return when everything appended so far is durable. Raises: LogFailed, LogFull."""
        raise NotImplementedError
