"""SUBSCRIBE, FLOW, ACK, SEEK and what they are answered, command by command."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.broker.broker import Broker
from gateway.errors import ProtocolError, ServerError
from gateway.limits import ACK_IDS_MAX, NAME_LENGTH_MAX
from gateway.wire.commands import CommandType
from gateway.wire.connection import UNSIGNED
from tests.broker.conftest import TOPIC, Joiner, Peer, entry

SHARED = 1
FAILOVER = 2
KEY_SHARED = 3


async def messages(peer: Peer, count: int) -> list[int]:
    """The entry ids of the next deliveries."""
    return [(await peer.hear(CommandType.MESSAGE)).message_id.entryId for _ in range(count)]


def ack(broker: Broker, *entry_ids: int, ack_set: tuple[int, ...] = (), **body: Any) -> dict[str, Any]:
    """The body of an ACK."""
    ledger_id = broker.topics[TOPIC].ledger_id
    ids = [{"ledgerId": ledger_id, "entryId": entry_id, "ack_set": ack_set} for entry_id in entry_ids]
    return {"consumer_id": 0, "ack_type": 0, "message_id": ids} | body


async def test_nothing_is_delivered_before_it_is_asked_for(peer: Peer) -> None:
    """And no more than was asked for; what comes again is charged again."""
    await peer.publish(b"a", b"b", b"c")
    await peer.subscribe()
    assert await peer.quiet()
    peer.say(CommandType.FLOW, consumer_id=0, messagePermits=2)
    assert await messages(peer, 2) == [0, 1]
    assert await peer.quiet()
    peer.say(CommandType.FLOW, consumer_id=0, messagePermits=1)
    assert await messages(peer, 1) == [2]


async def test_permits_that_follow_at_once_are_not_lost(peer: Peer) -> None:
    """FLOW in the same bytes as the SUBSCRIBE that is still being carried out."""
    await peer.publish(b"a")
    peer.put(
        CommandType.SUBSCRIBE, topic=TOPIC, subscription="s", subType=0, consumer_id=0, request_id=5, initialPosition=1
    )
    peer.put(CommandType.FLOW, consumer_id=0, messagePermits=1)
    peer.deliver()
    assert (await peer.hear(CommandType.SUCCESS)).request_id == 5
    assert await messages(peer, 1) == [0]


async def test_permits_are_counted_in_messages(peer: Peer) -> None:
    """A batch larger than the room takes it below zero, and the next waits until it is made up for."""
    await peer.producer()
    for sequence_id in range(3):
        peer.send(0, sequence_id, entry(num_messages_in_batch=10))
        await peer.hear(CommandType.SEND_RECEIPT)
    await peer.subscribe(permits=1)
    assert await messages(peer, 1) == [0]
    peer.say(CommandType.FLOW, consumer_id=0, messagePermits=9)
    assert await peer.quiet()
    peer.say(CommandType.FLOW, consumer_id=0, messagePermits=1)
    assert await messages(peer, 1) == [1]


async def test_part_of_a_batch_comes_again(peer: Peer, broker: Broker) -> None:
    """With the bits of what is still to be delivered, charged by them, until none is left."""
    await peer.producer()
    peer.send(0, 0, entry(num_messages_in_batch=4))
    await peer.hear(CommandType.SEND_RECEIPT)
    await peer.subscribe(permits=10)
    assert not (await peer.hear(CommandType.MESSAGE)).ack_set
    peer.say(CommandType.ACK, **ack(broker, 0, ack_set=(0b1011,)))
    peer.say(CommandType.ACK, **ack(broker, 0, ack_set=(0b1110,)))
    await peer.ask(CommandType.CLOSE_CONSUMER, CommandType.SUCCESS, consumer_id=0)
    await peer.subscribe(permits=2)
    assert list((await peer.hear(CommandType.MESSAGE)).ack_set) == [0b1010]
    assert broker.topics[TOPIC].subscriptions["s"].consumers[0].permits == 0
    peer.say(CommandType.ACK, **ack(broker, 0, ack_set=(0b0101,)))
    await peer.ask(CommandType.CLOSE_CONSUMER, CommandType.SUCCESS, consumer_id=0)
    await peer.subscribe(permits=2)
    assert await peer.quiet()


async def test_ack_with_a_number_is_answered_when_it_is_durable(peer: Peer, broker: Broker) -> None:
    """Otherwise it is not answered at all."""
    await peer.publish(b"a", b"b")
    await peer.subscribe(permits=2)
    await messages(peer, 2)
    peer.say(CommandType.ACK, **ack(broker, 0))
    assert await peer.quiet()
    peer.say(CommandType.ACK, **ack(broker, 1, request_id=77))
    broker.log.journal.group(0)
    broker.log.journal.commit_within(0)
    response = await peer.hear(CommandType.ACK_RESPONSE)
    assert (response.request_id, response.HasField("error")) == (77, False)
    state = await broker.log.metadata.load_topic(TOPIC)
    assert state is not None
    assert state.subscriptions[0].cursor.mark_delete == 1


async def test_acks_of_what_is_not_there_change_nothing(peer: Peer, broker: Broker) -> None:
    """Beyond the end, of another topic's ledger, of a consumer that nobody knows."""
    await peer.publish(b"a")
    await peer.subscribe(permits=5)
    await messages(peer, 1)
    peer.say(CommandType.ACK, **ack(broker, 1, 2**40, UNSIGNED))
    peer.say(CommandType.ACK, **ack(broker, 0, consumer_id=9))
    body = ack(broker, 0)
    body["message_id"][0]["ledgerId"] += 1
    peer.say(CommandType.ACK, **body)
    subscription = broker.topics[TOPIC].subscriptions["s"]
    assert (subscription.cursor.mark_delete, subscription.backlog_entries) == (-1, 1)
    subscription.cursor.check_invariants()


