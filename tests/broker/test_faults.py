"""What the broker does when something below it, or it itself, fails."""

from __future__ import annotations

import pytest

from gateway.broker import dispatch
from gateway.broker.broker import Broker
from gateway.errors import LogDamaged, LogFull, ServerError
from gateway.wire.commands import CommandType
from tests.broker.conftest import TOPIC, Peer


async def test_session_closes_the_connection_after_a_fault_of_our_own(
    broker: Broker, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client would wait for the answer for ever; what it had asked for behind it as well."""

    async def fail(*_: object) -> int:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(broker, "partitions", fail)
    peer.say(CommandType.PARTITIONED_METADATA, topic=TOPIC, request_id=1)
    worker = peer.session._worker
    assert worker is not None
    await worker
    assert peer.failures == ["an internal error"]


async def test_dispatcher_reads_again_after_a_read_that_failed(
    broker: Broker, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that can't be read now is not skipped: it comes when the device answers again."""
    await peer.publish(b"one")
    reader = broker.log.reader
    read = reader.read
    failures = iter([LogDamaged("the device does not answer")])

    async def fail_once(*args: int, **kwargs: int) -> object:
        for error in failures:
            raise error
        return await read(*args, **kwargs)

    monkeypatch.setattr(dispatch, "READ_AGAIN_S", 0.0)
    monkeypatch.setattr(reader, "cached", lambda *_: None)
    monkeypatch.setattr(reader, "read", fail_once)
    await peer.subscribe(permits=10)
    message = await peer.hear(CommandType.MESSAGE)
    assert message.message_id.entryId == 0


async def test_refused_seek_moves_nothing(broker: Broker, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be stored the consumer keeps its place, also after the next commit."""
    ids = await peer.publish(b"one", b"two", b"three")
    await peer.subscribe(permits=10)
    for _ in ids:
        await peer.hear(CommandType.MESSAGE)
    subscription = (await broker.topic(peer.session.consumers[0].subscription.topic.name)).subscriptions["s"]
    subscription.acknowledge_cumulative(1)

    def full(size: int, *, essential: bool = False) -> None:
        raise LogFull("the log is full")

    with monkeypatch.context() as patched:
        patched.setattr(broker.log.journal, "group", full)
        peer.say(CommandType.SEEK, consumer_id=0, request_id=77, message_id={"ledgerId": 0, "entryId": 0})
        refusal = await peer.hear(CommandType.ERROR)
        assert refusal.error == ServerError.ProducerBlockedQuotaExceededError
    assert subscription.cursor.mark_delete == 1
    assert await peer.quiet()
