"""Keys meet the partitions that Pulsar's own clients choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.partitions import choose_partition, java_string_hash


@pytest.mark.parametrize(
    ("text", "expected"),
    # What Java prints for hashCode() & Integer.MAX_VALUE.
    [("", 0), ("a", 97), ("hello", 99_162_322), ("polygenelubricants", 0), ("äöü", 228 * 31**2 + 246 * 31 + 252)],
)
def test_hash_is_javas(text: str, expected: int) -> None:
    """Known values; the fourth is Java's famous Integer.MIN_VALUE."""
    assert java_string_hash(text) == expected


def test_hash_counts_utf_16_units() -> None:
    """A character outside the basic plane is two chars in Java."""
    assert java_string_hash("😀") == 0xD83D * 31 + 0xDE00


@given(st.text(), st.integers(1, 1_000))
def test_partition_is_one_that_exists_and_stays(key: str, partitions: int) -> None:
    """The same key, the same partition."""
    assert 0 <= choose_partition(key, partitions) < partitions
    assert choose_partition(key, partitions) == choose_partition(key, partitions)
