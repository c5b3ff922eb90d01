"""What recovery makes of a journal: one situation at a time. The crash harness covers them all at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import LogDamaged
from gateway.log.directory import IDENTITY_NAME, journal_directory, torn_directory
from gateway.log.format import SEGMENT_MAGIC, GroupHeader, encode_group_header
from gateway.log.positions import JournalPosition, Run
from gateway.log.records import CleanStopRecord, StateRecord
from gateway.log.segment import slot_name
from tests.crash.simulated_disk import SimulatedDisk
from tests.log.conftest import ALIGN, DATA_DIR, Core

STATE = StateRecord("owner", "key", b"value")
STOP = CleanStopRecord()


def damage(disk: SimulatedDisk, slot: int, offset: int, data: bytes) -> None:
    """Change bytes of a segment on the medium."""
    file = disk.files[disk.names[journal_directory(DATA_DIR) / slot_name(slot)]]
    file.durable[offset : offset + len(data)] = data
    file.cache[offset : offset + len(data)] = data


def test_recovery_finds_nothing_in_a_new_directory(core: Core) -> None:
    """A first start has no groups, and writing begins in a new segment."""
    recovered = core.start()
    assert recovered.last is None
    assert recovered.report.segments == 0
    assert core.append(b"one").position == JournalPosition(0, 0)


def test_recovery_goes_on_in_the_same_segment_after_a_clean_stop(core: Core) -> None:
    """Only after a clean stop is the last segment written to again."""
    core.start()
    core.append(b"one")
    core.append(records=(STOP,))
    core.kill()
    assert core.start().report.clean
    assert core.append(b"two").position == JournalPosition(0, 2)
    core.kill()
    core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1), (JournalPosition(0, 1), 0), (JournalPosition(0, 2), 1)]


def test_recovery_begins_a_new_segment_after_a_kill(core: Core) -> None:
    """After an unclean stop nothing more is written to the last segment; the next header names its end."""
    core.start()
    end = core.append(b"one")
    core.kill()
    recovered = core.start()
    assert not recovered.report.clean
    assert recovered.tail.predecessor.end == end.offset + end.size
    assert core.append(b"two").position == JournalPosition(1, 0)
    core.kill()
    core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1), (JournalPosition(1, 0), 1)]


def test_recovery_cuts_off_a_torn_tail_and_keeps_a_copy(core: Core) -> None:
    """A group that nobody was told about and that isn't whole goes, and its bytes can be looked at."""
    core.start()
    core.append(b"one")
    torn = core.append(b"two" * 100)
    core.kill()
    damage(core.disk, 0, torn.offset + 300, b"\xff")
    recovered = core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1)]
    assert recovered.report.torn is not None
    assert recovered.report.torn.offset == torn.offset
    assert core.disk.list_directory(torn_directory(DATA_DIR)) != []
    assert not recovered.report.damages


def test_recovery_ignores_what_lies_beyond_the_end_that_the_next_segment_names(core: Core) -> None:
    """A group that reached the medium in spite of an error, and was written again elsewhere, is not read twice."""
    core.start()
    core.append(b"one")
    core.disk.fail = _fail_once(core.disk, "sync_data", keep_bytes=True)
    assert core.append(b"two").position == JournalPosition(1, 0)
    core.kill()
    core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1), (JournalPosition(1, 0), 1)]


def _fail_once(
    disk: SimulatedDisk, operation: str, *, keep_bytes: bool = False
) -> Callable[[int, str], OSError | None]:
    state = {"left": 1}

    def fail(number: int, name: str) -> OSError | None:
        if name != operation or not state["left"]:
            return None
        state["left"] = 0
        if keep_bytes:
            # The worst case: the bytes are all there, only the answer was an error.
            for file in disk.files.values():
                for offset, data in file.pending:
                    file.durable.extend(bytes(max(offset + len(data) - len(file.durable), 0)))
                    file.durable[offset : offset + len(data)] = data
                file.pending.clear()
        return OSError(5, "injected")

    return fail


