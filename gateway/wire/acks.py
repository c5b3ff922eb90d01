"""ack_set: which messages of a batch are still to be delivered, as the wire carries it. Pure.

Signed 64-bit words, least significant bits first; bit i set means that message i is *not* acknowledged.
Source: PulsarApi.proto, MessageIdData.ack_set and CommandMessage.ack_set.
"""

from __future__ import annotations

from collections.abc import Iterable

WORD_BITS = 64
_WORD = 2**WORD_BITS - 1


def words_of_mask(mask: int) -> tuple[int, ...]:
    """A bit mask as words; words of zeros at the end are left out."""
    words = []
    while mask:
        words.append(_signed(mask & _WORD))
        mask >>= WORD_BITS
    return tuple(words)


def mask_of_words(words: Iterable[int], size: int) -> int:
    """The bits of words, cut to a batch of `size` messages; of a size of 0 or less nothing is left.

    `size` is a publisher's claim: no number is made that is longer than the words.
    """
    mask = 0
    bits = 0
    for word in words:
        mask |= (word & _WORD) << bits
        bits += WORD_BITS
    return mask if size >= bits else mask & ((1 << max(0, size)) - 1)


def still_unacked(batch_index: int, batch_size: int, *, cumulative: bool) -> list[int]:
    """The ack_set that acknowledges one message of a batch, or (cumulative) it and those before it.

    At least one word: an empty set would mean the whole entry.
    """
    mask = (1 << batch_size) - 1
    mask &= ~((1 << (batch_index + 1)) - 1) if cumulative else ~(1 << batch_index)
    return [_signed((mask >> shift) & _WORD) for shift in range(0, batch_size, WORD_BITS)]


def _signed(word: int) -> int:
    return word - 2**WORD_BITS if word >= 2 ** (WORD_BITS - 1) else word
