"""How far one ledger has come at one remote, and what to do when the two sides disagree. Pure.

    base           c            sent                         last
     │  confirmed  │  in flight  │  to be sent                │
    ─┴─────────────┴─────────────┴────────────────────────────┴──► entry ids = sequence ids

`base` is where this incarnation began: what lies up to it went out under an earlier name. Within (base, c] some ids
may never have gone out (parked, or stopped by the loop guard); `acknowledged` is the last one that the remote itself
confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from gateway.limits import REPLICATION_WINDOW

PERSIST_EVERY = REPLICATION_WINDOW // 2
"""Confirmed entries after which the confirmed id is written to the journal without waiting."""


@dataclass(slots=True)
class Progress:
    """One ledger's progress at one remote. Changed by its replication task alone."""

    confirmed: int = -1
    """c: every entry up to it was individually confirmed, or is never sent. Rises, except when the remote was found
    to have lost entries."""
    acknowledged: int = -1
    """The last id up to c that the remote confirmed under this incarnation's name. Never above `confirmed`; `base` if
    none was."""
    persisted: int = -1
    """c as of the journal."""
    base: int = -1
    """The last id that does not belong to this incarnation. Never above `confirmed`."""
    bound: int | None = None
    """s: the ledger's last id at the first start after the last successful connection; None: connected since the
    start."""
    sent: int = -1
    """The last id handed to the connection. Falls back to `confirmed` when the connection is lost."""
    suspect: int | None = None
    """A send of this id was refused (rule 4): the remote may hold later ids without it, so until its tail was read a
    receipt proves nothing for any id above c."""
    parked: dict[int, str] = field(default_factory=dict)
    """Entries that are never sent, with the reason."""

    def begin_incarnation(self) -> None:
        """Start anew behind the bound: everything up to it is at the remote under the old name."""
        assert self.bound is not None
        self.base = self.acknowledged = self.confirmed = self.sent = self.bound
        self.suspect = None

    def resume(self, confirmed: int) -> None:
        """Go on behind `confirmed`, which the remote was found to hold."""
        self.confirmed = max(self.confirmed, confirmed)
        self.acknowledged = max(self.acknowledged, confirmed)
        self.sent = self.confirmed

    def fall_back(self, highest: int) -> None:
        """The remote lost what lies above `highest`: it is sent again."""
        assert self.base < highest < self.confirmed
        self.confirmed = self.acknowledged = self.sent = highest

    def connected(self) -> None:
        """The remote answered and the case was dealt with: from now on it may know more than the ledger had at the
        start."""
        self.bound = None
        self.sent = self.confirmed

    def disconnected(self) -> None:
        """Nothing is under way any more."""
        self.sent = self.confirmed

    def sending(self, entry_id: int) -> None:
        """An entry was handed to the connection."""
        assert entry_id > self.sent
        self.sent = entry_id

    def confirm(self, entry_id: int) -> None:
        """The remote confirmed an entry. Receipts come in the order of the entries, so what lies before it is
        confirmed as well."""
        assert self.confirmed < entry_id <= self.sent
        assert self.suspect is None
        self.confirmed = self.acknowledged = entry_id

    def skip(self, entry_id: int) -> None:
        """An entry that is never sent has its turn; all before it must be confirmed."""
        assert self.confirmed == self.sent < entry_id
        self.sent = self.confirmed = entry_id

    @property
    def persist_due(self) -> bool:
        """Whether the confirmed id must be written without waiting."""
        return self.confirmed - self.persisted >= PERSIST_EVERY

    def check_invariants(self) -> None:
        assert self.base <= self.acknowledged <= self.confirmed <= self.sent
        assert self.suspect is None or self.suspect > self.confirmed
        assert all(entry_id <= self.confirmed for entry_id in self.parked)


class Case(Enum):
    """What a remote's last sequence id for our name says about the two sides. It says what the remote took in, not
    what it stored, so it only chooses what to do."""

    older_copy = "older copy"
    """The remote knows ids that this data directory never had. Begin a new incarnation behind s."""
    remote_forgot = "remote forgot"
    """The remote knows less than it confirmed. Read its tail for our name."""
    refused = "refused"
    """A send was refused. Read its tail before c passes the ids in doubt."""
    resume = "resume"
    """Send again from c + 1; the remote drops what it has.

    A limit: a refusal that was on its way when the connection broke is never heard of. If the remote stored later ids
    all the same, its "duplicate" is then taken for a confirmation. Verifying against it would mean reading the tail
    after every break of the link.
    """


class CaseRule(NamedTuple):
    """One line of the decision table."""

    case: Case
    holds: Callable[[Progress, int], bool]
    """Given the progress and r, the remote's last sequence id under our name (-1: none)."""


CASES = (
    CaseRule(Case.older_copy, lambda progress, r: progress.bound is not None and r > progress.bound),
    CaseRule(
        Case.remote_forgot, lambda progress, r: r < progress.acknowledged and progress.acknowledged > progress.base
    ),
    CaseRule(Case.refused, lambda progress, r: progress.suspect is not None),
    CaseRule(Case.resume, lambda progress, r: True),
)
"""The first that holds counts."""


class Finding(Enum):
    """What the remote's tail says, once it was read for our name."""

    older_copy = "older copy"
    """It holds ids that this data directory never had, though the remote forgot the name."""
    nothing = "nothing"
    """None of ours: go on at c + 1, possibly doubled."""
    lost = "lost"
    """Less than was confirmed: go on behind what it holds, and say so."""
    holds = "holds"
    """All that was confirmed, and perhaps more: go on behind that."""


class FindingRule(NamedTuple):
    """One line of the decision table for a tail."""

    finding: Finding
    holds: Callable[[Progress, int], bool]
    """Given the progress and the highest id found under our name (-1: none)."""


FINDINGS = (
    FindingRule(Finding.older_copy, lambda progress, highest: progress.bound is not None and highest > progress.bound),
    FindingRule(Finding.nothing, lambda progress, highest: highest < 0),
    FindingRule(Finding.lost, lambda progress, highest: progress.base < highest < progress.acknowledged),
    FindingRule(Finding.holds, lambda progress, highest: True),
)
"""The first that holds counts."""


def case_of(progress: Progress, remote_last: int) -> Case:
    """The case for what the remote says."""
    return next(rule.case for rule in CASES if rule.holds(progress, remote_last))


def finding_of(progress: Progress, highest: int) -> Finding:
    """The finding for what the remote's tail holds."""
    return next(rule.finding for rule in FINDINGS if rule.holds(progress, highest))