async def test_cumulative_ack_beyond_the_end_ends_at_the_end(peer: Peer, join: Joiner, broker: Broker) -> None:
    """What is published later is not done with."""
    await peer.publish(b"a")
    await peer.subscribe(permits=5)
    await messages(peer, 1)
    peer.say(CommandType.ACK, **ack(broker, 2**40, ack_type=1))
    await join().publish(b"b")
    assert broker.topics[TOPIC].subscriptions["s"].backlog_entries == 1


async def test_flood_of_acks_ends_the_conversation(peer: Peer, broker: Broker) -> None:
    """No client groups so many."""
    await peer.publish(b"a")
    await peer.subscribe()
    with pytest.raises(ProtocolError):
        peer.say(CommandType.ACK, **ack(broker, *[0] * (ACK_IDS_MAX + 1)))


async def test_exclusive_subscription_has_one_consumer(peer: Peer, join: Joiner) -> None:
    """The second is refused; the same one asked for twice is the first."""
    await peer.subscribe()
    await peer.subscribe()
    other = join()
    for subscription_type in (0, SHARED):
        refused = await other.ask(
            CommandType.SUBSCRIBE,
            CommandType.ERROR,
            topic=TOPIC,
            subscription="s",
            consumer_id=0,
            subType=subscription_type,
        )
        assert refused.error == ServerError.ConsumerBusy
    await peer.session.close()
    await other.subscribe()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"subType": KEY_SHARED}, ServerError.NotAllowedError),
        ({"subType": 99}, ServerError.NotAllowedError),
        ({"read_compacted": True}, ServerError.NotAllowedError),
        ({"subscription": ""}, ServerError.NotAllowedError),
        ({"subscription": "s" * (NAME_LENGTH_MAX + 1)}, ServerError.NotAllowedError),
        ({"topic": "non-persistent://plant/hall7/t"}, ServerError.NotAllowedError),
        ({"topic": "persistent://a/b/c/d"}, ServerError.NotAllowedError),
        ({"topic": TOPIC + "-new", "force_topic_creation": False}, ServerError.TopicNotFound),
    ],
)
async def test_subscribe_is_never_refused_with_a_code_that_means_again(
    peer: Peer, body: dict[str, Any], code: ServerError
) -> None:
    """A C++ client does not ask again: it believes that it is subscribed and waits."""
    described = {"topic": TOPIC, "subscription": "s", "consumer_id": 0, "subType": 0} | body
    refused = await peer.ask(CommandType.SUBSCRIBE, CommandType.ERROR, **described)
    assert refused.error == code
    assert not peer.session.consumers


