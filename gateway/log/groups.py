"""A commit group's life on the event loop: pending while it fills, sealed, committed when it is durable. No IO.

Nothing is made per entry but its place in a list: a ledger's entries lie flat as data, messages, arrival, data,
messages, arrival, ... and stay so until the writer packs them into columns, and in the tail cache after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gateway.errors import LogError
from gateway.limits import GROUP_RECORDS_MAX
from gateway.log.format import DirectoryItem
from gateway.log.frames import ENTRY_OVERHEAD, RUN_FIELDS, RUN_OVERHEAD, ClockFacts, FlatEntries
from gateway.log.positions import JournalPosition, Run
from gateway.log.records import ProducerRecord, Record, encode_record
from gateway.log.segment import WrittenGroup

RUN_ITEM_BYTES = 32
"""What a run takes in the directory, at most."""
RECORD_HEAD_BYTES = 6
"""Kind and length of a state record, at most."""

Waiter = Callable[[LogError | None], None]


class FlatRun(NamedTuple):
    """A ledger's consecutive entries, as they lie in a group that is filled, written or cached."""

    first_entry_id: int
    flat: FlatEntries

    @property
    def entries(self) -> int:
        return len(self.flat) // RUN_FIELDS

    @property
    def next_entry_id(self) -> int:
        return self.first_entry_id + len(self.flat) // RUN_FIELDS


class PendingGroup:
    """The group that is being assembled. Belongs to the event loop's thread until it is sealed."""

    __slots__ = ("_runs", "entries", "granted", "producers", "raw_bytes", "records", "records_encoded", "waiters")

    def __init__(self) -> None:
        self._runs: dict[int, FlatRun] = {}
        self.records: list[Record] = []
        self.records_encoded: list[tuple[int, bytes]] = []
        self.waiters: list[Waiter] = []
        self.producers: dict[tuple[int, str], tuple[int, int]] = {}
        """(ledger id, producer name) -> (last sequence id, epoch);

        becomes producer records when the group is sealed.
        """
        self.entries = 0
        self.granted = 0
        """`raw_bytes` up to which the journal has seen to it that there is room."""
        self.raw_bytes = 0
        """Entries and records with what surrounds them, before compression."""

    def add_entry(self, ledger_id: int, entry_id: int, data: bytes, messages: int, arrival_ns: int) -> None:
        """Append an entry. Ids of one ledger are consecutive. `arrival_ns`: clock.boottime_ns() when it came."""
        run = self._runs.get(ledger_id)
        if run is None:
            self._runs[ledger_id] = FlatRun(entry_id, [data, messages, arrival_ns])
            self.raw_bytes += len(data) + ENTRY_OVERHEAD + RUN_OVERHEAD + RUN_ITEM_BYTES
        else:
            first_entry_id, flat = run
            assert entry_id == first_entry_id + len(flat) // RUN_FIELDS, "entry ids are consecutive"
            flat += (data, messages, arrival_ns)
            self.raw_bytes += len(data) + ENTRY_OVERHEAD
        self.entries += 1

    def add_record(self, record: Record) -> None:
        """Append a state record. It takes effect with the group, before its entries, in the order of the calls."""
        encoded = encode_record(record)
        self.records.append(record)
        self.records_encoded.append(encoded)
        self.raw_bytes += len(encoded[1]) + RECORD_HEAD_BYTES

    def when_durable(self, callback: Waiter) -> None:
        """Call back on the event loop with None when the group is durable, or with the error that kept it from it."""
        self.waiters.append(callback)

    @property
    def records_left(self) -> int:
        """Entries and records that may still be added. Atomic units may go beyond it."""
        return GROUP_RECORDS_MAX - self.entries - len(self.records) - len(self.producers)

    @property
    def full(self) -> bool:
        """No unit may be added that could as well go to the next group."""
        return self.records_left <= 0

    @property
    def empty(self) -> bool:
        """There is nothing to write."""
        return not self.entries and not self.records and not self.producers

    def seal(self, clock: ClockFacts) -> SealedGroup:
        """Close the group to everything but waiters."""
        for (ledger_id, name), (last_sequence_id, epoch) in self.producers.items():
            # The wire's ids are unsigned, Pulsar's clients and SQLite hold signed ones.
            signed = (last_sequence_id + 2**63) % 2**64 - 2**63
            self.add_record(ProducerRecord(ledger_id, name, signed, epoch))
        return SealedGroup(
            self._runs, self.records, self.records_encoded, self.waiters, self.entries, self.raw_bytes, clock
        )


@dataclass(frozen=True, slots=True)
class SealedGroup:
    """A group on its way to the disk: nobody changes it any more, except that waiters may still join."""

    runs: dict[int, FlatRun]
    """By ledger id."""
    records: list[Record]
    records_encoded: list[tuple[int, bytes]]
    waiters: list[Waiter]
    entries: int
    raw_bytes: int
    clock: ClockFacts

    def flat_runs(self) -> Iterable[tuple[int, int, FlatEntries]]:
        """Ledger id, first entry id, entries: as `frames.encode_group` takes them."""
        return [(ledger_id, first, flat) for ledger_id, (first, flat) in self.runs.items()]


@dataclass(frozen=True, slots=True)
class CommittedGroup:
    """A group that is durable."""

    position: JournalPosition
    runs: list[Run]
    """One per ledger, by ledger id."""
    records: list[Record]
    stored_bytes: int
    """Bytes of the journal that the group occupies, padding included."""
    written: WrittenGroup
    """Its place on disk."""
    flat_runs: dict[int, FlatRun]
    """Its entries, by ledger id; the tail cache keeps them for a while."""
    clock: ClockFacts


def merge_runs(directory: Iterable[DirectoryItem]) -> list[Run]:
    """One run per ledger, from a directory that has one per frame."""
    runs: list[Run] = []
    for ledger_id, first, entries, messages, _, _ in directory:
        if runs and runs[-1].ledger_id == ledger_id and runs[-1].next_entry_id == first:
            last = runs[-1]
            runs[-1] = Run(ledger_id, last.first_entry_id, last.entries + entries, last.messages + messages)
        else:
            runs.append(Run(ledger_id, first, entries, messages))
    return runs
