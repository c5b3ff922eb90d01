"""One round of sending, against a producer whose receipts a test hands out one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.client.api import ReceivedEntry
from gateway.client.messages import encode_entry
from gateway.client.remote_producer import Stream
from gateway.errors import BrokerError, ProtocolError
from gateway.limits import REPLICATION_WINDOW
from gateway.message import Entry, OutgoingMessage, Position
from gateway.replication.extension import Extension
from gateway.replication.progress import Progress
from gateway.replication.sender import Sender
from tests.replication.conftest import eventually


class Producer:
    """Takes entries and says nothing by itself."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.sent: list[int] = []
        self.writable = True

    def stream_entry(self, data: bytes, sequence_id: int, messages: int) -> None:
        self.sent.append(sequence_id)


class Reader:
    """Gives what a test puts in, then waits."""

    def __init__(self, payloads: Sequence[bytes], *, first: int = 0, path: str = "") -> None:
        self._entries: asyncio.Queue[list[ReceivedEntry]] = asyncio.Queue()
        self._next = first
        self.put(payloads, path=path)

    def put(self, payloads: Sequence[bytes], *, path: str = "") -> None:
        entries = []
        for payload in payloads:
            message = OutgoingMessage(payload, properties={"headwater.path": path} if path else {})
            data = encode_entry(message, producer_name="device", sequence_id=0, publish_time_ms=1)
            entries.append(ReceivedEntry("t", Entry(Position(1, self._next), data, 1), -1, 0, ()))
            self._next += 1
        self._entries.put_nowait(entries)

    async def read_entries(self, entries_max: int) -> list[ReceivedEntry]:
        return await self._entries.get()


class Round:
    """A sender at work."""

    def __init__(self, reader: Reader, progress: Progress | None = None) -> None:
        self.producer = Producer()
        self.progress = progress or Progress()
        self.parked: dict[int, str] = {}
        self.persisted: list[int] = []
        producer: Any = self.producer
        self.sender = Sender(
            producer,
            self.progress,
            Extension("headwater/hall-7/a1/1", incarnation="a1", size_max=1_000),
            persist=self._persist,
            park=self._park,
        )
        source: Any = reader
        self.running = asyncio.ensure_future(self.sender.run(source))

    async def _persist(self) -> None:
        self.persisted.append(self.progress.confirmed)
        self.progress.persisted = self.progress.confirmed

    async def _park(self, entry_id: int, reason: str) -> None:
        self.parked[entry_id] = reason

    async def has_sent(self, last: int) -> None:
        await eventually(lambda: self.producer.sent[-1:] == [last])

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


async def test_sender_believes_no_receipt_after_a_refusal() -> None:
    """Later ids may have passed the refused one: what was confirmed before it stays, the rest is open."""
    work = Round(Reader([b"x"] * 5))
    await work.has_sent(4)
    work.sender.confirmed(1, 2)
    work.sender.refused(3, BrokerError("a bookie failed"))
    work.sender.confirmed(2, 1)
    with pytest.raises(BrokerError, match="a bookie failed"):
        await work.running
    assert (work.progress.confirmed, work.progress.suspect) == (1, 3)
    work.progress.check_invariants()


async def test_sender_believes_no_receipt_after_its_end() -> None:
    """The next round sends these entries again, and counts their receipts then."""
    work = Round(Reader([b"x"] * 5))
    await work.has_sent(4)
    work.sender.confirmed(0, 1)
    work.sender.closed(ProtocolError("lost"))
    with pytest.raises(ProtocolError, match="lost"):
        await work.running
    work.sender.confirmed(4, 4)
    assert (work.progress.confirmed, work.progress.sent) == (0, 0)
    assert work.producer.stream is None


async def test_sender_passes_what_is_never_sent_only_when_all_before_it_is_confirmed() -> None:
    """Else the confirmed id would claim entries that are under way."""
    reader = Reader([b"x"] * 3)
    reader.put([b"came back"], path="a1")
    reader.put([b"y" * 2_000, b"z"])
    work = Round(reader)
    await work.has_sent(2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert work.progress.confirmed == -1
    work.sender.confirmed(1, 2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (work.progress.confirmed, work.parked) == (1, {})
    work.sender.confirmed(2, 1)
    await work.has_sent(5)
    assert (work.progress.confirmed, work.progress.acknowledged) == (4, 2)
    assert list(work.parked) == [4]
    await work.end()


async def test_sender_starts_behind_what_is_confirmed() -> None:
    """A reader that begins too early doubles nothing."""
    progress = Progress(confirmed=2, acknowledged=2, persisted=2, sent=2)
    work = Round(Reader([b"x"] * 5), progress)
    await work.has_sent(4)
    assert work.producer.sent == [3, 4]
    await work.end()


async def test_sender_keeps_to_its_window_and_writes_every_half_of_it() -> None:
    """At most a window is under way; after half of one is confirmed, the confirmed id is written without a pause."""
    work = Round(Reader([b"x"] * 3 * REPLICATION_WINDOW))
    await work.has_sent(REPLICATION_WINDOW - 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(work.producer.sent) == REPLICATION_WINDOW
    work.sender.confirmed(REPLICATION_WINDOW // 2 - 1, REPLICATION_WINDOW // 2)
    await work.has_sent(REPLICATION_WINDOW + REPLICATION_WINDOW // 2 - 1)
    await eventually(lambda: work.persisted == [REPLICATION_WINDOW // 2 - 1])
    await work.end()
