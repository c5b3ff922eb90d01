"""Messages put together again from chunks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client import chunks as chunks_module
from gateway.client.chunks import MESSAGES_UNDER_WAY_MAX, ChunkAssembler
from gateway.errors import ProtocolError
from gateway.limits import DECOMPRESSED_SIZE_MAX
from gateway.message import Position
from gateway.wire.metadata import MessageMetadata


def metadata(number: int, count: int, *, uuid: str = "u", size: int = 100) -> Any:
    return MessageMetadata(uuid=uuid, chunk_id=number, num_chunks_from_msg=count, total_chunk_msg_size=size)


def place(entry_id: int) -> Position:
    return Position(1, entry_id)


def add(assembler: ChunkAssembler, number: int, count: int, entry_id: int, uuid: str = "u") -> bytes | None:
    """The chunk's payload is its number as a letter."""
    return assembler.add(metadata(number, count, uuid=uuid), bytes([97 + number]), place(entry_id))


def test_message_comes_with_its_last_chunk() -> None:
    """Whole, in order, and only then; a message in one chunk at once."""
    assembler = ChunkAssembler()
    assert [add(assembler, number, 3, number) for number in range(3)] == [None, None, b"abc"]
    assert add(assembler, 0, 1, 3) == b"a"


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(2, 4)), min_size=1, max_size=3, unique_by=lambda m: m[0]))
def test_messages_may_be_interleaved(messages: list[tuple[str, int]]) -> None:
    """Producers of one topic send at the same time: chunks are told apart by the uuid."""
    assembler = ChunkAssembler()
    whole = {}
    for number in range(4):
        for uuid, count in messages:
            if number < count and (payload := add(assembler, number, count, 0, uuid)) is not None:
                whole[uuid] = payload
    assert whole == {uuid: b"abcd"[:count] for uuid, count in messages}


def test_chunk_that_comes_twice_counts_once() -> None:
    """A producer that was not sure sends a chunk again; both entries are acknowledged with the message."""
    assembler = ChunkAssembler()
    for entry_id, number in enumerate([0, 1, 0, 1, 1]):
        assert add(assembler, number, 3, entry_id) is None
    assert add(assembler, 2, 3, 5) == b"abc"
    assert assembler.take_places(place(5)) == [place(entry_id) for entry_id in range(5)]


def test_message_without_its_beginning_or_middle_is_dropped() -> None:
    """A reader that began in the middle, a chunk that is gone: what is there is of no use, and what follows works."""
    assembler = ChunkAssembler()
    assert [add(assembler, number, 3, number) for number in (1, 2)] == [None, None]
    assert [add(assembler, number, 3, number) for number in (0, 2)] == [None, None]
    assert add(assembler, 2, 3, 9) is None
    assert [add(assembler, number, 3, number) for number in range(3)] == [None, None, b"abc"]


def test_places_of_the_other_chunks_are_told_once() -> None:
    """Who acknowledges a message acknowledges the entries before it, by the place it goes by."""
    assembler = ChunkAssembler()
    for number in range(3):
        add(assembler, number, 3, 10 + number)
    assert assembler.take_places(place(11)) == []
    assert assembler.take_places(place(12)) == [place(10), place(11)]
    assert assembler.take_places(place(12)) == []


def test_places_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that never acknowledges costs no more and no more memory: the oldest are forgotten."""
    monkeypatch.setattr(chunks_module, "MESSAGES_DELIVERED_MAX", 2)
    assembler = ChunkAssembler()
    for message in range(3):
        add(assembler, 0, 2, 10 * message, str(message))
        add(assembler, 1, 2, 10 * message + 1, str(message))
    assert [bool(assembler.take_places(place(10 * message + 1))) for message in range(3)] == [False, True, True]


def test_messages_under_way_are_bounded() -> None:
    """Above so many at a time, the one that waited longest for a chunk is given up, and no other."""
    assembler = ChunkAssembler()
    for message in range(MESSAGES_UNDER_WAY_MAX):
        add(assembler, 0, 3, message, str(message))
    add(assembler, 1, 3, 100, "0")
    add(assembler, 0, 3, 101, "one more")
    finished = [uuid for uuid in ("1", "2") if add(assembler, 1, 3, 102, uuid) or add(assembler, 2, 3, 103, uuid)]
    assert finished == ["2"]
    assert add(assembler, 2, 3, 104, "0") == b"abc"


@pytest.mark.parametrize("payload", [b"", bytes(50)])
def test_bytes_held_are_bounded(monkeypatch: pytest.MonkeyPatch, payload: bytes) -> None:
    """However many chunks come, of whatever size, what is held stays below the bound; empty ones cost something too."""
    monkeypatch.setattr(chunks_module, "DECOMPRESSED_SIZE_MAX", 1_000)
    assembler = ChunkAssembler()
    for number in range(1_000):
        assembler.add(metadata(number, 2_000), payload, place(number))
        assert assembler._size <= 1_000
        held = sum(map(len, assembler._under_way["u"].payloads)) if assembler._under_way else 0
        assert held <= assembler._size
    assert not assembler._under_way


def test_counted_bytes_return_to_nothing() -> None:
    """What is finished, dropped or begun anew is not counted any more."""
    assembler = ChunkAssembler()
    for numbers in ([0, 1, 2], [0, 2], [0, 0, 1, 1, 2], [1, 2]):
        for number in numbers:
            add(assembler, number, 3, number)
    assert assembler._size == 0
    assert not assembler._under_way


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [(0, 0, 1), (-1, 2, 1), (2, 2, 1), (0, -1, 1), (0, 2, DECOMPRESSED_SIZE_MAX + 1), (0, 2, -1)],
)
def test_impossible_chunk_is_refused(number: int, count: int, size: int) -> None:
    """Numbers that no chunk has, and messages that are larger than would ever be kept."""
    with pytest.raises(ProtocolError):
        ChunkAssembler().add(metadata(number, count, size=size), b"x", place(0))
