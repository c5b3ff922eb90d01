"""One connection's receipts: in the order of its entries, each after the commit group that makes its entry durable.

Clients match receipts with what they sent in order: one that comes early closes their connection. A duplicate's receipt
waits for the original, which another connection may have sent; a refusal takes its turn as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from gateway.broker.answers import Answer
from gateway.broker.producer import Producer
from gateway.errors import LogError
from gateway.log import PendingGroup
from gateway.wire.connection import Connection

Receipt = tuple[Producer, int, int | None, int, int, int]
"""Producer, sequence id, highest sequence id or None, ledger id, entry id, partition."""


class _Slot:
    """Receipts that wait for one commit group, or behind a refusal for their turn."""

    __slots__ = ("durable", "receipts", "refusal")

    def __init__(self, refusal: Answer | None = None) -> None:
        self.durable = refusal is not None
        self.refusal = refusal
        """SEND_ERROR of an entry in front of `receipts`."""
        self.receipts: list[Receipt] = []


class ReceiptLine:
    """Everything that a connection's producers wait for."""

    def __init__(self, connection: Connection, *, flush: Callable[[], None], on_failure: Callable[[], None]) -> None:
        self.waiting = 0
        """Entries whose receipt has not left."""
        self._connection = connection
        self._flush = flush
        self._on_failure = on_failure
        """Called when a group could not be made durable: nobody knows what of it is on the device."""
        self._slots: deque[_Slot] = deque()
        """In the order in which they leave."""
        self._last_group: PendingGroup | None = None
        """The group that the last slot waits for."""
        self._closed = False

    def add(self, group: PendingGroup | None, receipt: Receipt) -> None:
        """Send a receipt when `group` is durable (None: it already is), and never before those of earlier entries."""
        if group is None and not self._slots:
            self._send([receipt])
            return
        if group is not None and group is not self._last_group:
            slot = _Slot()
            self._slots.append(slot)
            self._last_group = group
            group.when_durable(partial(self._group_done, slot))
        self.waiting += 1
        self._slots[-1].receipts.append(receipt)

    def refuse(self, refusal: Answer) -> None:
        """Refuse an entry, behind the receipts of earlier ones."""
        if self._slots:
            self._slots.append(_Slot(refusal))
            self._last_group = None
        else:
            self._connection.send(*refusal)
            self._flush()

    def close(self) -> None:
        """Nobody is there any more to be told."""
        self._closed = True
        self._slots.clear()
        self.waiting = 0

    def _group_done(self, slot: _Slot, error: LogError | None) -> None:
        if self._closed or slot not in self._slots:
            return
        if error is not None:
            # Clients keep what has no receipt, and come back with it.
            self._slots.clear()
            self._last_group = None
            self.waiting = 0
            self._on_failure()
            return
        slot.durable = True
        while self._slots and self._slots[0].durable:
            done = self._slots.popleft()
            if done.refusal is not None:
                self._connection.send(*done.refusal)
            self.waiting -= len(done.receipts)
            self._send(done.receipts)
        if not self._slots:
            self._last_group = None

    def _send(self, receipts: list[Receipt]) -> None:
        send_receipt = self._connection.send_receipt
        for producer, sequence_id, highest, ledger_id, entry_id, partition in receipts:
            if not producer.closed:
                send_receipt(producer.producer_id, sequence_id, highest, ledger_id, entry_id, partition)
        self._flush()
