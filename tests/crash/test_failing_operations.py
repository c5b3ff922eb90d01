"""Whichever file operation fails, and however: what was acknowledged stays, and nothing that failed is acknowledged.

A fixed piece of work is done once for every operation that it consists of; that operation fails. Afterwards the process
is killed, or the power goes.
"""

from __future__ import annotations

import errno
import random

import pytest

from gateway.errors import LogError, LogFailed, LogFull
from gateway.log.records import CleanStopRecord, StateRecord
from tests.crash.simulated_disk import SimulatedDisk
from tests.log.conftest import ALIGN, Core

SEGMENT_BYTES = 6 * ALIGN
FAILURES: dict[str, OSError | int] = {
    "EIO": OSError(errno.EIO, "injected"),
    "ENOSPC": OSError(errno.ENOSPC, "injected"),
    "EINTR": OSError(errno.EINTR, "injected"),
    "short write": 20,
}


def work(core: Core) -> int:
    """Two process lives with a few groups each, over several segments. Returns how many entries were acknowledged."""
    acknowledged = 0
    try:
        for life in range(2):
            core.start()
            core.next_entry_id = acknowledged
            for number in range(5):
                try:
                    core.append(f"{life}.{number} ".encode() * (100 if number % 2 else 700), b"more")
                except LogFull:
                    continue
                acknowledged += 2
                core.writer.prepare()
            core.append(records=(StateRecord("owner", str(life), b""), CleanStopRecord()))
            core.writer.close()
    except (LogError, OSError):
        # The log failed, or the start did: the process ends.
        pass
    return acknowledged


def operations() -> int:
    core = Core(SimulatedDisk(random.Random(1)), segment_bytes=SEGMENT_BYTES)
    assert work(core) == 20
    return core.disk.operations


@pytest.mark.parametrize("failure", FAILURES)
def test_log_keeps_its_promise_when_an_operation_fails(failure: str) -> None:
    """For every k the k-th operation fails;

    recovery then finds all that was acknowledged, and at most one group more.
    """
    total = operations()
    assert total > 60
    failed = 0
    for k in range(total):
        chance = random.Random(k)
        disk = SimulatedDisk(chance)
        core = Core(disk, segment_bytes=SEGMENT_BYTES)

        def fail(number: int, name: str, k: int = k) -> OSError | int | None:
            if number != k:
                return None
            verdict = FAILURES[failure]
            return verdict if isinstance(verdict, OSError) or name == "write" else None

        disk.fail = fail
        acknowledged = work(core)
        failed += acknowledged < 20
        disk.fail = None
        for after in (disk.killed(chance), disk.crashed(chance), disk.crashed(chance)):
            core.disk = after
            recovered = core.start()
            assert not recovered.report.damages, f"operation {k}: {disk.log[k]}"
            entries = sum(count for _, count in core.replayed)
            assert acknowledged <= entries <= acknowledged + 2, f"operation {k}: {disk.log[k]}"
            assert recovered.index.last_entry_id(1) == entries - 1
            core.append(b"goes on")
    assert failed, "no failure had any effect"


def test_group_moves_to_a_new_segment_after_the_first_error(core: Core) -> None:
    """The sender notices nothing: the group is written once more, elsewhere, and the old file is left alone."""
    core.start()
    first = core.append(b"one")
    core.disk.fail = _fail_nth(core.disk, "sync_data", 1)
    second = core.append(b"two")
    assert second.path != first.path
    assert core.writer.failures == 1
    assert not core.writer.failed


def test_log_fails_at_the_second_error_within_a_minute(core: Core) -> None:
    """There is no third try; the log says so to everybody from then on."""
    core.start()
    core.append(b"one")
    core.disk.fail = _fail_nth(core.disk, "sync_data", 1)
    core.append(b"two")
    core.clock.now_ns += 59_000_000_000
    core.disk.fail = _fail_nth(core.disk, "write", 1)
    with pytest.raises(LogFailed):
        core.append(b"three")
    core.disk.fail = None
    with pytest.raises(LogFailed):
        core.append(b"four")


def test_log_forgives_an_error_after_a_minute(core: Core) -> None:
    """Single errors with time between them each cost a segment, not the service."""
    core.start()
    for _ in range(3):
        core.disk.fail = _fail_nth(core.disk, "sync_data", 1)
        core.append(b"one")
        core.clock.now_ns += 61_000_000_000
    assert not core.writer.failed
    assert core.writer.failures == 3


def test_file_is_never_synced_again_after_its_sync_failed(core: Core) -> None:
    """The second answer would be a lie: the kernel forgets which pages it could not write."""
    core.start()
    written = core.append(b"one")
    handle = next(handle for handle in core.disk.handles if core.disk._path(handle) == written.path)
    core.disk.fail = _fail_nth(core.disk, "sync_data", 1)
    core.append(b"two")
    assert handle not in core.disk.handles


def _fail_nth(disk: SimulatedDisk, operation: str, nth: int):  # type: ignore[no-untyped-def]
    left = {"calls": nth}

    def fail(number: int, name: str) -> OSError | None:
        if name == operation:
            left["calls"] -= 1
            if left["calls"] == 0:
                return OSError(errno.EIO, "injected")
        return None

    return fail
