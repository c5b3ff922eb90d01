"""ack_set words and the masks that they carry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.acks import mask_of_words, still_unacked, words_of_mask


@given(st.integers(0, 2**200))
def test_mask_comes_back_from_its_words(mask: int) -> None:
    """Words are signed 64-bit numbers, as the protocol's field is."""
    words = words_of_mask(mask)
    assert all(-(2**63) <= word < 2**63 for word in words)
    assert mask_of_words(words, 256) == mask


def test_words_are_those_of_a_java_bit_set() -> None:
    """Least significant bit first, word by word; the sign bit is message 63."""
    assert words_of_mask(0) == ()
    assert words_of_mask(0b101) == (5,)
    assert words_of_mask(1 << 63) == (-(2**63),)
    assert words_of_mask(1 << 64) == (0, 1)


def test_bits_beyond_the_batch_do_not_count() -> None:
    """A peer may leave bits set that no message has."""
    assert mask_of_words([-1, -1], 3) == 0b111


@given(st.integers(1, 200), st.data())
def test_one_message_is_acknowledged_or_all_up_to_it(size: int, data: st.DataObject) -> None:
    """What is left is everything but that message, or everything behind it; there is a word even where nothing is."""
    index = data.draw(st.integers(0, size - 1))
    single = still_unacked(index, size, cumulative=False)
    assert {bit for bit in range(size) if mask_of_words(single, size) >> bit & 1} == set(range(size)) - {index}
    cumulative = still_unacked(index, size, cumulative=True)
    assert {bit for bit in range(size) if mask_of_words(cumulative, size) >> bit & 1} == set(range(index + 1, size))
    assert len(single) == len(cumulative) == (size + 63) // 64
