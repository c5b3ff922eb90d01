"""What every client of the door promises, wherever the broker is. Each test runs over `local` and over `remote`."""

from __future__ import annotations

import asyncio

import pytest

from gateway.client.api import Commit, ConsumerOptions, Output, Producer, ProducerOptions, StateChange
from gateway.client.messages import encode_entry
from gateway.errors import BrokerError, ConsumerBusy, GatewayError, NotAllowed, ProducerBusy
from gateway.message import EARLIEST, InitialPosition, MessageId, OutgoingMessage, Position, SubscriptionType
from gateway.names import TopicName
from gateway.wire.entry import build_entry, split_entry
from tests.contracts.conftest import Door

TOPIC = "persistent://plant/hall7/temperature"
FROM_FIRST = ConsumerOptions(initial_position=InitialPosition.earliest)
SHARED = ConsumerOptions(SubscriptionType.shared, InitialPosition.earliest)
WAIT_S = 10


def entry(payload: bytes, sequence_id: int = 0) -> bytes:
    return encode_entry(OutgoingMessage(payload), producer_name="p", sequence_id=sequence_id, publish_time_ms=1_000)


def batch(*payloads: bytes) -> bytes:
    """Written by hand: SingleMessageMetadata with payload_size (3) alone, MessageMetadata with the count (11)."""
    parts = [b"\x00\x00\x00\x02\x18" + bytes([len(payload)]) + payload for payload in payloads]
    metadata, _ = split_entry(entry(b""))
    return build_entry(metadata + b"\x58" + bytes([len(payloads)]), b"".join(parts))


async def publish(door: Door, *payloads: bytes, topic: str = TOPIC) -> list[MessageId]:
    producer = await door.client.create_producer(topic)
    ids = [await producer.send(OutgoingMessage(payload)) for payload in payloads]
    await producer.close()
    return ids


async def no_more(receiving: asyncio.Task[object]) -> bool:
    """Whether a receiver still waits when everything that was on its way must have arrived."""
    done, _ = await asyncio.wait([receiving], timeout=0.1)
    receiving.cancel()
    return not done


# Producers


async def test_producer_sends_message_whole(door: Door) -> None:
    """Payload, key, properties, event time and ordering key arrive; the position is the one that `send` returned."""
    producer = await door.client.create_producer(TOPIC, ProducerOptions(name="press-4"))
    sent = await producer.send(OutgoingMessage(b"\x00\xff", "key", {"unit": "°C"}, 1_700_000_000_000, b"order"))
    consumer = await door.client.subscribe(TOPIC, "s", FROM_FIRST)
    message = await consumer.receive()
    assert (message.payload, message.key, message.properties) == (b"\x00\xff", "key", {"unit": "°C"})
    assert (message.event_time_ms, message.producer_name, message.sequence_id) == (1_700_000_000_000, "press-4", 0)
    assert message.message_id == sent
    assert message.topic == TOPIC
    assert message.publish_time_ms > 0


async def test_producer_keeps_order_of_entries_that_are_under_way(door: Door) -> None:
    """Entries sent without waiting are stored in the order of the calls, and their receipts say so."""
    producer = await door.client.create_producer(TOPIC)
    futures = [producer.send_entry(entry(b"%d" % number), sequence_id=number) for number in range(500)]
    positions = await asyncio.gather(*futures)
    assert [position.entry_id for position in positions] == list(range(500))
    assert len({position.ledger_id for position in positions}) == 1
    reader = await door.client.create_reader(TOPIC, EARLIEST)
    assert [(await reader.read()).payload for _ in range(500)] == [b"%d" % number for number in range(500)]