async def test_seek_takes_consumers_away_and_succeeds_in_one_breath(peer: Peer, broker: Broker) -> None:
    """Between the two nothing may be said, not even later: a client subscribes again 100 ms after the first."""
    await peer.publish(*[b"%d" % number for number in range(10)])
    await peer.subscribe(permits=10)
    await messages(peer, 10)
    ledger_id = broker.topics[TOPIC].ledger_id
    peer.say(CommandType.SEEK, consumer_id=0, request_id=50, message_id={"ledgerId": ledger_id, "entryId": 7})
    closed = await peer.hear(CommandType.CLOSE_CONSUMER)
    assert (closed.consumer_id, closed.request_id) == (0, UNSIGNED)
    assert len(peer._events) == 1
    assert (await peer.hear(CommandType.SUCCESS)).request_id == 50
    await peer.subscribe(permits=10)
    assert await messages(peer, 3) == [7, 8, 9]


async def test_seek_takes_every_consumer_away(peer: Peer, join: Joiner) -> None:
    """What the others hold stands before or behind the new place."""
    await peer.publish(b"a")
    other = join()
    await peer.subscribe(subType=SHARED)
    await other.subscribe(3, subType=SHARED)
    peer.say(CommandType.SEEK, consumer_id=0, request_id=50, message_id={"ledgerId": UNSIGNED, "entryId": UNSIGNED})
    assert (await other.hear(CommandType.CLOSE_CONSUMER)).consumer_id == 3
    await peer.hear(CommandType.CLOSE_CONSUMER)
    await peer.hear(CommandType.SUCCESS)


@pytest.mark.parametrize(("since_ms", "expected"), [(0, 0), (2_000, 1), (2_500, 2), (9_999, 3)])
async def test_seek_by_time_finds_the_first_at_or_behind_it(peer: Peer, since_ms: int, expected: int) -> None:
    """Behind the last one it is the end."""
    await peer.producer()
    for number, publish_time in enumerate((1_000, 2_000, 3_000)):
        peer.send(0, number, entry(publish_time=publish_time))
        await peer.hear(CommandType.SEND_RECEIPT)
    await peer.subscribe()
    peer.say(CommandType.SEEK, consumer_id=0, request_id=50, message_publish_time=since_ms)
    await peer.hear(CommandType.CLOSE_CONSUMER)
    await peer.hear(CommandType.SUCCESS)
    await peer.subscribe(permits=10)
    assert await messages(peer, 3 - expected) == list(range(expected, 3))
    assert await peer.quiet()


async def test_readers_place_survives_its_seek_and_goes_with_its_connection(peer: Peer, broker: Broker) -> None:
    """The SUBSCRIBE that follows a seek by time does not say where to begin."""
    await peer.publish(b"a", b"b")
    reader: dict[str, Any] = {"subscription": "reader-1", "durable": False, "initialPosition": 0}
    await peer.subscribe(**reader)
    peer.say(CommandType.SEEK, consumer_id=0, request_id=50, message_publish_time=0)
    await peer.hear(CommandType.CLOSE_CONSUMER)
    await peer.hear(CommandType.SUCCESS)
    await peer.subscribe(permits=10, **reader)
    assert await messages(peer, 2) == [0, 1]
    await peer.session.close()
    assert broker.topics[TOPIC].subscriptions == {}


@pytest.mark.parametrize(
    ("start", "first"),
    [((UNSIGNED, UNSIGNED), 0), ((0, 0), 0), ((2**63 - 1, 2**63 - 1), 3), ((None, 1), 1), ((None, 99), 3)],
)
async def test_reader_begins_at_the_entry_it_names(
    peer: Peer, join: Joiner, broker: Broker, start: tuple[int | None, int], first: int
) -> None:
    """Inclusive; the client drops what it does not want. Beyond the end is the next to come."""
    await peer.publish(b"a", b"b", b"c")
    ledger_id = broker.topics[TOPIC].ledger_id if start[0] is None else start[0]
    await peer.subscribe(
        subscription="reader", durable=False, start_message_id={"ledgerId": ledger_id, "entryId": start[1]}, permits=9
    )
    await join().publish(b"d")
    heard: list[int] = []
    while heard[-1:] != [3]:
        heard += await messages(peer, 1)
    assert heard == list(range(first, 4))


