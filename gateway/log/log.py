"""The durable log of one data directory, put together: journal, reader and views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.clock import Clock
from gateway.limits import ALIGN_DEFAULT, GIB, SEGMENT_SIZE_DEFAULT
from gateway.log.journal import Journal
from gateway.log.reader import Reader
from gateway.metadata.store import Metadata


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where the log lives and how much it may take."""

    data_dir: Path
    quota_bytes: int = 8 * GIB
    """Bytes of segment files; a multiple of segment_bytes counts."""
    segment_bytes: int = SEGMENT_SIZE_DEFAULT
    align: int = ALIGN_DEFAULT
    """Bytes of the card's page; a segment that exists keeps its own."""


class Log:
    directory_id: bytes
    """16 random bytes made with the data directory."""
    journal: Journal
    reader: Reader
    metadata: Metadata

    @classmethod
    async def open(cls, settings: LogSettings, clock: Clock) -> Log:
        """Lock the data directory, recover the journal, bring the views up to it. Raises: LogLocked, LogDamaged, LogError."""
        raise NotImplementedError

    async def close(self) -> None:
        """Commit what waits, write the clean-stop record and a checkpoint."""
        raise NotImplementedError
