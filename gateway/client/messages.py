"""Between messages and entries: what an application publishes becomes an entry, a received entry becomes its
messages. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from gateway.errors import ProtocolError
from gateway.message import Message, MessageId, OutgoingMessage
from gateway.wire.acks import mask_of_words
from gateway.wire.batch import open_batch, open_payload
from gateway.wire.commands import MessageMetadata
from gateway.wire.entry import build_entry, parse_metadata, split_entry

if TYPE_CHECKING:
    from gateway.client.api import ReceivedEntry

ENCRYPTED = "headwater.encrypted"
"""Property of a message whose payload is as it was sent, because only who has the key can open it."""


def encode_entry(message: OutgoingMessage, *, producer_name: str, sequence_id: int, publish_time_ms: int) -> bytes:
    """The entry that holds one message."""
    metadata = MessageMetadata(producer_name=producer_name, sequence_id=sequence_id, publish_time=publish_time_ms)
    for key, value in message.properties.items():
        metadata.properties.add(key=key, value=value)
    if message.key is not None:
        metadata.partition_key = message.key
    if message.event_time_ms:
        metadata.event_time = message.event_time_ms
    if message.ordering_key is not None:
        metadata.ordering_key = message.ordering_key
    return build_entry(metadata.SerializeToString(), message.payload)


def decode_entry(received: ReceivedEntry) -> list[Message]:
    """The messages of an entry that are still to be delivered, in order. Raises: ProtocolError."""
    data = received.entry.data
    metadata = parse_metadata(data)
    _, payload = split_entry(data)
    position = received.entry.position
    if metadata.encryption_keys:
        # Compressed, then encrypted, batch and all: it stays one message.
        properties = {**_properties(metadata), ENCRYPTED: "true"}
        message_id = MessageId(position.ledger_id, position.entry_id, received.partition)
        return [_message(received, metadata, message_id, payload, metadata, properties)]
    if metadata.HasField("num_chunks_from_msg"):
        message_id = MessageId(position.ledger_id, position.entry_id, received.partition)
        return [_message(received, metadata, message_id, payload, metadata, _properties(metadata))]
    payload = open_payload(metadata, payload)
    if not metadata.HasField("num_messages_in_batch"):
        message_id = MessageId(position.ledger_id, position.entry_id, received.partition)
        return [_message(received, metadata, message_id, payload, metadata, _properties(metadata))]
    size = metadata.num_messages_in_batch
    unacked = mask_of_words(received.ack_set, size) if received.ack_set else -1
    messages = []
    for index, (single, part) in enumerate(open_batch(payload, size)):
        if single.compacted_out or not unacked >> index & 1:
            continue
        message_id = MessageId(position.ledger_id, position.entry_id, received.partition, index, size)
        messages.append(_message(received, metadata, message_id, part, single, _properties(single)))
    return messages


def _message(
    received: ReceivedEntry, metadata: Any, message_id: MessageId, payload: bytes, own: Any, properties: dict[str, str]
) -> Message:
    """`own` holds what is the message's own: its single metadata in a batch, else the entry's."""
    return Message(
        topic=received.topic,
        message_id=message_id,
        payload=payload,
        key=_key(own),
        properties=properties,
        publish_time_ms=metadata.publish_time,
        event_time_ms=own.event_time,
        producer_name=metadata.producer_name,
        sequence_id=metadata.sequence_id + max(0, message_id.batch_index),
        redelivery_count=received.redelivery_count,
    )


def _properties(holder: Any) -> dict[str, str]:
    return {item.key: item.value for item in holder.properties}


def _key(holder: Any) -> str | None:
    if not holder.HasField("partition_key"):
        return None
    key: str = holder.partition_key
    if not holder.partition_key_b64_encoded:
        return key
    try:
        return base64.b64decode(key, validate=True).decode("utf-8", "backslashreplace")
    except binascii.Error as error:
        raise ProtocolError("a message's key is not base64 although it says so") from error