def test_recovery_calls_a_bad_group_before_a_good_one_rot(core: Core) -> None:
    """A group is written only after its predecessor was durable: a good one proves that a bad one was acknowledged."""
    core.start()
    core.append(b"one")
    bad = core.append(b"two" * 100)
    core.append(b"three")
    core.kill()
    damage(core.disk, 0, bad.offset + 300, b"\xff")
    recovered = core.start()
    assert [entry.position for entry in recovered.report.damages] == [bad.position]
    assert recovered.report.damages[0].runs == (Run(1, 1, 1, 1),)
    assert [place.first_entry_id for place in recovered.index.places(1, 0)] == [0, 2]
    assert recovered.index.last_entry_id(1) == 2


def test_recovery_calls_a_bad_last_group_rot_when_a_checkpoint_covers_it(core: Core) -> None:
    """What the views hold was durable once, so its loss is reported and not taken for a torn tail."""
    core.start()
    core.append(b"one")
    bad = core.append(b"two")
    core.kill()
    damage(core.disk, 0, bad.offset, b"\xff")
    recovered = core.start(bad.position)
    assert [entry.position for entry in recovered.report.damages] == [bad.position]
    assert core.append(b"three").position == JournalPosition(1, 0)


def test_recovery_refuses_to_start_without_state_records(core: Core) -> None:
    """Cursors and topics would silently be other than acknowledged; the message names the command that goes on."""
    core.start()
    bad = core.append(records=(STATE,))
    core.append(b"one")
    core.kill()
    damage(core.disk, 0, bad.offset + 128 + 16 + 2, b"\xff")
    with pytest.raises(LogDamaged) as caught:
        core.start()
    assert "headwater log repair" in caught.value.hint
    assert caught.value.offset == bad.offset
    core.start(accept_damage=True)
    assert core.replayed == [(bad.position, 0), (JournalPosition(0, 1), 1)]


def test_recovery_starts_when_a_checkpoint_covers_lost_state_records(core: Core) -> None:
    """The views have them already."""
    core.start()
    bad = core.append(records=(STATE,))
    core.append(b"one")
    core.kill()
    damage(core.disk, 0, bad.offset, bytes(ALIGN))
    recovered = core.start(bad.position)
    assert core.replayed == [(JournalPosition(0, 1), 1)]
    assert len(recovered.report.damages) == 1


def test_recovery_refuses_a_segment_whose_header_is_gone(core: Core) -> None:
    """Groups without a header are not taken for an unused file."""
    core.start()
    core.append(b"one")
    core.kill()
    damage(core.disk, 0, 0, bytes(ALIGN))
    with pytest.raises(LogDamaged, match="header"):
        core.start()


def test_recovery_reads_the_second_copy_of_a_damaged_header(core: Core) -> None:
    """One flipped bit doesn't take a segment along."""
    core.start()
    core.append(b"one")
    core.kill()
    damage(core.disk, 0, 30, b"\xff\xff\xff")
    core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1)]


def test_recovery_notices_a_missing_segment(core: Core) -> None:
    """Segments name their predecessors, so that a hole in the ring is seen."""
    core.start()
    core.append(b"one")
    core.kill()
    core.start()
    core.append(b"two")
    core.kill()
    del core.disk.names[journal_directory(DATA_DIR) / slot_name(0)]
    with pytest.raises(LogDamaged, match="missing"):
        core.start()


def test_recovery_notices_a_missing_journal(core: Core) -> None:
    """Views that are ahead of the journal must not swallow what is written next."""
    core.start()
    with pytest.raises(LogDamaged, match="missing"):
        core.start(JournalPosition(3, 7))
    core.start(JournalPosition(3, 7), accept_damage=True)
    assert core.append(b"one").position > JournalPosition(3, 7)


def test_recovery_refuses_segments_of_another_directory(core: Core) -> None:
    """A file copied from another gateway would give it that one's topics."""
    core.start()
    core.append(b"one")
    core.kill()
    file = core.disk.files[core.disk.names[DATA_DIR / IDENTITY_NAME]]
    other = SimulatedDisk(core.disk.chance)
    Core(other).start()
    file.cache = bytearray(other.files[other.names[DATA_DIR / IDENTITY_NAME]].cache)
    file.durable = bytearray(file.cache)
    with pytest.raises(LogDamaged, match="another"):
        core.start()


