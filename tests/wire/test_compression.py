"""Payloads compressed and inflated, and the bounds of that."""

from __future__ import annotations

import builtins
import tracemalloc
import zlib
from typing import Any

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.limits import DECOMPRESSED_SIZE_MAX, MIB
from gateway.wire import compression
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


def test_payloads_are_read_as_their_own_libraries_write_them() -> None:
    """A raw LZ4 block without a size in front, a zlib stream, zstd frames of any level, with a checksum or without."""
    data = bytes(range(256)) * 8
    for kind, written in (
        (CompressionType.lz4, lz4.block.compress(data, store_size=False)),
        (CompressionType.zlib, zlib.compress(data, 9)),
        (CompressionType.zstd, zstandard.ZstdCompressor(level=19, write_checksum=True).compress(data)),
    ):
        assert decompress(kind, written, len(data)) == data


def test_zstd_frame_without_its_size_is_taken_within_the_announced_one() -> None:
    """A streaming compressor does not know the size in advance; the metadata does."""
    stream = zstandard.ZstdCompressor().compressobj()
    frame = stream.compress(b"abc" * 100) + stream.flush()
    assert zstandard.frame_content_size(frame) == -1
    assert decompress(CompressionType.zstd, frame, 300) == b"abc" * 100
    with pytest.raises(ProtocolError):
        decompress(CompressionType.zstd, frame, 299)


def test_missing_snappy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library is an extra: without it there is an error with a hint, and every other kind goes on."""
    real_import = builtins.__import__

    def without_cramjam(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "cramjam":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    compression._snappy.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_cramjam)
    with pytest.raises(ProtocolError) as writing:
        compress(CompressionType.snappy, b"x")
    with pytest.raises(ProtocolError) as reading:
        decompress(CompressionType.snappy, b"x", 1)
    assert "headwater[snappy]" in writing.value.hint == reading.value.hint
    assert decompress(CompressionType.lz4, compress(CompressionType.lz4, b"x"), 1) == b"x"


def test_context_in_use_is_in_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that shared one would break it: it is taken out for as long as it works, and put back after an error."""
    monkeypatch.setattr(compression, "_decompressors", [])
    frame = compress(CompressionType.zstd, b"abc" * 100)
    with pytest.raises(ProtocolError):
        decompress(CompressionType.zstd, frame[:-4], 300)
    (context,) = compression._decompressors

    class Watched:
        def decompress(self, data: bytes, *, max_output_size: int) -> bytes:
            assert compression._decompressors == []
            return context.decompress(data, max_output_size=max_output_size)

    compression._decompressors[:] = [Watched()]  # type: ignore[list-item]
    assert decompress(CompressionType.zstd, frame, 300) == b"abc" * 100
    assert len(compression._decompressors) == 1
