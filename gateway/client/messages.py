"""Between messages and entries: what is published becomes an entry, a received entry becomes its messages. Pure."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from gateway.client.chunks import ChunkAssembler
from gateway.errors import ProtocolError
from gateway.message import Message, MessageId, OutgoingMessage
from gateway.wire.acks import mask_of_words
from gateway.wire.batch import open_batch, open_payload
from gateway.wire.entry import build_entry, parse_metadata, split_entry
from gateway.wire.metadata import MessageMetadata, text_of

if TYPE_CHECKING:
    from gateway.client.api import ReceivedEntry

ENCRYPTED = "headwater.encrypted"
"""Property of a message whose payload is as it was sent, because only who has the key can open it."""


def encode_entry(message: OutgoingMessage, *, producer_name: str, sequence_id: int, publish_time_ms: int) -> bytes:
    """The entry that holds one message. Raises: ProtocolError (local) for what an entry can't hold."""
    try:
        metadata = MessageMetadata(producer_name=producer_name, sequence_id=sequence_id, publish_time=publish_time_ms)
        for key, value in message.properties.items():
            metadata.properties.add(key=key, value=value)
        if message.key is not None:
            metadata.partition_key = message.key
        if message.event_time_ms:
            metadata.event_time = message.event_time_ms
        if message.ordering_key is not None:
            metadata.ordering_key = message.ordering_key
    except ValueError as error:
        # A text with half a surrogate pair (a command line's undecodable byte), a time before 1970.
        raise ProtocolError(f"a message can't be encoded: {error}", local=True) from error
    return build_entry(metadata.SerializeToString(), message.payload)


def decode_entry(received: ReceivedEntry, chunks: ChunkAssembler | None = None) -> list[Message]:
    """The messages of an entry that are still to be delivered, in order. Raises: ProtocolError.

    With `chunks`, a chunk of a message is kept there, and the whole message comes with its last chunk; without, each
    chunk is a message, as it was sent.
    """
    data = received.entry.data
    metadata = parse_metadata(data)
    _, payload = split_entry(data)
    if metadata.encryption_keys:
        # Compressed, then encrypted, batch and all: it stays one message.
        return [_whole(received, metadata, payload, {ENCRYPTED: "true"})]
    if metadata.HasField("num_chunks_from_msg"):
        if chunks is None:
            return [_whole(received, metadata, payload)]
        complete = chunks.add(metadata, payload, received.entry.position)
        return [] if complete is None else [_whole(received, metadata, open_payload(metadata, complete))]
    payload = open_payload(metadata, payload)
    if not metadata.HasField("num_messages_in_batch"):
        return [_whole(received, metadata, payload)]
    return _batch(received, metadata, payload)


def _whole(
    received: ReceivedEntry, metadata: Any, payload: bytes, more_properties: dict[str, str] | None = None
) -> Message:
    position = received.entry.position
    message_id = MessageId(position.ledger_id, position.entry_id, received.partition)
    message = _message(received, metadata, message_id, payload, metadata, metadata.sequence_id)
    if more_properties:
        message.properties.update(more_properties)
    return message


def _batch(received: ReceivedEntry, metadata: Any, payload: bytes) -> list[Message]:
    position = received.entry.position
    size = metadata.num_messages_in_batch
    opened = open_batch(payload, size)
    unacked = mask_of_words(received.ack_set, size) if received.ack_set else -1
    messages = []
    for index, (single, part) in enumerate(opened):
        if single.compacted_out or not unacked >> index & 1:
            continue
        message_id = MessageId(position.ledger_id, position.entry_id, received.partition, index, size)
        sequence_id = single.sequence_id if single.HasField("sequence_id") else metadata.sequence_id + index
        messages.append(_message(received, metadata, message_id, part, single, sequence_id))
    return messages


def _message(
    received: ReceivedEntry, metadata: Any, message_id: MessageId, payload: bytes, own: Any, sequence_id: int
) -> Message:
    """`own` holds what is the message's own: its single metadata in a batch, else the entry's."""
    return Message(
        topic=received.topic,
        message_id=message_id,
        payload=payload,
        key=_key(own),
        properties={text_of(item.key): text_of(item.value) for item in own.properties},
        publish_time_ms=metadata.publish_time,
        event_time_ms=own.event_time,
        producer_name=text_of(metadata.producer_name),
        sequence_id=sequence_id,
        redelivery_count=received.redelivery_count,
    )


def _key(holder: Any) -> str | None:
    if not holder.HasField("partition_key"):
        return None
    key = text_of(holder.partition_key)
    if not holder.partition_key_b64_encoded:
        return key
    try:
        return text_of(base64.b64decode(key, validate=True))
    except ValueError as error:
        raise ProtocolError("a message's key is not base64 although it says so") from error
