"""Finds the segments of a journal and the order in which they follow on each other. What is missing is only named.

Every header names its predecessor, so the chain is walked from the newest segment backwards. Files beside the chain
hold nothing: they were made ahead, or a device error came between their header and their first group.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gateway.errors import LogDamaged
from gateway.log.disk import Disk
from gateway.log.format import NO_SEGMENT, SegmentHeader
from gateway.log.scan import read_segment_header
from gateway.log.segment import NO_PREDECESSOR, SegmentEnd, slot_of

logger = logging.getLogger(__name__)


class Segment(NamedTuple):
    """A file that is a segment."""

    path: Path
    slot: int
    header: SegmentHeader

    @property
    def predecessor(self) -> SegmentEnd:
        """What the header says about the segment before."""
        header = self.header
        if header.previous_number == NO_SEGMENT:
            return NO_PREDECESSOR
        return SegmentEnd(header.previous_number, header.previous_end, header.previous_crc)


@dataclass(slots=True)
class Chain:
    """The segments of a journal."""

    segments: list[Segment] = field(default_factory=list)
    """Oldest first. Where one is missing, the next older one that is there follows."""
    slots: list[int] = field(default_factory=list)
    """Of all files of the ring."""
    missing: list[int] = field(default_factory=list)
    """Numbers of segments that a successor names and that are not there."""
    damaged: list[Path] = field(default_factory=list)
    """Files with groups but without a readable header."""


def find_chain(disk: Disk, journal: Path, directory_id: bytes | None) -> Chain:
    """Read all headers of a journal's directory and sync the newest segment.

    The sync is what makes a tail count that a killed process left in the page cache: the next header will vouch for it.
    `directory_id` None: whichever the segments name.
    Raises: LogDamaged for a segment of another directory; OSError.
    """
    chain = Chain()
    found: dict[int, Segment] = {}
    for name in disk.list_directory(journal):
        slot = slot_of(name)
        if slot is None:
            continue
        chain.slots.append(slot)
        path = journal / name
        try:
            header = _read_header(disk, path)
        except LogDamaged:
            chain.damaged.append(path)
            continue
        if header is None:
            continue
        if directory_id is not None and header.directory_id != directory_id:
            raise LogDamaged(
                f"{path} is a segment of another data directory",
                path=path,
                hint="was a file copied here from another gateway?",
            )
        found[header.segment_number] = Segment(path, slot, header)
    while found and not chain.segments:
        newest = found.pop(max(found))
        _sync(disk, newest.path)
        # What the medium refused is gone from the cache now, perhaps the header too: then the segment never was.
        if _read_header(disk, newest.path) == newest.header:
            chain.segments.append(newest)
    while chain.segments and (previous := chain.segments[-1].header.previous_number) != NO_SEGMENT:
        if previous not in found:
            chain.missing.append(previous)
            older = [number for number in found if number < previous]
            if not older:
                break
            previous = max(older)
        chain.segments.append(found.pop(previous))
    chain.segments.reverse()
    return chain


def _read_header(disk: Disk, path: Path) -> SegmentHeader | None:
    handle = disk.open(path)
    try:
        disk.forget(handle)
        return read_segment_header(disk, handle)
    finally:
        disk.close(handle)


def _sync(disk: Disk, path: Path) -> None:
    handle = disk.open(path)
    try:
        disk.sync(handle)
    except OSError as error:
        logger.error("%s can't be synced: %s", path, error)
    finally:
        disk.close(handle)
