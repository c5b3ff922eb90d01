"""What a publisher says about an entry and about each message in it, described field by field. Pure.

Names, numbers and types are the protocol's (PulsarApi.proto). Texts are not verified as the commands' are: publishers
in C++ write whatever bytes they like into keys and properties, and Pulsar takes them. So may the gateway, and who reads
a text asks `text_of`.
"""

from __future__ import annotations

from typing import Any

from gateway.wire.protobuf import build_classes

_TABLE = """
KeyValue
  key 1 ! string
  value 2 ! string
EncryptionKeys
  key 1 ! string
  value 2 ! bytes
  metadata 3 * KeyValue
MessageMetadata
  producer_name 1 ! string
  sequence_id 2 ! uint64
  publish_time 3 ! uint64
  properties 4 * KeyValue
  replicated_from 5 ? string
  partition_key 6 ? string
  replicate_to 7 * string
  compression 8 ? int32
  uncompressed_size 9 ? uint32
  num_messages_in_batch 11 ? int32 = 1
  event_time 12 ? uint64
  encryption_keys 13 * EncryptionKeys
  encryption_algo 14 ? string
  encryption_param 15 ? bytes
  schema_version 16 ? bytes
  partition_key_b64_encoded 17 ? bool
  ordering_key 18 ? bytes
  deliver_at_time 19 ? int64
  marker_type 20 ? int32
  txnid_least_bits 22 ? uint64
  txnid_most_bits 23 ? uint64
  highest_sequence_id 24 ? uint64
  null_value 25 ? bool
  uuid 26 ? string
  num_chunks_from_msg 27 ? int32
  total_chunk_msg_size 28 ? int32
  chunk_id 29 ? int32
  null_partition_key 30 ? bool
  compacted_batch_indexes 31 * int32
  schema_id 32 ? bytes
  entry_hash_min 33 ? uint32
  entry_hash_max 34 ? uint32
SingleMessageMetadata
  properties 1 * KeyValue
  partition_key 2 ? string
  payload_size 3 ! int32
  compacted_out 4 ? bool
  event_time 5 ? uint64
  partition_key_b64_encoded 6 ? bool
  ordering_key 7 ? bytes
  sequence_id 8 ? uint64
  null_value 9 ? bool
  null_partition_key 10 ? bool
"""

_classes = build_classes("pulsar.metadata", _TABLE, verify_texts=False)

MessageMetadata: Any = _classes["MessageMetadata"]
SingleMessageMetadata: Any = _classes["SingleMessageMetadata"]


def text_of(value: str | bytes) -> str:
    """A text as it can be shown: where a publisher put other bytes than UTF-8, protobuf hands them out raw."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