async def test_shared_consumers_are_served_in_turn(peer: Peer, join: Joiner) -> None:
    """And what one leaves goes to the other, with the count of a first delivery."""
    other = join()
    await peer.subscribe(subType=SHARED, permits=10)
    await other.subscribe(subType=SHARED, permits=10)
    publisher = join()
    await publisher.publish(*[b"x"] * 6)
    mine, others = await messages(peer, 3), await messages(other, 3)
    assert sorted(mine + others) == list(range(6))
    await other.session.close()
    again = [await peer.hear(CommandType.MESSAGE) for _ in range(3)]
    assert sorted(message.message_id.entryId for message in again) == sorted(others)
    assert all(message.redelivery_count == 0 for message in again)


async def test_asking_again_counts_on_a_shared_subscription(peer: Peer, broker: Broker) -> None:
    """By ids or (without any) for everything that is held: clients' dead-letter policies live by the count."""
    await peer.publish(b"a", b"b")
    await peer.subscribe(subType=SHARED, permits=100)
    await messages(peer, 2)
    ledger_id = broker.topics[TOPIC].ledger_id
    kind = CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES
    peer.say(kind, consumer_id=0, message_ids=[{"ledgerId": ledger_id, "entryId": 1}])
    again = await peer.hear(CommandType.MESSAGE)
    assert (again.message_id.entryId, again.redelivery_count) == (1, 1)
    peer.say(kind, consumer_id=0)
    counts = [(message.message_id.entryId, message.redelivery_count) for message in
              [await peer.hear(CommandType.MESSAGE) for _ in range(2)]]  # fmt: skip
    assert counts == [(0, 1), (1, 2)]
    assert await peer.quiet()


async def test_asking_again_rewinds_an_exclusive_subscription(peer: Peer, broker: Broker) -> None:
    """Everything behind the mark comes again, in order, the epoch of the request with it."""
    await peer.publish(b"a", b"b", b"c")
    await peer.subscribe(permits=100, consumer_epoch=0)
    await messages(peer, 3)
    peer.say(CommandType.ACK, **ack(broker, 0))
    peer.say(CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES, consumer_id=0, consumer_epoch=1)
    again = [await peer.hear(CommandType.MESSAGE) for _ in range(2)]
    assert [(message.message_id.entryId, message.redelivery_count, message.consumer_epoch) for message in again] == [
        (1, 0, 1),
        (2, 0, 1),
    ]


async def test_failover_has_one_active_consumer(peer: Peer, join: Joiner) -> None:
    """The lowest priority level, then the first name; the others are told when their turn comes."""
    await peer.publish(b"a", b"b")
    await peer.subscribe(subType=FAILOVER, consumer_name="b", permits=10)
    heard = [await peer.hear_any() for _ in range(2)]
    while CommandType.MESSAGE not in [kind for kind, _, _ in heard]:
        heard.append(await peer.hear_any())
    changes = [body.is_active for kind, body, _ in heard if kind is CommandType.ACTIVE_CONSUMER_CHANGE]
    assert changes[-1]
    other = join()
    await other.subscribe(subType=FAILOVER, consumer_name="c", permits=10)
    assert not (await other.hear(CommandType.ACTIVE_CONSUMER_CHANGE)).is_active
    await peer.session.close()
    assert (await other.hear(CommandType.ACTIVE_CONSUMER_CHANGE)).is_active
    assert await messages(other, 2) == [0, 1]


async def test_unsubscribe_deletes_what_nobody_else_uses(peer: Peer, join: Joiner, broker: Broker) -> None:
    """With others connected it is refused, unless it is forced."""
    await peer.subscribe(subType=SHARED)
    other = join()
    await other.subscribe(subType=SHARED)
    refused = await peer.ask(CommandType.UNSUBSCRIBE, CommandType.ERROR, consumer_id=0)
    assert refused.error == ServerError.ConsumerBusy
    await peer.ask(CommandType.UNSUBSCRIBE, CommandType.SUCCESS, consumer_id=0, force=True)
    await other.hear(CommandType.CLOSE_CONSUMER)
    assert broker.topics[TOPIC].subscriptions == {}
    state = await broker.log.metadata.load_topic(TOPIC)
    assert state is not None
    assert state.subscriptions == ()


# Questions


async def test_last_message_of_an_empty_topic_is_none(peer: Peer) -> None:
    """Minus one, in both numbers."""
    await peer.subscribe()
    answer = await peer.ask(CommandType.GET_LAST_MESSAGE_ID, CommandType.GET_LAST_MESSAGE_ID_RESPONSE, consumer_id=0)
    assert (answer.last_message_id.ledgerId, answer.last_message_id.entryId) == (UNSIGNED, UNSIGNED)


