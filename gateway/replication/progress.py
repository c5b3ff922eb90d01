"""How far one ledger has come at one remote, and what to do when the two sides disagree. Pure.

    base          c            sent                         last
     │ confirmed  │  in flight  │  to be sent                │
    ─┴────────────┴─────────────┴────────────────────────────┴──► entry ids

Sequence id = entry id. `base` is where this incarnation began: what lies up to it went out under an earlier name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gateway.limits import REPLICATION_WINDOW

PERSIST_EVERY = REPLICATION_WINDOW // 2
"""Confirmed entries after which the confirmed id is written to the journal without waiting."""


class Case(Enum):
    """What a remote's last sequence id for our name says about the two sides."""

    resume = "resume"
    """Send again from c + 1; the remote drops what it has."""
    older_copy = "older copy"
    """The remote knows ids that this data directory never had: it was restored from a copy. Begin a new incarnation behind s."""
    remote_forgot = "remote forgot"
    """The remote knows less than it confirmed: its tail must be read for our name."""


@dataclass(slots=True)
class Progress:
    """One ledger's progress at one remote. Changed by its replicator task alone."""

    confirmed: int = -1
    """c: every entry up to it was individually confirmed, or does not exist, or is parked. Only rises."""
    persisted: int = -1
    """c as of the journal. Never above `confirmed`."""
    base: int = -1
    """The last id that does not belong to this incarnation. Never above `confirmed`."""
    bound: int | None = None
    """s: the ledger's last id at the first start after the last successful connection; None: connected since the start."""
    sent: int = -1
    """The last id handed to the connection. Falls back to `confirmed` when the connection is lost."""
    suspect: int | None = None
    """From this id on (rule 4) receipts prove nothing: a send failed, and later ids may have passed it."""
    parked: dict[int, str] = field(default_factory=dict)
    """Entries that are never sent, with the reason."""

    def case(self, remote_last: int) -> Case:
        """What to do about `remote_last`, the remote's last sequence id for our name (-1: none)."""
        if self.bound is not None and remote_last > self.bound:
            return Case.older_copy
        if remote_last < self.confirmed and self.confirmed > self.base:
            return Case.remote_forgot
        return Case.resume

    def begin_incarnation(self) -> None:
        """Start anew behind the bound: everything up to it is at the remote under the old name."""
        assert self.bound is not None
        self.base = self.confirmed = self.sent = self.bound
        self.suspect = None

    def resume(self, confirmed: int) -> None:
        """Go on behind `confirmed`, which the remote was found to hold."""
        self.confirmed = max(self.confirmed, confirmed)
        self.sent = self.confirmed

    def connected(self) -> None:
        """The remote answered and the case was dealt with: from now on it may know more than the ledger had at the start."""
        self.bound = None
        self.sent = self.confirmed

    def sending(self, entry_id: int) -> None:
        """An entry was handed to the connection."""
        assert entry_id > self.sent
        self.sent = entry_id

    def confirm(self, entry_id: int) -> None:
        """The remote confirmed an entry. Receipts come in order, so what lies before it is confirmed as well."""
        assert entry_id <= self.sent
        self.confirmed = max(self.confirmed, entry_id)

    def skip(self, entry_id: int) -> None:
        """An entry that is not to be sent has been dealt with; all before it must be confirmed."""
        self.sent = max(self.sent, entry_id)
        self.confirmed = max(self.confirmed, entry_id)

    @property
    def persist_due(self) -> bool:
        """Whether the confirmed id must be written without waiting."""
        return self.confirmed - self.persisted >= PERSIST_EVERY

    def check_invariants(self) -> None:
        assert self.base <= self.confirmed
        assert self.persisted <= self.confirmed <= self.sent
        assert self.suspect is None or self.suspect > self.confirmed
