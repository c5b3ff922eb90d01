"""What the base classes of the door do for every implementation: messages out of entries, chunks, asking again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.client.api import Consumer, ConsumerOptions, Producer
from gateway.message import InitialPosition, OutgoingMessage, SubscriptionType
from gateway.wire.batch import BatchBuilder
from gateway.wire.entry import build_entry
from gateway.wire.metadata import MessageMetadata
from tests.contracts.conftest import Door, door

__all__ = ["door"]

TOPIC = "persistent://plant/hall7/temperature"
SHARED = ConsumerOptions(SubscriptionType.shared, InitialPosition.earliest)
WAIT_S = 10


def chunks(payload: bytes, count: int) -> list[bytes]:
    """Entries of one message, as Pulsar's clients cut it: all under one sequence id."""
    size = -(-len(payload) // count)
    entries = []
    for number in range(count):
        metadata = MessageMetadata(
            producer_name="p",
            sequence_id=0,
            publish_time=1,
            uuid="p-0",
            chunk_id=number,
            num_chunks_from_msg=count,
            total_chunk_msg_size=len(payload),
        )
        entries.append(build_entry(metadata.SerializeToString(), payload[number * size : (number + 1) * size]))
    return entries


async def publish(door: Door, entries: Sequence[bytes], messages: int = 1) -> None:
    producer: Producer = await door.client.create_producer(TOPIC)
    for sequence_id, entry in enumerate(entries):
        await producer.send_entry(entry, sequence_id=sequence_id, messages=messages)
    await producer.close()


async def rest(consumer: Consumer) -> list[bytes]:
    """What is still delivered before a message that is published now."""
    payloads = []
    while (message := await asyncio.wait_for(consumer.receive(), WAIT_S)).payload != b"end":
        payloads.append(message.payload)
    return payloads


async def end(door: Door) -> None:
    producer = await door.client.create_producer(TOPIC)
    await producer.send(OutgoingMessage(b"end"))
    await producer.close()


async def test_consumer_receives_and_acknowledges_chunked_message_as_one(door: Door) -> None:
    """A message that came in three entries goes by the last one's id, and its acknowledgement covers all three."""
    consumer = await door.client.subscribe(TOPIC, "s", SHARED)
    await publish(door, chunks(b"a message in chunks", 3))
    message = await asyncio.wait_for(consumer.receive(), WAIT_S)
    assert message.payload == b"a message in chunks"
    assert message.message_id.entry_id == 2
    consumer.acknowledge(message.message_id)
    await consumer.close()
    again = await door.client.subscribe(TOPIC, "s", SHARED)
    await end(door)
    first = await asyncio.wait_for(again.receive_entry(), WAIT_S)
    assert first.entry.position.entry_id == 3, "a chunk was delivered again"
    await again.close()


async def test_consumer_is_given_all_chunks_again(door: Door) -> None:
    """Asking for a chunked message again brings every entry of it, so that it becomes whole again."""
    consumer = await door.client.subscribe(TOPIC, "s", SHARED)
    await publish(door, chunks(b"a message in chunks", 3))
    message = await asyncio.wait_for(consumer.receive(), WAIT_S)
    consumer.negative_acknowledge(message.message_id)
    again = await asyncio.wait_for(consumer.receive(), WAIT_S)
    assert (again.payload, again.redelivery_count) == (b"a message in chunks", 1)
    await consumer.close()


async def test_reader_reads_chunked_message_as_one(door: Door) -> None:
    """A reader puts chunks together as a consumer does."""
    await publish(door, chunks(b"a message in chunks", 4))
    reader = await door.client.create_reader(TOPIC, since_ms=0)
    message = await asyncio.wait_for(reader.read(), WAIT_S)
    assert (message.payload, message.message_id.entry_id) == (b"a message in chunks", 3)
    await reader.close()


async def test_shared_consumer_keeps_the_rest_of_a_batch_while_asking_for_another_message(door: Door) -> None:
    """Messages of a batch that are here, opened, are not lost because an earlier entry is to come again."""
    consumer = await door.client.subscribe(TOPIC, "s", SHARED)
    builder = BatchBuilder("p")
    builder.add(b"alone")
    entries = [builder.finish(sequence_id=0, publish_time_ms=1)]
    for payload in (b"x", b"y", b"z"):
        builder.add(payload)
    entries.append(builder.finish(sequence_id=1, publish_time_ms=1))
    await publish(door, entries)
    alone = await asyncio.wait_for(consumer.receive(), WAIT_S)
    assert (await asyncio.wait_for(consumer.receive(), WAIT_S)).payload == b"x"
    consumer.negative_acknowledge(alone.message_id)
    payloads = [(await asyncio.wait_for(consumer.receive(), WAIT_S)).payload for _ in range(3)]
    assert sorted(payloads) == [b"alone", b"y", b"z"]
    await consumer.close()


async def test_shared_consumer_gets_a_batch_again_once(door: Door) -> None:
    """What is here, opened, of the entry that is to come again is not delivered twice."""
    consumer = await door.client.subscribe(TOPIC, "s", SHARED)
    builder = BatchBuilder("p")
    for payload in (b"x", b"y", b"z"):
        builder.add(payload)
    await publish(door, [builder.finish(sequence_id=0, publish_time_ms=1)], messages=3)
    first = await asyncio.wait_for(consumer.receive(), WAIT_S)
    consumer.negative_acknowledge(first.message_id)
    payloads = [(await asyncio.wait_for(consumer.receive(), WAIT_S)).payload for _ in range(3)]
    assert payloads == [b"x", b"y", b"z"]
    await end(door)
    assert await rest(consumer) == []
    await consumer.close()
