"""The durable log of one data directory, put together: lock, recovery, journal, reader and views."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import Clock
from gateway.errors import LogError
from gateway.limits import ALIGN_DEFAULT, ALIGN_MAX, ALIGN_MIN, GIB, SEGMENT_SIZE_DEFAULT, SEGMENT_SIZE_MIN
from gateway.log.directory import (
    journal_directory,
    lock_directory,
    make_directories,
    views_file,
)
from gateway.log.disk import Disk, OsDisk
from gateway.log.journal import Journal
from gateway.log.reader import Reader
from gateway.log.recovery import Recovered, RecoveryReport, establish_identity, recover
from gateway.log.segment import SegmentWriter
from gateway.metadata.store import Metadata

logger = logging.getLogger(__name__)

SEGMENTS_MIN = 3
"""One that is written to, one ahead, and one to move to when the device reports an error."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where the log lives and how much it may take."""

    data_dir: Path
    quota_bytes: int = 8 * GIB
    """Bytes of segment files; as many whole segments are made as fit."""
    segment_bytes: int = SEGMENT_SIZE_DEFAULT
    align: int = ALIGN_DEFAULT
    """Bytes of the card's page, a power of two; a segment that exists keeps its own."""

    def __post_init__(self) -> None:
        """Raises: ValueError."""
        if self.align & (self.align - 1) or not ALIGN_MIN <= self.align <= ALIGN_MAX:
            raise ValueError(f"align must be a power of two from {ALIGN_MIN} to {ALIGN_MAX}, not {self.align}")
        if self.segment_bytes % ALIGN_MAX or self.segment_bytes < SEGMENT_SIZE_MIN:
            raise ValueError(f"segment_bytes must be a multiple of {ALIGN_MAX} and at least {SEGMENT_SIZE_MIN}")
        if self.quota_bytes < SEGMENTS_MIN * self.segment_bytes:
            raise ValueError(f"quota_bytes must hold at least {SEGMENTS_MIN} segments of {self.segment_bytes}")

    @classmethod
    def for_quota(cls, data_dir: Path, quota_bytes: int, *, align: int = ALIGN_DEFAULT) -> LogSettings:
        """Settings for a quota:

        segments are smaller where few would fit otherwise. Raises: ValueError when it is too small.
        """
        segment_bytes = min(SEGMENT_SIZE_DEFAULT, quota_bytes // 16 // ALIGN_MAX * ALIGN_MAX)
        return cls(data_dir, quota_bytes, max(segment_bytes, SEGMENT_SIZE_MIN), align)


class Log:
    """The log of one data directory, which it owns until `close`."""

    def __init__(
        self,
        *,
        directory_id: bytes,
        journal: Journal,
        reader: Reader,
        metadata: Metadata,
        recovery: RecoveryReport,
        release: Callable[[], None],
    ) -> None:
        self.directory_id = directory_id
        """16 random bytes made with the data directory: its incarnation."""
        self.journal = journal
        self.reader = reader
        self.metadata = metadata
        self.recovery = recovery
        """What the start found."""
        self._release = release

    @classmethod
    async def open(
        cls,
        settings: LogSettings,
        clock: Clock,
        *,
        disk: Disk | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        accept_damage: bool = False,
    ) -> Log:
        """Lock the data directory, recover the journal and bring the views up to it.

        `accept_damage`: start even though state records are lost; what `headwater log repair` asks for. Raises:
        LogLocked when another process owns it; LogDamaged when acknowledged state is unreadable; LogError when the
        system refuses.
        """
        disk = disk or OsDisk()
        data_dir = settings.data_dir
        make_directories(disk, data_dir)
        lock = lock_directory(disk, data_dir)
        metadata = Metadata(views_file(data_dir))
        try:
            directory_id = await asyncio.to_thread(establish_identity, disk, data_dir, random_bytes)
            await metadata.open(directory_id)
            recovered = await asyncio.to_thread(_recover, disk, data_dir, directory_id, metadata, accept_damage)
            await metadata.ready()
            writer = SegmentWriter(
                disk,
                journal_directory(data_dir),
                directory_id=directory_id,
                boot_id=clock.boot_id,
                segment_bytes=settings.segment_bytes,
                segments_max=settings.quota_bytes // settings.segment_bytes,
                align=settings.align,
                tail=recovered.tail,
                monotonic_ns=clock.monotonic_ns,
                random_bytes=random_bytes,
            )
        except OSError as error:
            await metadata.close()
            disk.close(lock)
            raise LogError(f"the log in {data_dir} can't be opened: {error}") from error
        except BaseException:
            await metadata.close()
            disk.close(lock)
            raise
        reader = Reader(disk, recovered.index)
        journal = Journal(writer, clock)
        journal.on_commit(reader.add)
        journal.on_commit(metadata.add)
        return cls(
            directory_id=directory_id,
            journal=journal,
            reader=reader,
            metadata=metadata,
            recovery=recovered.report,
            release=lambda: disk.close(lock),
        )

    async def close(self) -> None:
        """Commit what waits, write the clean-stop record and a checkpoint, and let go of the data directory."""
        try:
            await self.journal.close()
            await self.reader.close()
            try:
                await self.metadata.checkpoint()
            except LogError as error:
                # The journal holds everything; the next start replays a little more.
                logger.error("no checkpoint at the stop: %s", error)
            await self.metadata.close()
        finally:
            self._release()


def _recover(disk: Disk, data_dir: Path, directory_id: bytes, metadata: Metadata, accept_damage: bool) -> Recovered:
    return recover(
        disk,
        data_dir,
        directory_id,
        checkpoint=metadata.position_at_open,
        on_group=metadata.replay,
        accept_damage=accept_damage,
    )
