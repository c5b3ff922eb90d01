"""Acknowledgements within a batch, as words on the wire and as masks in a cursor."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.acks import WORD_BITS, mask_of_words, still_unacked, words_of_mask
from gateway.wire.commands import MessageIdData

masks = st.integers(0, 2**200 - 1)
words = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)


@given(masks)
def test_mask_survives_the_wire(mask: int) -> None:
    """What a cursor still waits for is what a consumer reads, the sign bit of each word included."""
    sent = MessageIdData(ledgerId=1, entryId=2, ack_set=words_of_mask(mask)).SerializeToString()
    assert mask_of_words(MessageIdData.FromString(sent).ack_set, 200) == mask


@given(words, st.integers(0, 300))
def test_mask_has_a_bit_for_each_message_that_a_word_names(words: list[int], size: int) -> None:
    """Message i stands in bit i % 64 of word i // 64; bits behind the end of the batch mean nothing."""
    mask = mask_of_words(words, size)
    expected = {
        index
        for index in range(size)
        if index // WORD_BITS < len(words) and words[index // WORD_BITS] >> index % WORD_BITS & 1
    }
    assert {index for index in range(mask.bit_length()) if mask >> index & 1} == expected


def test_mask_of_a_size_that_is_a_lie_costs_nothing() -> None:
    """The size comes from a publisher: 2^31 messages would be a number of 256 MiB, and minus one would be no number."""
    tracemalloc.start()
    try:
        assert mask_of_words((5,), 2**31 - 1) == 5
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert mask_of_words((5,), -1) == 0


@given(st.integers(1, 200), st.data())
def test_consumer_acknowledges_one_message_of_a_batch(size: int, data: st.DataObject) -> None:
    """All but that one stay, so that the broker delivers them again."""
    index = data.draw(st.integers(0, size - 1))
    everything = (1 << size) - 1
    assert mask_of_words(still_unacked(index, size, cumulative=False), size) == everything & ~(1 << index)


@given(st.integers(1, 200), st.data())
def test_consumer_acknowledges_a_batch_up_to_a_message(size: int, data: st.DataObject) -> None:
    """Those behind it stay, none before it."""
    index = data.draw(st.integers(0, size - 1))
    left = mask_of_words(still_unacked(index, size, cumulative=True), size)
    assert left == sum(1 << behind for behind in range(index + 1, size))


@pytest.mark.parametrize("size", [1, 64, 65])
def test_acknowledging_the_last_message_still_names_the_batch(size: int) -> None:
    """An empty ack_set would mean the whole entry even where earlier messages are not done with."""
    assert still_unacked(size - 1, size, cumulative=True) == [0] * -(-size // WORD_BITS)