async def test_producer_calls_back_with_each_receipt_in_order(door: Door) -> None:
    """`publish` tells the sequence id and the position, once an entry."""
    producer = await door.client.create_producer(TOPIC, ProducerOptions(name="p"))
    receipts: list[tuple[int, Position, GatewayError | None]] = []
    for number in (0, 1, 1, 2):
        producer.publish(
            entry(b"x"), sequence_id=number, messages=1, on_receipt=lambda *receipt: receipts.append(receipt)
        )
    await producer.flush()
    await asyncio.sleep(0)
    assert [(sequence_id, position.entry_id) for sequence_id, position, _ in receipts] == [
        (0, 0),
        (1, 1),
        (1, -1),
        (2, 2),
    ]
    assert all(error is None for _, _, error in receipts)


async def test_producer_stores_each_sequence_id_once(door: Door) -> None:
    """What is sent again is answered (-1, -1), and a producer that comes back learns where it was."""
    producer = await door.client.create_producer(TOPIC, ProducerOptions(name="p"))
    assert producer.last_sequence_id == -1
    assert (await producer.send_entry(entry(b"a"), sequence_id=5)).entry_id == 0
    assert await producer.send_entry(entry(b"again"), sequence_id=5) == Position(-1, -1)
    assert await producer.send_entry(entry(b"older"), sequence_id=4) == Position(-1, -1)
    await producer.close()
    returned = await door.client.create_producer(TOPIC, ProducerOptions(name="p"))
    assert returned.last_sequence_id == 5
    assert (await returned.send(OutgoingMessage(b"b"))).entry_id == 1


async def test_producer_name_belongs_to_one_producer(door: Door) -> None:
    """While it is connected; afterwards it is free. Without a name everybody gets one of their own."""
    first = await door.client.create_producer(TOPIC, ProducerOptions(name="p"))
    with pytest.raises(ProducerBusy):
        await door.client.create_producer(TOPIC, ProducerOptions(name="p"))
    await first.close()
    await (await door.client.create_producer(TOPIC, ProducerOptions(name="p"))).close()
    invented = [(await door.client.create_producer(TOPIC)).name for _ in range(3)]
    assert len(set(invented)) == 3


async def test_producer_flushes_what_was_sent(door: Door) -> None:
    """After `flush` every future is done."""
    producer = await door.client.create_producer(TOPIC)
    futures = [producer.send_entry(entry(b"x"), sequence_id=number) for number in range(100)]
    await producer.flush()
    await asyncio.sleep(0)
    assert all(future.done() for future in futures)


async def test_producer_refuses_after_close(door: Door) -> None:
    """A closed producer's future fails; nothing is stored."""
    producer = await door.client.create_producer(TOPIC)
    await producer.close()
    with pytest.raises(GatewayError):
        await producer.send_entry(entry(b"x"), sequence_id=0)
    with pytest.raises(GatewayError):
        await producer.send(OutgoingMessage(b"x"))


async def test_client_refuses_bad_topic_names(door: Door) -> None:
    """With the error that names the mistake."""
    with pytest.raises(BrokerError):
        await door.client.create_producer("persistent://a/b/c/d/e")
    with pytest.raises(BrokerError):
        await door.client.create_producer("non-persistent://plant/hall7/t")


# Consumers


async def test_consumer_begins_where_it_says(door: Door) -> None:
    """A new subscription begins at the first entry or behind the last one; an old one where it was."""
    await publish(door, b"old")
    earliest = await door.client.subscribe(TOPIC, "earliest", FROM_FIRST)
    latest = await door.client.subscribe(TOPIC, "latest")
    await publish(door, b"new")
    assert (await earliest.receive()).payload == b"old"
    assert (await latest.receive()).payload == b"new"


async def test_consumer_is_given_again_what_it_did_not_acknowledge(door: Door) -> None:
    """After it left; what it acknowledged stays done."""
    ids = await publish(door, b"a", b"b", b"c")
    consumer = await door.client.subscribe(TOPIC, "s", FROM_FIRST)
    for _ in range(3):
        await consumer.receive()
    consumer.acknowledge(ids[1])
    await consumer.close()
    consumer = await door.client.subscribe(TOPIC, "s")
    assert [(await consumer.receive()).payload for _ in range(2)] == [b"a", b"c"]
    consumer.acknowledge_cumulative(ids[2])
    await consumer.close()
    consumer = await door.client.subscribe(TOPIC, "s")
    assert await no_more(asyncio.ensure_future(consumer.receive()))


