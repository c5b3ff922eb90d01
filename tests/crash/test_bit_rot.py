"""No damaged byte is ever delivered, wherever it lies: bits flipped, bytes cut off, units zeroed, doubled and swapped.

The reader that is used here is the one of recovery (`SegmentFile`), over an index that recovery made: with the views
behind the journal, so that everything is verified at the start, and with a checkpoint that covers the journal, so that
nothing is and reading must notice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from gateway.errors import LogDamaged, LogError
from gateway.log.directory import journal_directory
from gateway.log.frames import unpack_run
from gateway.log.positions import BEFORE_JOURNAL, JournalPosition
from gateway.log.records import StateRecord
from gateway.log.recovery import Recovered
from gateway.log.scan import SegmentFile
from gateway.log.segment import slot_name
from tests.crash.simulated_disk import SimulatedDisk
from tests.log.conftest import ALIGN, DATA_DIR, Core

SEGMENT_BYTES = 8 * ALIGN
LAST = JournalPosition(1, 3)


class Specimen:
    """A small journal of two segments, and what it holds."""

    def __init__(self) -> None:
        disk = SimulatedDisk(random.Random(7))
        core = Core(disk, segment_bytes=SEGMENT_BYTES)
        self.entries: list[bytes] = []
        self.ends = [0, 0]
        for life in range(2):
            core.start()
            for number in range(4):
                datas = [b"%d.%d.%d " % (life, number, index) * 9 for index in range(3)]
                if number == 2:
                    datas[1] = disk.chance.randbytes(5000)
                records = (StateRecord("owner", f"{life}.{number}", b"x" * 40),) if number % 2 else ()
                written = core.append(*datas, records=records, compress=True)
                self.entries += datas
                self.ends[life] = written.offset + written.size
            assert written.position == (life, 3)
            core.kill()
        self.disk = core.disk
        self.images = [bytes(self._file(self.disk, slot).durable) for slot in range(2)]

    def _file(self, disk: SimulatedDisk, slot: int):  # type: ignore[no-untyped-def]
        return disk.files[disk.names[journal_directory(DATA_DIR) / slot_name(slot)]]

    def damaged(self, slot: int, image: bytes) -> SimulatedDisk:
        """A copy of the disk with another content of a segment."""
        disk = self.disk.killed(random.Random(1))
        file = self._file(disk, slot)
        file.durable = bytearray(image)
        file.cache = bytearray(image.ljust(file.size, b"\0"))
        file.pending.clear()
        return disk

    def check(self, disk: SimulatedDisk, *, last_segment: bool) -> str:
        """Start on a damaged disk and read all. Returns what was noticed: refused, damage, torn, or nothing."""
        noticed = ""
        for checkpoint in (BEFORE_JOURNAL, LAST):
            core = Core(disk.killed(random.Random(2)), segment_bytes=SEGMENT_BYTES)
            recovered: Recovered | None
            try:
                recovered = core.start(checkpoint)
            except LogError:
                noticed += "refused "
                recovered = self._accepting(core, checkpoint)
                if recovered is None:
                    continue
            delivered, unreadable = read_all(core.disk, recovered)
            for entry_id, data in delivered.items():
                assert data == self.entries[entry_id], f"entry {entry_id} was delivered with wrong bytes"
            report = recovered.report
            if unreadable or report.damages:
                noticed += "damage "
            elif report.torn is not None or len(delivered) < len(self.entries):
                # Only where nothing proves that they were acknowledged may the last entries pass for a torn tail.
                assert last_segment
                assert checkpoint == BEFORE_JOURNAL
                assert len(delivered) >= len(self.entries) - 3
                noticed += "torn "
            else:
                assert len(delivered) == len(self.entries)
        return noticed

    @staticmethod
    def _accepting(core: Core, checkpoint: JournalPosition) -> Recovered | None:
        try:
            return core.start(checkpoint, accept_damage=True)
        except LogDamaged:
            return None


def read_all(disk: SimulatedDisk, recovered: Recovered) -> tuple[dict[int, bytes], int]:
    """Entries that can be read, by id, and how many frames or groups could not be."""
    entries: dict[int, bytes] = {}
    unreadable = 0
    for place in recovered.index.places(1, 0):
        file = SegmentFile(disk, place.path, disk.open(place.path), place.segment, window_bytes=0)
        header = file.header_at(place.offset, file.size)
        tables = file.tables(place.offset, header) if header and header.group_number == place.group_number else None
        if tables is None:
            unreadable += 1
            continue
        for item in tables.directory:
            try:
                frame = file.frame(tables, item.frame)
            except LogDamaged:
                unreadable += 1
                continue
            columns = unpack_run(frame, item.offset)
            begin = columns.start
            for index, end in enumerate(columns.ends):
                entries[item.first_entry_id + index] = frame[begin:end]
                begin = end
    return entries, unreadable


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return Specimen()


def test_specimen_is_whole(specimen: Specimen) -> None:
    """Undamaged, everything is delivered and nothing is noticed."""
    assert specimen.check(specimen.disk, last_segment=True) == ""


@pytest.mark.parametrize("slot", [0, 1])
def test_flipped_bit_is_noticed_and_never_delivered(specimen: Specimen, slot: int) -> None:
    """Each byte of the segment up to its end has one bit flipped; bytes that mean something are noticed."""
    chance = random.Random(slot)
    image = specimen.images[slot]
    noticed = 0
    for offset in range(specimen.ends[slot]):
        if image[offset] == 0 and chance.random() < 0.9:
            # Mostly padding.
            continue
        flipped = bytearray(image)
        flipped[offset] ^= 1 << chance.randrange(8)
        found = specimen.check(specimen.damaged(slot, bytes(flipped)), last_segment=slot == 1)
        noticed += bool(found)
        if image[offset] and offset >= ALIGN:
            assert found, f"a flipped bit at {offset} went unnoticed"
    assert noticed > 1000


def _structural_damages(image: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    units = [image[start : start + ALIGN] for start in range(0, len(image), ALIGN)]
    for unit in range(len(units)):
        yield f"zeroed unit {unit}", b"".join([*units[:unit], bytes(ALIGN), *units[unit + 1 :]])
        yield f"garbage unit {unit}", b"".join([*units[:unit], chance.randbytes(ALIGN), *units[unit + 1 :]])
        for other in range(len(units)):
            if other != unit:
                yield f"unit {other} doubled over {unit}", b"".join([*units[:unit], units[other], *units[unit + 1 :]])
        for other in range(unit):
            swapped = list(units)
            swapped[unit], swapped[other] = swapped[other], swapped[unit]
            yield f"units {other} and {unit} swapped", b"".join(swapped)
    for _ in range(40):
        size = chance.randrange(len(image))
        yield f"truncated to {size}", image[:size]


@pytest.mark.parametrize("slot", [0, 1])
def test_moved_and_missing_blocks_are_never_delivered(specimen: Specimen, slot: int) -> None:
    """Units zeroed, replaced, doubled and swapped, and the file cut off anywhere: what is delivered is right."""
    chance = random.Random(slot)
    for what, image in _structural_damages(specimen.images[slot], chance):
        try:
            specimen.check(specimen.damaged(slot, image.ljust(SEGMENT_BYTES, b"\0")), last_segment=True)
        except AssertionError as error:
            if "wrong bytes" in str(error):
                raise AssertionError(f"{what}: {error}") from error


def test_unreadable_sector_costs_what_it_holds(specimen: Specimen) -> None:
    """EIO on reading is damage like any other: the rest is read."""
    disk = specimen.disk.killed(random.Random(1))
    read = disk.read

    def refusing(handle: int, size: int, offset: int) -> bytes:
        bad = 3 * ALIGN
        if disk._path(handle) == journal_directory(DATA_DIR) / slot_name(0) and offset <= bad < offset + size:
            raise OSError(5, "unreadable")
        return read(handle, size, offset)

    disk.read = refusing  # type: ignore[method-assign]
    core = Core(disk, segment_bytes=SEGMENT_BYTES)
    recovered = core.start(LAST)
    delivered, _ = read_all(disk, recovered)
    assert recovered.report.damages
    assert 6 <= len(delivered) < len(specimen.entries)
    assert all(data == specimen.entries[entry_id] for entry_id, data in delivered.items())
