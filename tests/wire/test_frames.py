"""Frames out of byte streams, however they are cut, and entries out of what clients put behind a command."""

from __future__ import annotations

import itertools
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.limits import FRAME_SIZE_MAX
from gateway.wire.entry import build_entry, crc32c
from gateway.wire.frames import FrameSplitter, frame_command, frame_payload_command, make_entry

commands = st.binary(min_size=1, max_size=40)
frames = st.lists(st.tuples(commands, st.binary(max_size=60)), max_size=8)


def encode(command: bytes, behind: bytes) -> bytes:
    return frame_payload_command(command, behind) + behind if behind else frame_command(command)


def split(stream: bytes, cuts: list[int]) -> list[tuple[bytes, bytes]]:
    """The commands, and what stands behind each, when the stream arrives in pieces."""
    splitter = FrameSplitter()
    found = []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        buffer, complete = splitter.feed(stream[start:end])
        found += [(buffer[first:last], buffer[last:behind]) for first, last, behind in complete]
    assert splitter.held_bytes == 0
    return found


@given(frames, st.lists(st.integers(0, 800), max_size=30))
def test_splitter_finds_the_same_frames_wherever_the_stream_is_cut(
    sent: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    """TCP cuts where it likes: in a size, in a command, between frames, at nothing at all."""
    assert split(b"".join(encode(*frame) for frame in sent), cuts) == sent


def test_splitter_takes_a_frame_byte_by_byte() -> None:
    """More pieces than it keeps apart."""
    sent = [(b"c" * 3_000, b"p" * 2_000), (b"d", b"")]
    stream = b"".join(encode(*frame) for frame in sent)
    assert split(stream, list(range(len(stream)))) == sent


def test_frame_that_comes_byte_by_byte_costs_no_more_than_its_bytes() -> None:
    """A peer that sends a large frame in tiny pieces can't make the gateway keep an object for each."""
    size = 20_000
    stream = encode(b"c", bytes(size))
    splitter = FrameSplitter()
    held = 0
    for index in range(len(stream) - 1):
        splitter.feed(stream[index : index + 1])
        if index % 500 == 0:
            held = max(held, sum(map(sys.getsizeof, splitter._chunks)))
    assert size < held < 4 * size


@given(frames, st.integers(0, 800))
def test_splitter_counts_what_it_holds(sent: list[tuple[bytes, bytes]], cut: int) -> None:
    """The bytes behind the last complete frame, which the server bounds over all connections."""
    stream = b"".join(encode(*frame) for frame in sent)[:cut]
    splitter = FrameSplitter()
    _, complete = splitter.feed(stream)
    assert splitter.held_bytes == len(stream) - (complete[-1][2] if complete else 0)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">II", FRAME_SIZE_MAX + 1, 10),
        struct.pack(">II", 2**32 - 1, 10),
        struct.pack(">II", 10, 7),
        struct.pack(">II", 3, 0),
        struct.pack(">II", 0, 0),
        b"GET / HT",
    ],
)
def test_splitter_refuses_sizes_that_no_frame_has(head: bytes) -> None:
    """At the head, before the rest is waited for or a byte is set aside for it."""
    with pytest.raises(ProtocolError):
        FrameSplitter().feed(head)


def test_splitter_takes_the_largest_frame() -> None:
    """The bound itself is allowed."""
    sent = [(b"c", bytes(FRAME_SIZE_MAX - 5))]
    assert split(encode(*sent[0]), [7, 8, 1_000_000]) == sent


metadata_and_payload = st.tuples(st.binary(max_size=50), st.binary(max_size=100))


@given(metadata_and_payload)
def test_entry_is_stored_as_it_came(parts: tuple[bytes, bytes]) -> None:
    """With its checksum it is not touched."""
    entry = build_entry(*parts)
    assert make_entry(entry) == entry


@given(metadata_and_payload, st.binary(max_size=30))
def test_broker_metadata_is_cut_off(parts: tuple[bytes, bytes], broker_metadata: bytes) -> None:
    """A 0x0e02 block belongs to the broker that wrote it."""
    entry = build_entry(*parts)
    block = b"\x0e\x02" + struct.pack(">I", len(broker_metadata)) + broker_metadata
    assert make_entry(block + entry) == entry
    assert make_entry(block + entry[6:]) == entry


@given(metadata_and_payload)
def test_checksum_is_added_where_there_is_none(parts: tuple[bytes, bytes]) -> None:
    """Clients below protocol version 6 send none; whatever is stored has one."""
    entry = build_entry(*parts)
    assert make_entry(entry[6:]) == entry
    assert entry[:6] == b"\x0e\x01" + struct.pack(">I", crc32c(entry[6:]))


@given(metadata_and_payload, st.data())
def test_damaged_entry_is_none(parts: tuple[bytes, bytes], data: st.DataObject) -> None:
    """One flipped bit anywhere behind the magic is noticed."""
    entry = bytearray(build_entry(*parts))
    place = data.draw(st.integers(2, len(entry) - 1))
    entry[place] ^= 1 << data.draw(st.integers(0, 7))
    assert make_entry(bytes(entry)) is None


@given(st.binary(max_size=30) | st.binary(max_size=12).map(lambda rest: b"\x0e\x02" + rest))
def test_block_of_anything_is_an_entry_or_an_error(block: bytes) -> None:
    """Nothing but ProtocolError leaves the module."""
    try:
        entry = make_entry(block)
    except ProtocolError:
        return
    assert entry is None or crc32c(entry[6:]) == int.from_bytes(entry[2:6], "big")