@pytest.mark.parametrize("one_by_one", [True, False])
async def test_consumer_acknowledges_within_a_batch(door: Door, one_by_one: bool) -> None:
    """Messages of a batch are done with one by one; when all are, so is the entry."""
    producer = await door.client.create_producer(TOPIC)
    await producer.send_entry(batch(b"a", b"b", b"c", b"d"), sequence_id=0, messages=4)
    consumer = await door.client.subscribe(TOPIC, "s", FROM_FIRST)
    messages = [await consumer.receive() for _ in range(4)]
    assert [message.message_id.batch_index for message in messages] == [0, 1, 2, 3]
    if one_by_one:
        consumer.acknowledge(messages[0].message_id)
        consumer.acknowledge(messages[2].message_id)
        left = [b"b", b"d"]
    else:
        consumer.acknowledge_cumulative(messages[1].message_id)
        left = [b"c", b"d"]
    await consumer.close()
    consumer = await door.client.subscribe(TOPIC, "s")
    again = [await consumer.receive() for _ in left]
    assert [message.payload for message in again] == left
    for message in again:
        consumer.acknowledge(message.message_id)
    await consumer.close()
    consumer = await door.client.subscribe(TOPIC, "s")
    assert await no_more(asyncio.ensure_future(consumer.receive()))


async def test_consumer_asks_for_a_message_again(door: Door) -> None:
    """A shared subscription delivers it anew, with its count one higher, and leaves the others alone."""
    ids = await publish(door, b"a", b"b")
    consumer = await door.client.subscribe(TOPIC, "s", SHARED)
    first, second = await consumer.receive(), await consumer.receive()
    assert (first.redelivery_count, second.redelivery_count) == (0, 0)
    consumer.negative_acknowledge(ids[0])
    again = await consumer.receive()
    assert (again.payload, again.redelivery_count) == (b"a", 1)


async def test_ordered_consumer_starts_again_from_what_it_asks_for(door: Door) -> None:
    """On an exclusive subscription order goes first: what follows comes again as well."""
    ids = await publish(door, b"a", b"b", b"c")
    consumer = await door.client.subscribe(TOPIC, "s", FROM_FIRST)
    for _ in range(3):
        await consumer.receive()
    consumer.acknowledge(ids[0])
    consumer.negative_acknowledge(ids[1])
    assert [(await consumer.receive()).payload for _ in range(2)] == [b"b", b"c"]


async def test_shared_consumers_divide_what_there_is(door: Door) -> None:
    """Each message goes to one of them; what one leaves behind goes to the other."""
    await publish(door, *[b"%d" % number for number in range(10)])
    options = ConsumerOptions(SubscriptionType.shared, InitialPosition.earliest, receiver_queue_size=5)
    first = await door.client.subscribe(TOPIC, "s", options)
    second = await door.client.subscribe(TOPIC, "s", options)
    taken = [await first.receive()]
    await first.close()
    others = [await second.receive() for _ in range(10)]
    assert {message.payload for message in others} == {b"%d" % number for number in range(10)}
    assert taken[0].payload in {message.payload for message in others}


async def test_exclusive_consumer_has_the_subscription_alone(door: Door) -> None:
    """Another is refused until it leaves."""
    first = await door.client.subscribe(TOPIC, "s")
    another = await door.another()
    with pytest.raises(ConsumerBusy):
        await another.subscribe(TOPIC, "s")
    await first.close()
    await (await another.subscribe(TOPIC, "s")).close()
    await another.close()


async def test_consumer_moves_its_subscription(door: Door) -> None:
    """The entry at the position is the next, forwards and backwards, whatever was delivered already."""
    ids = await publish(door, *[b"%d" % number for number in range(20)])
    consumer = await door.client.subscribe(TOPIC, "s", FROM_FIRST)
    await consumer.receive()
    for place in (15, 3, 0):
        await consumer.seek(ids[place].position)
        assert (await consumer.receive()).payload == b"%d" % place
    await consumer.seek(EARLIEST)
    assert [(await consumer.receive()).payload for _ in range(20)] == [b"%d" % number for number in range(20)]


