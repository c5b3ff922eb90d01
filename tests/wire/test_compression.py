"""Payloads compressed and inflated, and the bounds of that."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.limits import DECOMPRESSED_SIZE_MAX, MIB
from gateway.wire.compression import CompressionType, compress, decompress

KINDS = [kind for kind in CompressionType if kind]
BOMB_SIZE = 32 * MIB


@pytest.mark.parametrize("kind", CompressionType)
@given(data=st.binary(max_size=500) | st.binary(max_size=20).map(lambda part: part * 100))
def test_payload_comes_back(kind: CompressionType, data: bytes) -> None:
    """Whatever it is, nothing included."""
    assert decompress(kind, compress(kind, data), len(data)) == data


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=200), claimed=st.integers(0, 300))
def test_size_that_is_not_the_announced_one_is_refused(kind: CompressionType, data: bytes, claimed: int) -> None:
    """Too long or too short: the announcement is part of what a publisher must get right."""
    if claimed == len(data):
        return
    with pytest.raises(ProtocolError):
        decompress(kind, compress(kind, data), claimed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("claimed", [0, 1, 1_000])
def test_bomb_is_not_inflated(kind: CompressionType, claimed: int) -> None:
    """A small payload that would fill the memory is noticed before it does."""
    bomb = compress(kind, bytes(BOMB_SIZE))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decompress(kind, bomb, claimed)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_announced_size_is_bounded(kind: CompressionType) -> None:
    """Nothing is set aside for a claim that no batch fulfils."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decompress(kind, b"x", DECOMPRESSED_SIZE_MAX + 1)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [*KINDS, 5, 99, -1])
@given(data=st.binary(min_size=1, max_size=100), size=st.integers(0, 2_000))
def test_garbage_raises_nothing_else(kind: int, data: bytes, size: int) -> None:
    """No library's own error leaves the module."""
    try:
        inflated = decompress(kind, data, size)
    except ProtocolError:
        return
    assert len(inflated) == size


def test_unknown_kind_is_refused_both_ways() -> None:
    """And tells whose mistake it is."""
    with pytest.raises(ProtocolError) as writing:
        compress(7, b"x")
    with pytest.raises(ProtocolError) as reading:
        decompress(7, b"x", 1)
    assert (writing.value.local, reading.value.local) == (True, False)


def test_zlib_stream_without_an_end_is_taken() -> None:
    """A client that flushes instead of finishing sends one."""
    stream = zlib.compressobj()
    data = stream.compress(b"abc" * 100) + stream.flush(zlib.Z_SYNC_FLUSH)
    assert decompress(CompressionType.zlib, data, 300) == b"abc" * 100