def test_recovery_finds_the_directory_id_again_in_the_segments(core: Core) -> None:
    """A lost identity file doesn't make a directory another one."""
    core.start()
    core.append(b"one")
    core.kill()
    identity = DATA_DIR / IDENTITY_NAME
    before = bytes(core.disk.files[core.disk.names[identity]].cache)
    del core.disk.names[identity]
    core.start()
    assert bytes(core.disk.files[core.disk.names[identity]].cache) == before


def test_recovery_uses_a_segment_without_groups_again(core: Core) -> None:
    """Starts that crash before their first commit don't eat the quota."""
    core.start()
    core.append(b"one")
    for _ in range(5):
        core.kill()
        core.start()
        torn = core.append(b"x" * 300)
        core.next_entry_id -= 1
        damage(core.disk, 1, torn.offset + 200, b"\xff\xff")
    assert len(core.disk.list_directory(journal_directory(DATA_DIR))) == 2
    core.kill()
    core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1)]


def test_recovery_survives_a_torn_header_over_an_older_life_of_the_file(core: Core) -> None:
    """When a file becomes a segment again, a power cut during that leaves a free file, not a damaged segment."""
    core.start()
    core.append(b"one")
    core.kill()
    core.start()
    torn = core.append(b"x" * 300)
    core.next_entry_id -= 1
    damage(core.disk, 1, torn.offset + 200, b"\xff\xff")
    core.kill()
    core.start()
    path = journal_directory(DATA_DIR) / slot_name(1)
    images: list[SimulatedDisk] = []

    def cut(name: str, written: Path | None) -> None:
        pending = core.disk.files[core.disk.names[path]].pending
        if name == "write" and any(data.startswith(SEGMENT_MAGIC) for _, data in pending):
            images.append(core.disk.killed(core.disk.chance))

    core.disk.after = cut
    core.append(b"two")
    image = images[0]
    file = image.files[image.names[path]]
    file.pending.clear()
    file.durable[:ALIGN] = b"\xaa" * ALIGN
    image.forget(image.open(path))
    core.disk = image
    core.start()
    assert core.replayed == [(JournalPosition(0, 0), 1)]


def test_recovery_survives_a_torn_clearing_of_a_file_whose_header_was_never_synced(core: Core) -> None:
    """Bytes of an older life that come up while a file is cleared are not taken for groups of a lost segment.

    The header write was cut short by an error, so the page cache shows a header that the medium need not hold.
    """
    core.start()
    core.append(b"x" * 20 * ALIGN)
    left = [True]

    def short(number: int, name: str) -> int | None:
        if name == "write" and left:
            left.clear()
            return 512
        return None

    core.disk.fail = short
    core.append(b"x" * 20 * ALIGN)
    core.disk.fail = None
    core.kill()
    core.start()
    path = journal_directory(DATA_DIR) / slot_name(1)
    foreign, _ = encode_group_header(GroupHeader(b"s" * 16, 2, 0, 128, 0, 0, bytes(16), 0, 0, 0, 0, 0, 0))
    images: list[SimulatedDisk] = []

    def cut(name: str, written: Path | None) -> None:
        file = core.disk.files[core.disk.names[path]]
        if name == "write" and file.pending and not images:
            image = core.disk.killed(core.disk.chance)
            torn = image.files[image.names[path]]
            for offset, data in torn.pending:
                page = bytearray(b"\xaa" * len(data))
                if len(data) > 8 * ALIGN:
                    page[7 * ALIGN : 7 * ALIGN + len(foreign)] = foreign
                torn.durable.extend(bytes(max(offset + len(data) - len(torn.durable), 0)))
                torn.durable[offset : offset + len(data)] = page
            torn.pending.clear()
            image.forget(image.open(path))
            images.append(image)

    core.disk.after = cut
    core.append(b"two")
    core.disk = images[0]
    core.start()
    assert len(core.replayed) == 2
