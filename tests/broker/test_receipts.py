"""The order of one connection's receipts, whatever order the commits come in."""

from __future__ import annotations

from gateway.broker.producer import Producer
from gateway.broker.receipts import ReceiptLine
from gateway.log import PendingGroup
from gateway.wire.connection import Connection, Role


class NoOwner:
    async def is_alive(self) -> bool:
        return True

    def producer_closed(self, producer: Producer) -> None: ...


def test_receipt_of_what_is_durable_waits_behind_earlier_entries() -> None:
    """A duplicate whose original is on the device takes its turn all the same: a client closes the connection else."""
    connection = Connection(Role.broker, now_ns=0)
    line = ReceiptLine(connection, flush=lambda: None, on_failure=lambda: None)
    producer = Producer(NoOwner(), producer_id=1, name="p", generated_name=False, epoch=0, last_sequence_id=5)
    group = PendingGroup()
    line.add(group, (producer, 6, None, 1, 6, -1))
    line.add(None, (producer, 3, None, -1, -1, -1))
    assert connection.data_to_send() == []
    assert line.waiting == 2
    for callback in group.waiters:
        callback(None)
    assert len(connection.data_to_send()) == 2
    assert line.waiting == 0
    line.add(None, (producer, 4, None, -1, -1, -1))
    assert len(connection.data_to_send()) == 1
