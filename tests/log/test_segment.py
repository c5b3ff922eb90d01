"""The life of segments while they are written: made ahead, zeroed ahead, sealed, bounded by the quota."""

from __future__ import annotations

import pytest

from gateway.errors import LogFull
from gateway.log.directory import journal_directory
from gateway.log.segment import slot_name, slot_of
from tests.crash.simulated_disk import SimulatedDisk
from tests.log.conftest import ALIGN, DATA_DIR, SEGMENT_BYTES, Core


def slots(disk: SimulatedDisk) -> list[str]:
    return disk.list_directory(journal_directory(DATA_DIR))


def test_slot_names_are_read_back() -> None:
    """And nothing else is taken for one."""
    assert slot_of(slot_name(17)) == 17
    for name in ("slot-1", "slot-00001.damaged", "slot-abcde", "other", "slot-"):
        assert slot_of(name) is None


def test_every_segment_has_its_own_salt(core: Core) -> None:
    """And names the end and the last group of the one before."""
    core.start()
    written = [core.append(b"x" * 20 * ALIGN) for _ in range(5)]
    headers = [group.segment for group in written]
    assert len({header.salt for header in headers}) == 5
    for before, group, header in zip(headers, written, headers[1:], strict=False):
        assert header.previous_number == before.segment_number
        assert header.previous_end == group.offset + group.size


def test_group_that_does_not_fit_opens_the_next_segment(core: Core) -> None:
    """Groups are never split."""
    core.start()
    sizes = [3, 3, 10, 13, 20]
    written = [core.append(b"x" * (size * ALIGN - 200)) for size in sizes]
    assert [(group.position, group.offset // ALIGN) for group in written] == [
        ((0, 0), 1), ((0, 1), 4), ((0, 2), 7), ((0, 3), 17), ((1, 0), 1),
    ]  # fmt: skip


def test_next_file_is_made_when_the_open_one_is_half_full(core: Core) -> None:
    """So that no commit waits for it, and not before, so that a small log stays small."""
    core.start()
    while core.writer.prepare():
        pass
    core.append(b"one")
    while core.writer.prepare():
        pass
    assert slots(core.disk) == ["slot-00000"]
    core.append(b"x" * 16 * ALIGN)
    while core.writer.prepare():
        pass
    assert slots(core.disk) == ["slot-00000", "slot-00001"]
    before = len(core.disk.log)
    core.append(b"x" * 20 * ALIGN)
    assert core.disk.log[before:] == ["close", "write", "sync_data", "write", "sync_data"]


def test_open_segment_is_zeroed_a_little_ahead(core: Core) -> None:
    """Stale bytes go before groups come: step by step, never over a group."""
    core.start()
    core.append(b"one")
    file = core.disk.files[core.disk.names[journal_directory(DATA_DIR) / slot_name(0)]]
    file.durable[:] = file.durable[: 2 * ALIGN].ljust(SEGMENT_BYTES, b"\xee")
    steps = 0
    while core.writer.prepare():
        steps += 1
    assert steps == 2
    assert file.durable[2 * ALIGN : 4 * ALIGN] == bytes(2 * ALIGN)
    assert file.durable[4 * ALIGN] == 0xEE
    core.append(b"two" * ALIGN)
    core.kill()
    core.start()
    assert len(core.replayed) == 2


def test_quota_refuses_a_group_and_changes_nothing(disk: SimulatedDisk) -> None:
    """The same group can be offered again; what fits still goes."""
    core = Core(disk, segments_max=2)
    core.start()
    core.append(b"x" * 20 * ALIGN)
    core.append(b"x" * 20 * ALIGN)
    for _ in range(2):
        with pytest.raises(LogFull, match="quota"):
            core.append(b"x" * 20 * ALIGN)
    assert core.writer.room.further_segments == 0
    core.append(b"small")
    core.kill()
    core.start()
    assert len(core.replayed) == 3


def test_device_without_room_is_not_an_error_of_the_device(core: Core) -> None:
    """ENOSPC for a new file refuses the group, leaves no half-made file and is forgotten when room returns."""
    core.start()
    core.append(b"x" * 20 * ALIGN)
    core.disk.fail = lambda number, name: OSError(28, "no room") if name == "allocate" else None
    with pytest.raises(LogFull, match="no room"):
        core.append(b"x" * 20 * ALIGN)
    assert slots(core.disk) == ["slot-00000"]
    assert core.writer.failures == 0
    assert core.writer.room.further_segments == 0
    assert not core.writer.retry_room()
    core.disk.fail = None
    assert core.writer.retry_room()
    assert core.append(b"x" * 20 * ALIGN).position == (1, 0)
