"""What one turn of the event loop brought: messages in lanes, and who is to be told when they are durable.

Pure collecting: it opens no topic, and learns from `outlet` what became of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from connectors.base import SensorReport
from gateway.limits import CONNECTOR_BATCH_MESSAGES_MAX, CONNECTOR_BATCH_SIZE_MAX
from gateway.wire.batch import encode_head


class Sender(Hashable, Protocol):
    """Who a message came from: a connection, or one request."""

    def confirmed(self, tokens: list[Any]) -> None:
        """What stands for these tokens is durable."""

    def refused(self, error: Exception) -> None:
        """Something this sender sent will not be stored; its tokens of that round are never confirmed."""


class Round:
    """What arrived in one turn of the event loop."""

    __slots__ = ("complete", "lanes", "pending", "stamp", "stamp_size", "tokens")

    def __init__(self, stamp: bytes) -> None:
        self.stamp = stamp
        """Stored with each message of this turn."""
        self.stamp_size = len(stamp)
        self.lanes: list[Lane] = []
        """Those that hold messages of this turn."""
        self.tokens: dict[Sender, list[Any]] = {}
        """What to confirm, by sender, in order of arrival."""
        self.pending = 0
        """Batches handed over and not yet settled."""
        self.complete = False
        """Whether the turn is over."""


class BatchTaker(Protocol):
    """Where sealed batches go: a topic."""

    def submit(self, batch: Batch) -> None:
        """Publish, now or when what is before it has been published."""


class Lane:
    """Messages of one sensor for one topic (and one key, where batches are made per key)."""

    __slots__ = ("__weakref__", "_key", "_outlet", "_report", "parts", "senders", "size")

    def __init__(self, outlet: BatchTaker, report: SensorReport, key: str | None) -> None:
        self._outlet = outlet
        self._report = report
        self._key = key
        self._reset()

    def _reset(self) -> None:
        self.parts: list[bytes] = []
        self.senders: list[Sender] = []
        """One for each message."""
        self.size = 0

    def seal(self, turn: Round) -> None:
        """Hand what was collected to the topic, as one entry."""
        batch = Batch(self, turn, self._report, self._key)
        self._reset()
        turn.pending += 1
        self._outlet.submit(batch)


class Batch:
    """One entry to be, kept as pieces: each try encodes it with its own sequence id."""

    __slots__ = ("key", "parts", "report", "senders", "size", "turn")

    def __init__(self, lane: Lane, turn: Round, report: SensorReport, key: str | None) -> None:
        self.parts = lane.parts
        self.senders = lane.senders
        self.size = lane.size
        self.turn = turn
        self.report = report
        self.key = key

    @property
    def messages(self) -> int:
        return len(self.senders)

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.parts[3::4]))


class Route:
    """The way of one device's messages from one address into a lane."""

    __slots__ = ("_fields", "_lane")

    def __init__(self, lane: Lane, fields: bytes) -> None:
        self._lane = lane
        self._fields = fields

    def add(self, payload: bytes, turn: Round, sender: Sender) -> None:
        """Take one message. The sender puts its token, if it wants to be told, into `turn.tokens` itself."""
        payload_size = len(payload)
        fields = self._fields
        shared_size = len(fields) + turn.stamp_size
        head = _heads.get(payload_size << 32 | shared_size) or _make_head(payload_size, shared_size)
        lane = self._lane
        senders = lane.senders
        size = lane.size + payload_size + shared_size + 8
        if size > CONNECTOR_BATCH_SIZE_MAX and senders:
            size -= lane.size
            lane.seal(turn)
            senders = lane.senders
        if not senders:
            turn.lanes.append(lane)
        lane.parts += (head, fields, turn.stamp, payload)
        lane.size = size
        senders.append(sender)
        if len(senders) >= CONNECTOR_BATCH_MESSAGES_MAX:
            lane.seal(turn)


_HEADS_MAX = 4_096
_heads: dict[int, bytes] = {}
"""By payload size << 32 | shared size: the same few sizes come again and again, on all routes."""


def _make_head(payload_size: int, shared_size: int) -> bytes:
    if len(_heads) >= _HEADS_MAX:
        _heads.clear()
    head = _heads[payload_size << 32 | shared_size] = encode_head(payload_size, shared_size)
    return head
