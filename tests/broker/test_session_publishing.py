"""PRODUCER, SEND and what they are answered, command by command."""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.broker import session as session_module
from gateway.broker.broker import Broker
from gateway.errors import LogFull, ProtocolError, ServerError
from gateway.limits import BATCH_MESSAGES_MAX, NAME_LENGTH_MAX
from gateway.wire.commands import CommandType
from gateway.wire.connection import UNSIGNED
from tests.broker.conftest import TOPIC, Joiner, Peer, entry


async def test_receipts_come_in_the_order_of_the_sends(peer: Peer) -> None:
    """Over two producers of one connection, each with its own topic and numbers."""
    await peer.producer(1, topic=TOPIC)
    await peer.producer(2, topic=TOPIC + "-2")
    sent = [(1 + number % 2, number) for number in range(200)]
    for producer_id, sequence_id in sent:
        peer.put_entry(producer_id, sequence_id, entry())
    peer.deliver()
    receipts = [await peer.hear(CommandType.SEND_RECEIPT) for _ in sent]
    assert [(receipt.producer_id, receipt.sequence_id) for receipt in receipts] == sent
    assert [receipt.message_id.entryId for receipt in receipts] == [number // 2 for number in range(200)]
    assert all(not receipt.HasField("highest_sequence_id") for receipt in receipts)


async def test_duplicate_of_an_entry_under_way_waits_for_it(peer: Peer) -> None:
    """Answered at once it would promise what is not durable, and overtake the receipt of the original."""
    await peer.producer(producer_name="device")
    for sequence_id in (5, 5, 4, 6, 6):
        peer.put_entry(0, sequence_id, entry())
    peer.deliver()
    receipts = [await peer.hear(CommandType.SEND_RECEIPT) for _ in range(5)]
    assert [receipt.sequence_id for receipt in receipts] == [5, 5, 4, 6, 6]
    assert [receipt.message_id.entryId for receipt in receipts] == [0, UNSIGNED, UNSIGNED, 1, UNSIGNED]
    assert receipts[1].message_id.ledgerId == UNSIGNED


async def test_highest_sequence_id_is_the_key_and_is_echoed(peer: Peer) -> None:
    """Java's batches carry two ids: the last is what was stored, and the client closes where it is not echoed."""
    await peer.producer(producer_name="device")
    for highest, stored in ((9, True), (9, False), (7, False), (10, True)):
        peer.send_as(entry(), producer_id=0, sequence_id=3, highest_sequence_id=highest)
        receipt = await peer.hear(CommandType.SEND_RECEIPT)
        assert (receipt.sequence_id, receipt.highest_sequence_id) == (3, highest)
        assert (receipt.message_id.entryId != UNSIGNED) is stored


async def test_chunks_of_one_message_share_a_sequence_id(peer: Peer) -> None:
    """None of them is a duplicate of the first; the message counts as stored with its last chunk."""
    await peer.producer(producer_name="device")
    for chunk_id in range(3):
        data = entry(uuid="u", chunk_id=chunk_id, num_chunks_from_msg=3, total_chunk_msg_size=3)
        peer.send_as(data, producer_id=0, sequence_id=8, is_chunk=True)
        assert (await peer.hear(CommandType.SEND_RECEIPT)).message_id.entryId == chunk_id
    peer.send_as(data, producer_id=0, sequence_id=8, is_chunk=True)
    assert (await peer.hear(CommandType.SEND_RECEIPT)).message_id.entryId == UNSIGNED


async def test_message_cut_off_between_chunks_is_taken_again(peer: Peer) -> None:
    """A producer that lost its connection after the first chunk sends them all again."""
    await peer.producer(producer_name="device")
    chunks = [entry(uuid="u", chunk_id=number, num_chunks_from_msg=2, total_chunk_msg_size=2) for number in range(2)]
    entry_ids = []
    for number in (0, 0, 1):
        peer.send_as(chunks[number], producer_id=0, sequence_id=8, is_chunk=True)
        entry_ids.append((await peer.hear(CommandType.SEND_RECEIPT)).message_id.entryId)
    assert entry_ids == [0, 1, 2]


async def test_damaged_entry_is_refused_in_its_turn(peer: Peer) -> None:
    """The client fails that message and goes on; told before the receipts of earlier ones, it would reconnect."""
    await peer.producer()
    peer.put_entry(0, 0, entry())
    peer.put_entry(0, 1, entry()[:-1] + b"D")
    peer.put_entry(0, 2, entry(num_messages_in_batch=BATCH_MESSAGES_MAX + 1))
    peer.put_entry(0, 3, entry())
    peer.deliver()
    assert (await peer.hear(CommandType.SEND_RECEIPT)).sequence_id == 0
    for sequence_id in (1, 2):
        refused = await peer.hear(CommandType.SEND_ERROR)
        assert (refused.sequence_id, refused.error) == (sequence_id, ServerError.ChecksumError)
    receipt = await peer.hear(CommandType.SEND_RECEIPT)
    assert (receipt.sequence_id, receipt.message_id.entryId) == (3, 1)


@pytest.mark.parametrize("claimed", [0, -1, BATCH_MESSAGES_MAX + 1])
async def test_batch_that_nobody_can_open_is_not_stored(peer: Peer, broker: Broker, claimed: int) -> None:
    """What it claims would be charged to every consumer."""
    await peer.producer()
    peer.send(0, 0, entry(num_messages_in_batch=claimed))
    assert (await peer.hear(CommandType.SEND_ERROR)).error == ServerError.ChecksumError
    assert broker.topics[TOPIC].next_entry_id == 0


async def test_transactions_are_refused(peer: Peer) -> None:
    """Stored outside of one, the message would be seen although it may be aborted."""
    await peer.producer()
    peer.send_as(entry(), producer_id=0, sequence_id=0, txnid_most_bits=0, txnid_least_bits=1)
    assert (await peer.hear(CommandType.SEND_ERROR)).error == ServerError.NotAllowedError


async def test_entry_for_no_producer_ends_the_conversation(peer: Peer) -> None:
    """Nobody could be given its receipt."""
    with pytest.raises(ProtocolError):
        peer.send(7, 0)


@pytest.mark.parametrize("fields", [{"sequence_id": 2**63}, {"sequence_id": 0, "highest_sequence_id": 2**64 - 1}])
async def test_sequence_id_is_a_positive_signed_number(peer: Peer, fields: dict[str, int]) -> None:
    """Stored, the last one would be below zero for whoever reads it, and no later message would ever be new."""
    await peer.producer(producer_name="device")
    with pytest.raises(ProtocolError):
        peer.send_as(entry(), producer_id=0, **fields)


async def test_producer_that_comes_back_learns_where_it_was(peer: Peer, join: Joiner) -> None:
    """Under its name; what was under way when its connection ended counts, once it is durable."""
    await peer.producer(producer_name="device")
    for sequence_id in range(50):
        peer.put_entry(0, sequence_id, entry())
    peer.deliver()
    await peer.session.close()
    again = await join().producer(producer_name="device")
    assert again.last_sequence_id == 49


async def test_name_of_a_half_open_connection_is_given_away(peer: Peer, join: Joiner) -> None:
    """After a power cut at the device the old connection looks alive for as long as TCP likes."""
    await peer.producer(producer_name="device")
    peer.alive = False
    other = join()
    await other.producer(producer_name="device")
    assert peer.probes == 1
    other.send(0, 0)
    await other.hear(CommandType.SEND_RECEIPT)


async def test_name_of_a_live_connection_stays_its_own(peer: Peer, join: Joiner) -> None:
    """Whoever answers keeps it, and goes on undisturbed."""
    await peer.producer(producer_name="device")
    refused = await join().ask(
        CommandType.PRODUCER, CommandType.ERROR, topic=TOPIC, producer_id=0, producer_name="device"
    )
    assert refused.error == ServerError.ProducerBusy
    peer.send(0, 0)
    await peer.hear(CommandType.SEND_RECEIPT)


async def test_invented_name_is_taken_back_by_its_next_epoch(peer: Peer, join: Joiner) -> None:
    """A client library that reconnects says the name it was given, and counts."""
    name = (await peer.producer()).producer_name
    other = join()
    await other.producer(producer_name=name, user_provided_producer_name=False, epoch=1)
    assert peer.probes == 0
    assert (await peer.hear(CommandType.CLOSE_PRODUCER)).producer_id == 0
    peer.send(0, 0)
    assert await peer.quiet()


async def test_producer_asked_for_twice_is_one(peer: Peer, broker: Broker) -> None:
    """The client gave up waiting for the answer and asks again."""
    first = await peer.producer(producer_name="device")
    second = await peer.producer(producer_name="device")
    assert first.producer_name == second.producer_name
    assert len(broker.topics[TOPIC].producers) == 1


async def test_close_is_answered_behind_the_receipts(peer: Peer) -> None:
    """SUCCESS means that nothing is under way any more."""
    await peer.producer()
    for sequence_id in range(10):
        peer.put_entry(0, sequence_id, entry())
    peer.put(CommandType.CLOSE_PRODUCER, producer_id=0, request_id=99)
    peer.deliver()
    for sequence_id in range(10):
        assert (await peer.hear(CommandType.SEND_RECEIPT)).sequence_id == sequence_id
    assert (await peer.hear(CommandType.SUCCESS)).request_id == 99


async def test_connection_that_ends_within_a_close_leaves_no_producer(peer: Peer, broker: Broker) -> None:
    """Nor a name that would be asked after for ever."""
    await peer.producer(producer_name="device")
    peer.put_entry(0, 0, entry())
    peer.put(CommandType.CLOSE_PRODUCER, producer_id=0, request_id=99)
    peer.deliver()
    await asyncio.sleep(0)
    await peer.session.close()
    assert broker.topics[TOPIC].producers == {}


async def test_connection_that_ends_within_a_create_leaves_no_producer(
    peer: Peer, join: Joiner, broker: Broker
) -> None:
    """The request waits for entries of another producer, and is never answered."""
    other = join()
    await other.producer(producer_name="other")
    peer.put(CommandType.PRODUCER, topic=TOPIC, producer_id=0, request_id=1, producer_name="device")
    other.send(0, 0)
    peer.deliver()
    await asyncio.sleep(0)
    await peer.session.close()
    assert set(broker.topics[TOPIC].producers) == {"other"}


@pytest.mark.parametrize(
    "body",
    [
        {"producer_name": "n" * (NAME_LENGTH_MAX + 1)},
        {"producer_access_mode": 1},
        {"topic": "non-persistent://plant/hall7/t"},
        {"topic": "persistent://a/b/c/d/e"},
        {"initial_subscription_name": "s" * (NAME_LENGTH_MAX + 1)},
    ],
)
async def test_producer_that_can_not_be_is_refused_for_good(
    peer: Peer, broker: Broker, body: dict[str, object]
) -> None:
    """With a code that clients do not take for "try again"; nothing of it stays."""
    refused = await peer.ask(CommandType.PRODUCER, CommandType.ERROR, **({"topic": TOPIC, "producer_id": 0} | body))
    assert refused.error == ServerError.NotAllowedError
    assert all(not topic.producers and not topic.subscriptions for topic in broker.topics.values())


async def test_producer_brings_its_first_subscription(peer: Peer) -> None:
    """A dead-letter topic without a consumer keeps its messages for one."""
    await peer.producer(initial_subscription_name="later")
    peer.send(0, 0, entry(b"kept"))
    await peer.hear(CommandType.SEND_RECEIPT)
    await peer.subscribe(subscription="later", initialPosition=0, permits=1)
    kind, _, data = await peer.hear_any()
    assert kind is CommandType.MESSAGE
    assert data == entry(b"kept")


# A log that takes nothing


async def test_full_log_sends_producers_away_and_refuses_them(peer: Peer, broker: Broker) -> None:
    """SEND_ERROR would make clients reconnect in a hot loop; this way they keep what they have and come back slowly."""
    await peer.producer(producer_name="device")
    stored, sequence_id, size = 0, 0, 2_000_000
    while True:
        peer.send(0, sequence_id, entry(os.urandom(size)))
        sequence_id += 1
        kind, body, _ = await peer.hear_any()
        if kind is CommandType.SEND_RECEIPT:
            stored += 1
            continue
        assert kind is CommandType.CLOSE_PRODUCER
        assert (body.producer_id, body.request_id) == (0, UNSIGNED)
        # Already on its way when the producer was taken away: neither answered nor punished.
        peer.send(0, sequence_id)
        assert await peer.quiet()
        peer.say(CommandType.PRODUCER, topic=TOPIC, producer_id=0, request_id=7, producer_name="device")
        kind, body, _ = await peer.hear_any()
        if kind is CommandType.ERROR:
            break
        # The log has looked at its room: something smaller still fits.
        assert kind is CommandType.PRODUCER_SUCCESS
        size //= 2
    assert (body.request_id, body.error) == (7, ServerError.ProducerBlockedQuotaExceededError)
    # What was given a receipt is still read.
    await peer.subscribe(permits=1_000)
    for entry_id in range(stored):
        assert (await peer.hear(CommandType.MESSAGE)).message_id.entryId == entry_id


async def test_producer_refused_room_is_sent_away_alone(
    peer: Peer, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large entry that no longer fits does not stop the small ones of others."""
    await peer.producer(1)
    await peer.producer(2)

    def refuse(size: int, *, essential: bool = False) -> None:
        raise LogFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(broker.log.journal, "group", refuse)
        peer.send(1, 0)
    assert (await peer.hear(CommandType.CLOSE_PRODUCER)).producer_id == 1
    peer.send(2, 0)
    assert (await peer.hear(CommandType.SEND_RECEIPT)).producer_id == 2
    await peer.producer(1)


# Floods


async def test_flood_of_requests_ends_the_conversation(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never waits for an answer would fill the memory with questions."""
    monkeypatch.setattr(session_module, "REQUESTS_WAITING_MAX", 20)
    for number in range(21):
        peer.put(CommandType.LOOKUP, topic=TOPIC, request_id=number)
    with pytest.raises(ProtocolError):
        peer.deliver()


async def test_connection_has_a_bounded_number_of_producers(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for good, while those that are there go on."""
    monkeypatch.setattr(session_module, "HANDLES_PER_CONNECTION_MAX", 2)
    await peer.producer(1)
    await peer.subscribe(1)
    refused = await peer.ask(CommandType.PRODUCER, CommandType.ERROR, topic=TOPIC, producer_id=3)
    assert refused.error == ServerError.NotAllowedError
    refused = await peer.ask(
        CommandType.SUBSCRIBE, CommandType.ERROR, topic=TOPIC, consumer_id=2, subscription="t", subType=0
    )
    assert refused.error == ServerError.NotAllowedError
    peer.send(1, 0)
    await peer.hear(CommandType.SEND_RECEIPT)
