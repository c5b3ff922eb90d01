"""The durable log: bytes of the journal, its recovery, its readers."""

from gateway.log.groups import CommittedGroup, PendingGroup
from gateway.log.journal import Journal, JournalState
from gateway.log.log import Log, LogSettings
from gateway.log.positions import JournalPosition, Run, StoredEntry
from gateway.log.reader import Reader, ReadResult

__all__ = [
    "CommittedGroup",
    "Journal",
    "JournalPosition",
    "JournalState",
    "Log",
    "LogSettings",
    "PendingGroup",
    "ReadResult",
    "Reader",
    "Run",
    "StoredEntry",
]
