"""Durations and sizes as people write them: `250ms`, `30d`, `8GiB`. Pure."""

from __future__ import annotations

import re

from gateway.limits import GIB, KIB, MIB, MS, SECOND

_QUANTITY = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)")
"""So many digits are more than any quantity needs and fewer than what a float can't hold."""
DURATIONS = {
    "ms": MS,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
}
"""Nanoseconds."""
SIZES = {
    "B": 1,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1024 * GIB,
    "kB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "TB": 1_000_000_000_000,
}
"""Bytes."""


def parse_duration(text: str) -> int:
    """A duration in nanoseconds. Raises: ValueError."""
    return _parse(text, DURATIONS, "a duration, such as 250ms, 5s, 10m, 12h or 30d")


def parse_size(text: str) -> int:
    """A size in bytes. Raises: ValueError."""
    return _parse(text, SIZES, "a size, such as 64KiB, 512MiB or 8GiB")


def _parse(text: str, units: dict[str, int], wanted: str) -> int:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"'{text}' is not {wanted}")
    return round(float(match[1]) * units[match[2]])