@pytest.mark.parametrize(
    ("fields", "batch_index"), [({}, -1), ({"num_messages_in_batch": 1}, 0), ({"num_messages_in_batch": 4}, 3)]
)
async def test_last_message_of_a_batch_is_its_last(peer: Peer, fields: dict[str, Any], batch_index: int) -> None:
    """A batch of one counts as one."""
    await peer.producer()
    peer.send(0, 0, entry(**fields))
    await peer.hear(CommandType.SEND_RECEIPT)
    await peer.subscribe(initialPosition=0)
    answer = await peer.ask(CommandType.GET_LAST_MESSAGE_ID, CommandType.GET_LAST_MESSAGE_ID_RESPONSE, consumer_id=0)
    assert (answer.last_message_id.entryId, answer.last_message_id.batch_index) == (0, batch_index)
    assert answer.consumer_mark_delete_position.entryId == 0


async def test_each_request_is_refused_in_its_own_way(peer: Peer) -> None:
    """A client that gets another answer waits until its time-out."""
    bad = "non-persistent://plant/hall7/t"
    answer = await peer.ask(CommandType.LOOKUP, CommandType.LOOKUP_RESPONSE, topic=bad)
    assert (answer.response, answer.error) == (2, ServerError.NotAllowedError)
    answer = await peer.ask(CommandType.LOOKUP, CommandType.LOOKUP_RESPONSE, topic=TOPIC, advertised_listener_name="x")
    assert (answer.response, answer.error) == (2, ServerError.NotAllowedError)
    kinds = (CommandType.PARTITIONED_METADATA, CommandType.PARTITIONED_METADATA_RESPONSE)
    answer = await peer.ask(*kinds, topic=bad)
    assert (answer.response, answer.error) == (1, ServerError.NotAllowedError)
    answer = await peer.ask(*kinds, topic=TOPIC, metadata_auto_creation_enabled=False)
    assert (answer.response, answer.error) == (1, ServerError.TopicNotFound)
    answer = await peer.ask(CommandType.CONSUMER_STATS, CommandType.CONSUMER_STATS_RESPONSE, consumer_id=9)
    assert answer.HasField("error_code")
    answer = await peer.ask(CommandType.GET_SCHEMA, CommandType.GET_SCHEMA_RESPONSE, topic=TOPIC)
    assert answer.error_code == ServerError.TopicNotFound
    for kind in (CommandType.SEEK, CommandType.UNSUBSCRIBE, CommandType.GET_LAST_MESSAGE_ID):
        answer = await peer.ask(kind, CommandType.ERROR, consumer_id=9)
        assert answer.error == ServerError.NotAllowedError
    for kind in (CommandType.FLOW, CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES):
        peer.say(kind, consumer_id=9, **({"messagePermits": 1} if kind is CommandType.FLOW else {}))
        assert await peer.quiet()
    await peer.ask(CommandType.CLOSE_CONSUMER, CommandType.SUCCESS, consumer_id=9)
    await peer.ask(CommandType.CLOSE_PRODUCER, CommandType.SUCCESS, producer_id=9)


async def test_lookup_keeps_the_client_where_it_is(peer: Peer) -> None:
    """Whatever address it used is the only one that is sure to be reachable for it."""
    answer = await peer.ask(CommandType.LOOKUP, CommandType.LOOKUP_RESPONSE, topic=TOPIC, advertised_listener_name="")
    assert (answer.response, answer.proxy_through_service_url, answer.authoritative) == (1, True, True)
    assert answer.brokerServiceUrl
    assert answer.brokerServiceUrlTls


async def test_namespace_lists_what_was_created(peer: Peer) -> None:
    """One that nobody used has nothing."""
    await peer.publish(b"a")
    kinds = (CommandType.GET_TOPICS_OF_NAMESPACE, CommandType.GET_TOPICS_OF_NAMESPACE_RESPONSE)
    assert list((await peer.ask(*kinds, namespace="plant/hall7")).topics) == [TOPIC]
    assert list((await peer.ask(*kinds, namespace="plant/hall7", mode=1)).topics) == []
    assert list((await peer.ask(*kinds, namespace="plant/hall8")).topics) == []