async def test_consumer_with_the_smallest_queue_gets_everything(door: Door) -> None:
    """Permits come back one by one."""
    await publish(door, *[b"%d" % number for number in range(50)])
    options = ConsumerOptions(initial_position=InitialPosition.earliest, receiver_queue_size=1)
    consumer = await door.client.subscribe(TOPIC, "s", options)
    assert [(await consumer.receive()).payload for _ in range(50)] == [b"%d" % number for number in range(50)]


async def test_consumer_learns_the_last_message(door: Door) -> None:
    """Entry id -1: the topic is empty. In a batch it is the last of it."""
    consumer = await door.client.subscribe(TOPIC, "s")
    assert (await consumer.last_message_id()).entry_id == -1
    (only,) = await publish(door, b"a")
    assert await consumer.last_message_id() == only
    producer = await door.client.create_producer(TOPIC)
    position = await producer.send_entry(batch(b"x", b"y"), sequence_id=0, messages=2)
    last = await consumer.last_message_id()
    assert (last.position, last.batch_index) == (position, 1)


async def test_consumer_deletes_its_subscription(door: Door) -> None:
    """It begins anew when somebody subscribes again, and can't be deleted while others use it."""
    await publish(door, b"a")
    consumer = await door.client.subscribe(TOPIC, "s", SHARED)
    other = await door.client.subscribe(TOPIC, "s", SHARED)
    with pytest.raises(ConsumerBusy):
        await consumer.unsubscribe()
    await other.close()
    consumer.acknowledge((await consumer.receive()).message_id)
    await consumer.unsubscribe()
    consumer = await door.client.subscribe(TOPIC, "s", FROM_FIRST)
    assert (await consumer.receive()).payload == b"a"


async def test_waiting_consumer_is_told_when_it_is_closed(door: Door) -> None:
    """`receive` raises instead of waiting for ever."""
    consumer = await door.client.subscribe(TOPIC, "s")
    waiting = asyncio.ensure_future(consumer.receive())
    await asyncio.sleep(0)
    await consumer.close()
    with pytest.raises(GatewayError):
        await asyncio.wait_for(waiting, WAIT_S)


# Readers


async def test_reader_reads_from_a_place_on(door: Door) -> None:
    """From the first entry, from an entry (inclusive), or what is published from now on."""
    ids = await publish(door, b"a", b"b", b"c")
    first = await door.client.create_reader(TOPIC, EARLIEST)
    assert [(await first.read()).payload for _ in range(3)] == [b"a", b"b", b"c"]
    middle = await door.client.create_reader(TOPIC, ids[1].position)
    assert (await middle.read()).payload == b"b"
    latest = await door.client.create_reader(TOPIC)
    await publish(door, b"d")
    assert (await latest.read()).payload == b"d"


async def test_reader_reads_from_a_time_on(door: Door) -> None:
    """The first entry is the first one published at or after it."""
    producer = await door.client.create_producer(TOPIC)
    for number in range(10):
        data = encode_entry(
            OutgoingMessage(b"%d" % number), producer_name="p", sequence_id=number, publish_time_ms=1_000 * number
        )
        await producer.send_entry(data, sequence_id=number)
    reader = await door.client.create_reader(TOPIC, EARLIEST, since_ms=3_500)
    assert await reader.has_entry_available()
    assert (await reader.read()).payload == b"4"
    assert not await (await door.client.create_reader(TOPIC, EARLIEST, since_ms=99_000)).has_entry_available()


