"""How the payload of an entry is compressed, both ways and within bounds. Pure.

The broker never opens a payload; consumers inside the gateway and the command line do. Whatever a publisher wrote as
the uncompressed size is a claim: nothing is inflated beyond it, nor beyond DECOMPRESSED_SIZE_MAX. Source:
PulsarApi.proto, CompressionType.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from functools import cache
from typing import Any

import lz4.block  # type: ignore[import-untyped]
import zstandard

from gateway.errors import ProtocolError
from gateway.limits import DECOMPRESSED_SIZE_MAX

ZSTD_LEVEL = 3
"""What Pulsar's clients use."""


class CompressionType(IntEnum):
    """MessageMetadata.compression."""

    none = 0
    lz4 = 1
    zlib = 2
    zstd = 3
    snappy = 4


def compress(kind: int, data: bytes) -> bytes:
    """Compress a payload. Raises: ProtocolError (local) for a kind that can't be had here."""
    if kind == CompressionType.none:
        return data
    if kind == CompressionType.lz4:
        # A raw block: its size stands in the metadata.
        return bytes(lz4.block.compress(data, store_size=False))
    if kind == CompressionType.zlib:
        return zlib.compress(data)
    if kind == CompressionType.zstd:
        return _zstd_compress(data)
    if kind == CompressionType.snappy:
        return bytes(_snappy().snappy.compress_raw(data))
    raise ProtocolError(f"there is no compression {kind}", local=True)


def decompress(kind: int, data: bytes, uncompressed_size: int) -> bytes:
    """Inflate a payload to exactly `uncompressed_size` bytes. Raises: ProtocolError."""
    if kind == CompressionType.none:
        return data
    if uncompressed_size > DECOMPRESSED_SIZE_MAX:
        raise ProtocolError(f"a payload of {uncompressed_size} bytes; at most {DECOMPRESSED_SIZE_MAX} are inflated")
    if not data and not uncompressed_size:
        # An encoder may make nothing of nothing, which is no frame or block.
        return b""
    inflate = _INFLATE.get(kind)
    if inflate is None:
        raise ProtocolError(f"a payload is compressed in the unknown way {kind}")
    try:
        inflated = inflate(data, uncompressed_size)
    except (zlib.error, zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        raise ProtocolError(f"a payload can't be inflated: {error}") from error
    if len(inflated) != uncompressed_size:
        raise ProtocolError(f"a payload inflates to {len(inflated)} bytes; {uncompressed_size} were announced")
    return inflated


def _lz4_inflate(data: bytes, size: int) -> bytes:
    return bytes(lz4.block.decompress(data, uncompressed_size=size))


def _zlib_inflate(data: bytes, size: int) -> bytes:
    # One byte of room more, so that a longer payload is noticed and 0 does not mean "without a bound". That the stream
    # has an end is not asked for: a client that flushes instead of finishing sends one without.
    return zlib.decompressobj().decompress(data, size + 1)


def _zstd_inflate(data: bytes, size: int) -> bytes:
    # The frame's own idea of its size counts first in this library, so it is checked before anything is allocated.
    announced = zstandard.frame_content_size(data)
    if announced > size:
        raise ProtocolError(f"a payload inflates to {announced} bytes; {size} were announced")
    try:
        context = _decompressors.pop()
    except IndexError:
        context = zstandard.ZstdDecompressor()
    try:
        return context.decompress(data, max_output_size=size)
    finally:
        _decompressors.append(context)


def _zstd_compress(data: bytes) -> bytes:
    try:
        context = _compressors.pop()
    except IndexError:
        context = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    try:
        return context.compress(data)
    finally:
        _compressors.append(context)


def _snappy_inflate(data: bytes, size: int) -> bytes:
    cramjam = _snappy()
    inflated = bytearray(size)
    try:
        length = cramjam.snappy.decompress_raw_into(data, inflated)
    except cramjam.DecompressionError as error:
        raise ProtocolError(f"a payload can't be inflated: {error}") from error
    return bytes(inflated[:length])


_INFLATE = {
    int(CompressionType.lz4): _lz4_inflate,
    int(CompressionType.zlib): _zlib_inflate,
    int(CompressionType.zstd): _zstd_inflate,
    int(CompressionType.snappy): _snappy_inflate,
}

# Contexts at rest: making one costs about 15 µs, many times what a small payload does. One that is in use is in neither
# list, so two threads never share one, and there are never more than threads.
_compressors: list[zstandard.ZstdCompressor] = []
_decompressors: list[zstandard.ZstdDecompressor] = []


@cache
def _snappy() -> Any:
    try:
        import cramjam
    except ImportError:
        raise ProtocolError(
            "Snappy is not installed", local=True, hint="install the extra: pip install 'headwater[snappy]'"
        ) from None
    return cramjam
