"""Durations and sizes, as people write them."""

from __future__ import annotations

import pytest

from gateway.config.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0ms", 0),
        ("250ms", 250_000_000),
        ("1.5s", 1_500_000_000),
        ("5 s", 5_000_000_000),
        ("10m", 600_000_000_000),
        ("12h", 43_200_000_000_000),
        ("30d", 2_592_000_000_000_000),
    ],
)
def test_duration_is_read_in_nanoseconds(text: str, nanoseconds: int) -> None:
    """Each unit has its own factor; fractions and a space are allowed."""
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("64KiB", 65_536), ("8GiB", 8 << 30), ("0.5MiB", 524_288), ("1kB", 1_000), ("2TB", 2 * 10**12)],
)
def test_size_is_read_in_bytes(text: str, size: int) -> None:
    """Binary and decimal units are told apart."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "5", "-5s", "5 years", "s", "1_0s", "5S", "5Ms", "1e3s", "\u0665s", "5s5", f"{'9' * 400}s"]
)
def test_duration_refuses_what_is_no_duration(text: str) -> None:
    """A missing, unknown or misspelt unit is an error, never a guess."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["8", "8gib", "8 Gi", "8K", "-1KiB", ""])
def test_size_refuses_what_is_no_size(text: str) -> None:
    """`8K` could be 8,000 or 8,192: it is refused."""
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