async def test_reader_knows_whether_there_is_more(door: Door) -> None:
    """On an empty topic, before and after the last entry, and from the end."""
    reader = await door.client.create_reader(TOPIC, EARLIEST)
    assert not await reader.has_entry_available()
    ids = await publish(door, b"a", b"b")
    assert await reader.has_entry_available()
    await reader.read()
    assert await reader.has_entry_available()
    await reader.read()
    assert not await reader.has_entry_available()
    at_last = await door.client.create_reader(TOPIC, ids[1].position)
    assert await at_last.has_entry_available()
    latest = await door.client.create_reader(TOPIC)
    assert not await latest.has_entry_available()


async def test_reader_takes_many_entries_at_once(door: Door) -> None:
    """At least one, at most as many as asked for, all in order."""
    await publish(door, *[b"%d" % number for number in range(100)])
    reader = await door.client.create_reader(TOPIC, EARLIEST, receiver_queue_size=20)
    read: list[int] = []
    while len(read) < 100:
        entries = await reader.read_entries(30)
        assert 1 <= len(entries) <= 30
        read += [received.entry.position.entry_id for received in entries]
    assert read == list(range(100))
    assert not await reader.has_entry_available()


async def test_reader_gets_entries_as_they_were_sent(door: Door) -> None:
    """Byte for byte, with the number of messages in them."""
    producer = await door.client.create_producer(TOPIC)
    sent = [entry(b"x"), batch(b"a", b"b", b"c")]
    for number, data in enumerate(sent):
        await producer.send_entry(data, sequence_id=number, messages=1 + 2 * number)
    reader = await door.client.create_reader(TOPIC, EARLIEST)
    read = [(await reader.read_entry()).entry for _ in sent]
    assert [one.data for one in read] == sent
    assert [one.messages for one in read] == [1, 3]


# Topics


async def test_client_lists_topics_of_a_namespace(door: Door) -> None:
    """By name, partitions one by one; an unknown namespace has none."""
    await publish(door, b"x", topic="persistent://plant/hall7/b")
    await publish(door, b"x", topic="persistent://plant/hall7/a")
    await publish(door, b"x", topic="persistent://plant/hall8/c")
    await door.broker.create_partitioned_topic(TopicName.parse("plant/hall7/p"), 2)
    await publish(door, b"x", topic="persistent://plant/hall7/p-partition-1")
    names = [info.name for info in await door.client.topics("plant/hall7")]
    assert names == [f"persistent://plant/hall7/{name}" for name in ("a", "b", "p-partition-1")]
    assert await door.client.topics("nobody/here") == []


async def test_client_tells_partitions(door: Door) -> None:
    """0 where there are none; a partitioned topic is used by its partitions, whose ids carry their number."""
    topic = "persistent://plant/hall7/p"
    await door.broker.create_partitioned_topic(TopicName.parse(topic), 3)
    assert await door.client.partitions(topic) == 3
    assert await door.client.partitions(TOPIC) == 0
    with pytest.raises(NotAllowed):
        await door.client.create_producer(topic)
    await publish(door, b"x", topic=f"{topic}-partition-2")
    reader = await door.client.create_reader(f"{topic}-partition-2", EARLIEST)
    assert (await reader.read()).message_id.partition == 2


# Atomic commits


async def test_only_the_gateway_itself_commits_atomically(door: Door) -> None:
    """Outputs, acknowledgements and state together; elsewhere it is refused in words."""
    producer: Producer = await door.client.create_producer(TOPIC, ProducerOptions(name="f"))
    commit = Commit(
        outputs=[Output(producer, entry(b"out"), sequence_id=7)], state=[StateChange("function/f", "count", b"1")]
    )
    if door.kind == "remote":
        with pytest.raises(NotAllowed):
            await door.client.commit(commit)
        with pytest.raises(NotAllowed):
            await door.client.load_state("function/f")
        return
    (position,) = await door.client.commit(commit)
    assert position.entry_id == 0
    assert await door.client.load_state("function/f") == {"count": b"1"}
    assert await door.client.commit(commit) == [Position(-1, -1)]
    await door.client.commit(Commit(state=[StateChange("function/f", "count", None)]))
    assert await door.client.load_state("function/f") == {}
