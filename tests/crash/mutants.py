"""Seeded mistakes in the log, each of which the crash harness must notice.

Every one is a thing that somebody might write, or that an optimisation might bring about. Where a mistake sits in a
function rather than behind the disk, the function is replaced while the harness runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from gateway.log import chain
from gateway.log import format as layout
from gateway.log.format import GroupHeader
from gateway.log.frames import EncodedGroup
from gateway.log.scan import GroupTables, SegmentFile
from gateway.log.segment import SegmentWriter
from tests.crash.harness import ALIGN, Mutation
from tests.crash.simulated_disk import SimulatedDisk


class NoDataSync(SimulatedDisk):
    """fdatasync is left out."""

    def sync_data(self, handle: int) -> None:
        self._end("sync_data", None)


class NoLengthSync(SimulatedDisk):
    """The new file's fsync is left out, so that its length may be lost."""

    def sync(self, handle: int) -> None:
        self.sync_data(handle)


class NoDirectorySync(SimulatedDisk):
    """The directory's fsync is left out, so that a new segment's name may be lost."""

    def sync_directory(self, path: Path) -> None:
        self._end("sync_directory", path)


class RenameWithoutSync(SimulatedDisk):
    """The identity file is renamed before its bytes are synced."""

    def sync(self, handle: int) -> None:
        path = self._path(handle)
        if path is None or path.suffix != ".part":
            super().sync(handle)


class RetriedSync(SimulatedDisk):
    """A failed fdatasync is tried again on the same file, and its second answer believed."""

    def sync_data(self, handle: int) -> None:
        try:
            super().sync_data(handle)
        except OSError:
            super().sync_data(handle)


class SharedWriter(SegmentWriter):
    """Group n+1 is written before n is synced; one sync serves both."""

    def write_pair(self, first: EncodedGroup, second: EncodedGroup) -> None:
        segment = self._segment_for(first.stored_bytes + second.stored_bytes + ALIGN)
        for group in (first, second):
            data, crc = group.placed(
                salt=segment.header.salt,
                group_number=segment.next_group_number,
                previous_crc=segment.last_crc,
                align=segment.header.align,
            )
            self._write(segment.handle, data, segment.end)
            segment.end += len(data)
            segment.last_crc = crc
            segment.next_group_number += 1
        self._disk.sync_data(segment.handle)


class HeaderForgetsEnd(SegmentWriter):
    """A new segment's header names the file's length as the end of its predecessor."""

    def _seal_after(self, error: OSError) -> None:
        super()._seal_after(error)
        if self._predecessor.end:
            self._predecessor = self._predecessor._replace(end=self._segment_bytes)


def _any_salt(packed: bytes, salt: bytes) -> GroupHeader | None:
    return _decode_group_header(packed, packed[8:24])


_decode_group_header = layout.decode_group_header


def _no_damaged_frames(self: SegmentFile, tables: GroupTables) -> list[int]:
    return []


def _nothing_synced(disk: object, path: Path) -> None:
    """Recovery does not sync the tail."""


@dataclass(frozen=True)
class Mutant:
    """A mistake, how to make it, and how many states it may take to be seen."""

    name: str
    mutation: Mutation
    patches: tuple[Callable[[], object], ...] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make the mistake for a while."""
        running = [make() for make in self.patches]
        for one in running:
            one.start()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for one in running:
                one.stop()  # type: ignore[attr-defined]


MUTANTS = [
    Mutant("no fdatasync", Mutation(disk=NoDataSync)),
    Mutant("no fsync of a new file", Mutation(disk=NoLengthSync)),
    Mutant("no fsync of the directory", Mutation(disk=NoDirectorySync)),
    Mutant("rename without fsync", Mutation(disk=RenameWithoutSync)),
    Mutant("fsync retried", Mutation(disk=RetriedSync)),
    Mutant(
        "tail vouched for unsynced",
        Mutation(),
        (lambda: patch.object(chain, "_sync", _nothing_synced),),
    ),
    Mutant("early ack", Mutation(early_ack=True)),
    Mutant("group n+1 written before n is synced", Mutation(writer=SharedWriter, pairs=True)),
    Mutant("CRC without salt", Mutation(), (lambda: patch.object(layout, "decode_group_header", _any_salt),)),
    Mutant("guessable salt", Mutation(salt=bytes(16))),
    Mutant("tail page rewritten", Mutation(page=4 * ALIGN)),
    Mutant("predecessor's end unknown", Mutation(writer=HeaderForgetsEnd)),
    Mutant(
        "group believed by its header alone",
        Mutation(),
        (lambda: patch.object(SegmentFile, "damaged_frames", _no_damaged_frames),),
    ),
]
