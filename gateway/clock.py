"""Time, as facts that are handed in: nothing below the roof asks the system for it by itself.

Order, deduplication, timers and retries use the monotonic clock. Wall time is only ever recorded, together with the
boot it belongs to and what is known about its quality (guarantee G7).
"""

from __future__ import annotations

import ctypes
import time
import uuid
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Protocol

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""
EARLIEST_PLAUSIBLE_WALL_NS = 1_735_689_600 * 1_000_000_000
"""2025-01-01: a clock that shows less was never set since the machine booted."""


class ClockQuality(IntEnum):
    """What is known about the wall clock when a time was taken. Stored in every commit group."""

    unknown = 0
    unset = 1
    """Earlier than this software: the machine has no battery clock and no network time yet."""
    unsynchronised = 2
    """Plausible, but the kernel says that nothing disciplines it."""
    synchronised = 3


class Clock(Protocol):
    """Where a part takes time from. Tests hand in one whose hands they move."""

    boot_id: bytes
    """16 bytes that name this boot of the machine."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back and stand still during suspend: deadlines, intervals."""

    def boottime_ns(self) -> int:
        """Nanoseconds since boot, suspend included: recorded beside wall time."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 as the machine believes. Never used for order."""

    def quality(self) -> ClockQuality:
        """What is known about `wall_ns` now."""


class _Timex(ctypes.Structure):
    """struct timex on 64-bit Linux. Source: adjtimex(2). Only `modes` is set, nothing is read but the return value."""

    _fields_ = [("modes", ctypes.c_uint), ("rest", ctypes.c_ubyte * 256)]


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.boot_id = _read_boot_id()
        self.boottime_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
        """Asked for every entry: a method around it would cost more than the clock does."""
        self._adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)

    def quality(self) -> ClockQuality:
        if time.time_ns() < EARLIEST_PLAUSIBLE_WALL_NS:
            return ClockQuality.unset
        if self._adjtimex is None:
            return ClockQuality.unknown
        state = self._adjtimex(ctypes.byref(_Timex()))
        if state < 0:
            return ClockQuality.unknown
        return ClockQuality.unsynchronised if state == TIME_ERROR else ClockQuality.synchronised


def _read_boot_id() -> bytes:
    try:
        return uuid.UUID(BOOT_ID_FILE.read_text().strip()).bytes
    except (OSError, ValueError):
        # Without /proc every start of the process counts as a boot: times are then never compared across starts.
        return uuid.uuid4().bytes
