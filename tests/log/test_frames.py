"""Runs and records in frames: cut, packed, compressed, read back."""

from __future__ import annotations

from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ClockQuality
from gateway.errors import LogDamaged
from gateway.limits import FRAME_RAW_SIZE_MAX
from gateway.log.format import FrameItem, GroupHeader, crc32c, decode_directory, decode_frame_table, decode_group_header
from gateway.log.frames import ClockFacts, encode_group, inflate, make_compressor, unpack_records, unpack_run

SALT = bytes(16)
CLOCK = ClockFacts(bytes(16), 10_000_000_000, 1_800_000_000_000_000_000, ClockQuality.synchronised)

Runs = list[tuple[int, int, list[Any]]]


def read_group(packed: bytes) -> tuple[GroupHeader, Runs, list[tuple[int, bytes]], list[FrameItem]]:
    """Take a group apart, by nothing but the format. Runs of a ledger come as they lie in frames."""
    header = decode_group_header(packed[:128], SALT)
    assert header is not None
    tables = packed[128 : 128 + header.tables_bytes]
    assert crc32c(tables) == header.tables_crc
    directory = decode_directory(tables[: header.directory_bytes])
    items = decode_frame_table(tables[header.directory_bytes :])
    offset = 128 + header.tables_bytes
    raws = []
    for item in items:
        raws.append(inflate(item, packed[offset : offset + item.stored_length], zstandard.ZstdDecompressor()))
        offset += item.stored_length
    assert offset == header.stored_bytes
    assert not any(packed[offset:])
    runs: Runs = []
    for run in directory:
        columns = unpack_run(raws[run.frame], run.offset)
        assert len(columns.ends) == run.entries
        assert sum(columns.messages) == run.messages
        flat: list[Any] = []
        begin = columns.start
        for end, messages, age in zip(columns.ends, columns.messages, columns.ages, strict=True):
            flat += (raws[run.frame][begin:end], messages, CLOCK.boottime_ns - age * 1_000_000)
            begin = end
        runs.append((run.ledger_id, run.first_entry_id, flat))
    records = [record for raw, item in zip(raws, items, strict=True) if item.content for record in unpack_records(raw)]
    return header, runs, records, items


def encode(runs: Runs, records: list[tuple[int, bytes]], *, compress: bool = True, align: int = 4096) -> bytes:
    group = encode_group(runs, records, CLOCK, compressor=make_compressor() if compress else None, align=align)
    packed, crc = group.placed(salt=SALT, group_number=3, previous_crc=4, align=align)
    assert len(packed) % align == 0
    assert crc32c(packed[:124]) == crc
    return packed


def flat(datas: list[bytes]) -> list[Any]:
    values: list[Any] = []
    for index, data in enumerate(datas):
        values += (data, 1 + index % 5, CLOCK.boottime_ns - index * 1_000_000)
    return values


entries = st.one_of(
    st.lists(st.binary(max_size=60), min_size=1, max_size=30),
    st.lists(st.integers(0, 70_000).map(lambda size: b"z" * size), min_size=1, max_size=4),
)


@given(
    st.dictionaries(st.integers(1, 2**40), st.tuples(st.integers(0, 2**40), entries), max_size=6),
    st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=50_000)), max_size=5),
    st.booleans(),
)
def test_group_is_read_as_it_was_assembled(
    ledgers: dict[int, tuple[int, list[bytes]]], records: list[tuple[int, bytes]], compress: bool
) -> None:
    """Any entries of any ledgers and any records, in their order; no frame exceeds its bound but with a single item."""
    runs = [(ledger_id, first, flat(datas)) for ledger_id, (first, datas) in ledgers.items()]
    header, found, found_records, items = read_group(encode(runs, records, compress=compress))
    assert header.records == len(records) + sum(len(datas) for _, datas in ledgers.values())
    assert found_records == records
    joined: dict[int, tuple[int, list[Any]]] = {}
    for ledger_id, first, values in found:
        if ledger_id in joined:
            known_first, known = joined[ledger_id]
            assert first == known_first + len(known) // 3
            known += values
        else:
            joined[ledger_id] = (first, values)
    assert joined == {ledger_id: (first, values) for ledger_id, first, values in runs}
    assert [run[0] for run in found] == sorted(run[0] for run in found)
    oversized = [item for item in items if item.raw_length > FRAME_RAW_SIZE_MAX]
    large = sum(len(data) > FRAME_RAW_SIZE_MAX - 20 for _, datas in ledgers.values() for data in datas)
    assert len(oversized) <= large


def test_large_entry_is_a_frame_of_its_own() -> None:
    """Its neighbours are not inflated with it."""
    _, runs, _, items = read_group(encode([(1, 0, flat([b"a", b"b" * 70_000, b"c"]))], []))
    assert len(items) == 3
    assert [len(values) // 3 for _, _, values in runs] == [1, 1, 1]


def test_frame_is_compressed_only_where_that_saves_a_tenth() -> None:
    """Sensor JSON shrinks, random bytes stay as they are; codecs are chosen frame by frame."""
    import random

    chance = random.Random(1)
    json = [b'{"device":"boiler-%d","celsius":%d}' % (index % 7, index) for index in range(1500)]
    noise = [chance.randbytes(1000) for _ in range(60)]
    _, _, _, items = read_group(encode([(1, 0, flat(json)), (2, 0, flat(noise))], []))
    assert {item.codec for item in items} == {0, 1}
    for item in items:
        assert (item.codec == 1) == (item.stored_length * 10 < item.raw_length * 9)


def test_group_that_fits_one_unit_is_not_compressed() -> None:
    """It would take the same bytes of the device and cost time."""
    datas = [b'{"device":"boiler"}'] * 50
    _, _, _, items = read_group(encode([(1, 0, flat(datas))], [], align=4096))
    assert [item.codec for item in items] == [0]
    _, _, _, items = read_group(encode([(1, 0, flat(datas * 10))], [], align=4096))
    assert [item.codec for item in items] == [1]


def test_arrival_later_than_the_seal_becomes_age_zero() -> None:
    """A caller's slip costs its own stamp, not the group."""
    _, runs, _, _ = read_group(encode([(1, 0, [b"a", 1, CLOCK.boottime_ns + 5_000_000_000])], []))
    assert runs == [(1, 0, [b"a", 1, CLOCK.boottime_ns])]


@pytest.mark.parametrize("change", ["bytes", "short", "codec", "raw length"])
def test_damaged_frame_is_refused(change: str) -> None:
    """Nothing of it is handed out."""
    raw = b"abc" * 1000
    stored = make_compressor().compress(raw)
    item = FrameItem(len(stored), len(raw), crc32c(stored), 1, 0)
    decompressor = zstandard.ZstdDecompressor()
    assert inflate(item, stored, decompressor) == raw
    if change == "bytes":
        stored = stored[:-1] + bytes((stored[-1] ^ 1,))
    elif change == "short":
        stored = stored[:-1]
    elif change == "codec":
        item = item._replace(codec=9)
    else:
        item = item._replace(raw_length=2999)
    with pytest.raises(LogDamaged):
        inflate(item, stored, decompressor)
