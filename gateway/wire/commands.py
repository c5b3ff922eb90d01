"""The commands of Pulsar's binary protocol that the gateway speaks, described field by field. Pure.

Names, numbers and types are the protocol's (PulsarApi.proto); commands that are neither served nor sent (topic
migration, scalable topics, watchers, the rest of transactions) are left out, so that a peer that sends one is told
off by its number. Enumerations are integers on purpose: a number that is newer than this table must not make a whole
command unreadable.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from gateway.wire.protobuf import build_classes

_TABLE = """
Schema
  name 1 ! string
  schema_data 3 ! bytes
  type 4 ! int32
  properties 5 * KeyValue
MessageIdData
  ledgerId 1 ! uint64
  entryId 2 ! uint64
  partition 3 ? int32 = -1
  batch_index 4 ? int32 = -1
  ack_set 5 * int64
  batch_size 6 ? int32
  first_chunk_message_id 7 ? MessageIdData
KeyValue
  key 1 ! string
  value 2 ! string
KeyLongValue
  key 1 ! string
  value 2 ! uint64
IntRange
  start 1 ! int32
  end 2 ! int32
CommandConnect
  client_version 1 ! string
  auth_method_name 5 ? string
  auth_data 3 ? bytes
  protocol_version 4 ? int32
  proxy_to_broker_url 6 ? string
  original_principal 7 ? string
  original_auth_data 8 ? string
  original_auth_method 9 ? string
  feature_flags 10 ? FeatureFlags
  proxy_version 11 ? string
FeatureFlags
  supports_auth_refresh 1 ? bool
  supports_broker_entry_metadata 2 ? bool
  supports_partial_producer 3 ? bool
  supports_topic_watchers 4 ? bool
  supports_get_partitioned_metadata_without_auto_creation 5 ? bool
  supports_repl_dedup_by_lid_and_eid 6 ? bool
  supports_topic_watcher_reconcile 7 ? bool
  supports_scalable_topics 8 ? bool
  supports_tc_metadata_discovery 9 ? bool
CommandConnected
  server_version 1 ! string
  protocol_version 2 ? int32
  max_message_size 3 ? int32
  feature_flags 4 ? FeatureFlags
CommandAuthResponse
  client_version 1 ? string
  response 2 ? AuthData
  protocol_version 3 ? int32
CommandAuthChallenge
  server_version 1 ? string
  challenge 2 ? AuthData
  protocol_version 3 ? int32
AuthData
  auth_method_name 1 ? string
  auth_data 2 ? bytes
KeySharedMeta
  keySharedMode 1 ! int32
  hashRanges 3 * IntRange
  allowOutOfOrderDelivery 4 ? bool
CommandSubscribe
  topic 1 ! string
  subscription 2 ! string
  subType 3 ! int32
  consumer_id 4 ! uint64
  request_id 5 ! uint64
  consumer_name 6 ? string
  priority_level 7 ? int32
  durable 8 ? bool = true
  start_message_id 9 ? MessageIdData
  metadata 10 * KeyValue
  read_compacted 11 ? bool
  schema 12 ? Schema
  initialPosition 13 ? int32
  replicate_subscription_state 14 ? bool
  force_topic_creation 15 ? bool = true
  start_message_rollback_duration_sec 16 ? uint64
  keySharedMeta 17 ? KeySharedMeta
  subscription_properties 18 * KeyValue
  consumer_epoch 19 ? uint64
CommandPartitionedTopicMetadata
  topic 1 ! string
  request_id 2 ! uint64
  original_principal 3 ? string
  original_auth_data 4 ? string
  original_auth_method 5 ? string
  metadata_auto_creation_enabled 6 ? bool = true
CommandPartitionedTopicMetadataResponse
  partitions 1 ? uint32
  request_id 2 ! uint64
  response 3 ? int32
  error 4 ? int32
  message 5 ? string
CommandLookupTopic
  topic 1 ! string
  request_id 2 ! uint64
  authoritative 3 ? bool
  original_principal 4 ? string
  original_auth_data 5 ? string
  original_auth_method 6 ? string
  advertised_listener_name 7 ? string
  properties 8 * KeyValue
CommandLookupTopicResponse
  brokerServiceUrl 1 ? string
  brokerServiceUrlTls 2 ? string
  response 3 ? int32
  request_id 4 ! uint64
  authoritative 5 ? bool
  error 6 ? int32
  message 7 ? string
  proxy_through_service_url 8 ? bool
CommandProducer
  topic 1 ! string
  producer_id 2 ! uint64
  request_id 3 ! uint64
  producer_name 4 ? string
  encrypted 5 ? bool
  metadata 6 * KeyValue
  schema 7 ? Schema
  epoch 8 ? uint64
  user_provided_producer_name 9 ? bool = true
  producer_access_mode 10 ? int32
  topic_epoch 11 ? uint64
  txn_enabled 12 ? bool
  initial_subscription_name 13 ? string
CommandSend
  producer_id 1 ! uint64
  sequence_id 2 ! uint64
  num_messages 3 ? int32 = 1
  txnid_least_bits 4 ? uint64
  txnid_most_bits 5 ? uint64
  highest_sequence_id 6 ? uint64
  is_chunk 7 ? bool
  marker 8 ? bool
  message_id 9 ? MessageIdData
CommandSendReceipt
  producer_id 1 ! uint64
  sequence_id 2 ! uint64
  message_id 3 ? MessageIdData
  highest_sequence_id 4 ? uint64
CommandSendError
  producer_id 1 ! uint64
  sequence_id 2 ! uint64
  error 3 ! int32
  message 4 ! string
CommandMessage
  consumer_id 1 ! uint64
  message_id 2 ! MessageIdData
  redelivery_count 3 ? uint32
  ack_set 4 * int64
  consumer_epoch 5 ? uint64
CommandAck
  consumer_id 1 ! uint64
  ack_type 2 ! int32
  message_id 3 * MessageIdData
  validation_error 4 ? int32
  properties 5 * KeyLongValue
  txnid_least_bits 6 ? uint64
  txnid_most_bits 7 ? uint64
  request_id 8 ? uint64
CommandAckResponse
  consumer_id 1 ! uint64
  txnid_least_bits 2 ? uint64
  txnid_most_bits 3 ? uint64
  error 4 ? int32
  message 5 ? string
  request_id 6 ? uint64
CommandActiveConsumerChange
  consumer_id 1 ! uint64
  is_active 2 ? bool
CommandFlow
  consumer_id 1 ! uint64
  messagePermits 2 ! uint32
CommandUnsubscribe
  consumer_id 1 ! uint64
  request_id 2 ! uint64
  force 3 ? bool
CommandSeek
  consumer_id 1 ! uint64
  request_id 2 ! uint64
  message_id 3 ? MessageIdData
  message_publish_time 4 ? uint64
CommandReachedEndOfTopic
  consumer_id 1 ! uint64
CommandCloseProducer
  producer_id 1 ! uint64
  request_id 2 ! uint64
  assignedBrokerServiceUrl 3 ? string
  assignedBrokerServiceUrlTls 4 ? string
CommandCloseConsumer
  consumer_id 1 ! uint64
  request_id 2 ! uint64
  assignedBrokerServiceUrl 3 ? string
  assignedBrokerServiceUrlTls 4 ? string
CommandRedeliverUnacknowledgedMessages
  consumer_id 1 ! uint64
  message_ids 2 * MessageIdData
  consumer_epoch 3 ? uint64
CommandSuccess
  request_id 1 ! uint64
  schema 2 ? Schema
CommandProducerSuccess
  request_id 1 ! uint64
  producer_name 2 ! string
  last_sequence_id 3 ? int64 = -1
  schema_version 4 ? bytes
  topic_epoch 5 ? uint64
  producer_ready 6 ? bool = true
CommandError
  request_id 1 ! uint64
  error 2 ! int32
  message 3 ! string
CommandConsumerStats
  request_id 1 ! uint64
  consumer_id 4 ! uint64
CommandConsumerStatsResponse
  request_id 1 ! uint64
  error_code 2 ? int32
  error_message 3 ? string
  msgRateOut 4 ? double
  msgThroughputOut 5 ? double
  msgRateRedeliver 6 ? double
  consumerName 7 ? string
  availablePermits 8 ? uint64
  unackedMessages 9 ? uint64
  blockedConsumerOnUnackedMsgs 10 ? bool
  address 11 ? string
  connectedSince 12 ? string
  type 13 ? string
  msgRateExpired 14 ? double
  msgBacklog 15 ? uint64
  messageAckRate 16 ? double
CommandGetLastMessageId
  consumer_id 1 ! uint64
  request_id 2 ! uint64
CommandGetLastMessageIdResponse
  last_message_id 1 ! MessageIdData
  request_id 2 ! uint64
  consumer_mark_delete_position 3 ? MessageIdData
CommandGetTopicsOfNamespace
  request_id 1 ! uint64
  namespace 2 ! string
  mode 3 ? int32
  topics_pattern 4 ? string
  topics_hash 5 ? string
  properties 6 * KeyValue
CommandGetTopicsOfNamespaceResponse
  request_id 1 ! uint64
  topics 2 * string
  filtered 3 ? bool
  topics_hash 4 ? string
  changed 5 ? bool = true
CommandGetSchema
  request_id 1 ! uint64
  topic 2 ! string
  schema_version 3 ? bytes
CommandGetSchemaResponse
  request_id 1 ! uint64
  error_code 2 ? int32
  error_message 3 ? string
  schema 4 ? Schema
  schema_version 5 ? bytes
CommandGetOrCreateSchema
  request_id 1 ! uint64
  topic 2 ! string
  schema 3 ! Schema
  producerName 4 ? string
CommandGetOrCreateSchemaResponse
  request_id 1 ! uint64
  error_code 2 ? int32
  error_message 3 ? string
  schema_version 4 ? bytes
BaseCommand
  type 1 ! uint32
  connect 2 ? CommandConnect
  connected 3 ? CommandConnected
  subscribe 4 ? CommandSubscribe
  producer 5 ? CommandProducer
  send 6 ? CommandSend
  send_receipt 7 ? CommandSendReceipt
  send_error 8 ? CommandSendError
  message 9 ? CommandMessage
  ack 10 ? CommandAck
  flow 11 ? CommandFlow
  unsubscribe 12 ? CommandUnsubscribe
  success 13 ? CommandSuccess
  error 14 ? CommandError
  close_producer 15 ? CommandCloseProducer
  close_consumer 16 ? CommandCloseConsumer
  producer_success 17 ? CommandProducerSuccess
  ping 18 ? CommandPing
  pong 19 ? CommandPong
  redeliverUnacknowledgedMessages 20 ? CommandRedeliverUnacknowledgedMessages
  partitionMetadata 21 ? CommandPartitionedTopicMetadata
  partitionMetadataResponse 22 ? CommandPartitionedTopicMetadataResponse
  lookupTopic 23 ? CommandLookupTopic
  lookupTopicResponse 24 ? CommandLookupTopicResponse
  consumerStats 25 ? CommandConsumerStats
  consumerStatsResponse 26 ? CommandConsumerStatsResponse
  reachedEndOfTopic 27 ? CommandReachedEndOfTopic
  seek 28 ? CommandSeek
  getLastMessageId 29 ? CommandGetLastMessageId
  getLastMessageIdResponse 30 ? CommandGetLastMessageIdResponse
  active_consumer_change 31 ? CommandActiveConsumerChange
  getTopicsOfNamespace 32 ? CommandGetTopicsOfNamespace
  getTopicsOfNamespaceResponse 33 ? CommandGetTopicsOfNamespaceResponse
  getSchema 34 ? CommandGetSchema
  getSchemaResponse 35 ? CommandGetSchemaResponse
  authChallenge 36 ? CommandAuthChallenge
  authResponse 37 ? CommandAuthResponse
  ackResponse 38 ? CommandAckResponse
  getOrCreateSchema 39 ? CommandGetOrCreateSchema
  getOrCreateSchemaResponse 40 ? CommandGetOrCreateSchemaResponse
  newTxn 50 ? CommandNewTxn
  tcClientConnectRequest 62 ? CommandTcClientConnectRequest
CommandPing
CommandPong
CommandTcClientConnectRequest
  request_id 1 ! uint64
CommandNewTxn
  request_id 1 ! uint64
"""


class CommandType(IntEnum):
    """BaseCommand.type."""

    CONNECT = 2
    CONNECTED = 3
    SUBSCRIBE = 4
    PRODUCER = 5
    SEND = 6
    SEND_RECEIPT = 7
    SEND_ERROR = 8
    MESSAGE = 9
    ACK = 10
    FLOW = 11
    UNSUBSCRIBE = 12
    SUCCESS = 13
    ERROR = 14
    CLOSE_PRODUCER = 15
    CLOSE_CONSUMER = 16
    PRODUCER_SUCCESS = 17
    PING = 18
    PONG = 19
    REDELIVER_UNACKNOWLEDGED_MESSAGES = 20
    PARTITIONED_METADATA = 21
    PARTITIONED_METADATA_RESPONSE = 22
    LOOKUP = 23
    LOOKUP_RESPONSE = 24
    CONSUMER_STATS = 25
    CONSUMER_STATS_RESPONSE = 26
    REACHED_END_OF_TOPIC = 27
    SEEK = 28
    GET_LAST_MESSAGE_ID = 29
    GET_LAST_MESSAGE_ID_RESPONSE = 30
    ACTIVE_CONSUMER_CHANGE = 31
    GET_TOPICS_OF_NAMESPACE = 32
    GET_TOPICS_OF_NAMESPACE_RESPONSE = 33
    GET_SCHEMA = 34
    GET_SCHEMA_RESPONSE = 35
    AUTH_CHALLENGE = 36
    AUTH_RESPONSE = 37
    ACK_RESPONSE = 38
    GET_OR_CREATE_SCHEMA = 39
    GET_OR_CREATE_SCHEMA_RESPONSE = 40
    NEW_TXN = 50
    TC_CLIENT_CONNECT_REQUEST = 62


class SchemaType(IntEnum):
    """Schema.type, as far as this side looks at it."""

    none = 0
    auto_consume = 21


class AckType(IntEnum):
    """CommandAck.ack_type."""

    individual = 0
    cumulative = 1


class AccessMode(IntEnum):
    """CommandProducer.producer_access_mode."""

    shared = 0
    exclusive = 1
    wait_for_exclusive = 2
    exclusive_with_fencing = 3


LOOKUP_CONNECT = 1
"""CommandLookupTopicResponse.response: this broker serves the topic."""
LOOKUP_FAILED = 2
METADATA_SUCCESS = 0
"""CommandPartitionedTopicMetadataResponse.response."""
METADATA_FAILED = 1

_classes = build_classes("pulsar", _TABLE)

Schema: Any = _classes["Schema"]
MessageIdData: Any = _classes["MessageIdData"]
KeyValue: Any = _classes["KeyValue"]
KeyLongValue: Any = _classes["KeyLongValue"]
IntRange: Any = _classes["IntRange"]
CommandConnect: Any = _classes["CommandConnect"]
FeatureFlags: Any = _classes["FeatureFlags"]
CommandConnected: Any = _classes["CommandConnected"]
CommandAuthResponse: Any = _classes["CommandAuthResponse"]
CommandAuthChallenge: Any = _classes["CommandAuthChallenge"]
AuthData: Any = _classes["AuthData"]
KeySharedMeta: Any = _classes["KeySharedMeta"]
CommandSubscribe: Any = _classes["CommandSubscribe"]
CommandPartitionedTopicMetadata: Any = _classes["CommandPartitionedTopicMetadata"]
CommandPartitionedTopicMetadataResponse: Any = _classes["CommandPartitionedTopicMetadataResponse"]
CommandLookupTopic: Any = _classes["CommandLookupTopic"]
CommandLookupTopicResponse: Any = _classes["CommandLookupTopicResponse"]
CommandProducer: Any = _classes["CommandProducer"]
CommandSend: Any = _classes["CommandSend"]
CommandSendReceipt: Any = _classes["CommandSendReceipt"]
CommandSendError: Any = _classes["CommandSendError"]
CommandMessage: Any = _classes["CommandMessage"]
CommandAck: Any = _classes["CommandAck"]
CommandAckResponse: Any = _classes["CommandAckResponse"]
CommandActiveConsumerChange: Any = _classes["CommandActiveConsumerChange"]
CommandFlow: Any = _classes["CommandFlow"]
CommandUnsubscribe: Any = _classes["CommandUnsubscribe"]
CommandSeek: Any = _classes["CommandSeek"]
CommandReachedEndOfTopic: Any = _classes["CommandReachedEndOfTopic"]
CommandCloseProducer: Any = _classes["CommandCloseProducer"]
CommandCloseConsumer: Any = _classes["CommandCloseConsumer"]
CommandRedeliverUnacknowledgedMessages: Any = _classes["CommandRedeliverUnacknowledgedMessages"]
CommandSuccess: Any = _classes["CommandSuccess"]
CommandProducerSuccess: Any = _classes["CommandProducerSuccess"]
CommandError: Any = _classes["CommandError"]
CommandConsumerStats: Any = _classes["CommandConsumerStats"]
CommandConsumerStatsResponse: Any = _classes["CommandConsumerStatsResponse"]
CommandGetLastMessageId: Any = _classes["CommandGetLastMessageId"]
CommandGetLastMessageIdResponse: Any = _classes["CommandGetLastMessageIdResponse"]
CommandGetTopicsOfNamespace: Any = _classes["CommandGetTopicsOfNamespace"]
CommandGetTopicsOfNamespaceResponse: Any = _classes["CommandGetTopicsOfNamespaceResponse"]
CommandGetSchema: Any = _classes["CommandGetSchema"]
CommandGetSchemaResponse: Any = _classes["CommandGetSchemaResponse"]
CommandGetOrCreateSchema: Any = _classes["CommandGetOrCreateSchema"]
CommandGetOrCreateSchemaResponse: Any = _classes["CommandGetOrCreateSchemaResponse"]
BaseCommand: Any = _classes["BaseCommand"]
CommandPing: Any = _classes["CommandPing"]
CommandPong: Any = _classes["CommandPong"]
CommandTcClientConnectRequest: Any = _classes["CommandTcClientConnectRequest"]
CommandNewTxn: Any = _classes["CommandNewTxn"]

FIELD_OF_TYPE: dict[int, str] = {
    2: "connect",
    3: "connected",
    4: "subscribe",
    5: "producer",
    6: "send",
    7: "send_receipt",
    8: "send_error",
    9: "message",
    10: "ack",
    11: "flow",
    12: "unsubscribe",
    13: "success",
    14: "error",
    15: "close_producer",
    16: "close_consumer",
    17: "producer_success",
    18: "ping",
    19: "pong",
    20: "redeliverUnacknowledgedMessages",
    21: "partitionMetadata",
    22: "partitionMetadataResponse",
    23: "lookupTopic",
    24: "lookupTopicResponse",
    25: "consumerStats",
    26: "consumerStatsResponse",
    27: "reachedEndOfTopic",
    28: "seek",
    29: "getLastMessageId",
    30: "getLastMessageIdResponse",
    31: "active_consumer_change",
    32: "getTopicsOfNamespace",
    33: "getTopicsOfNamespaceResponse",
    34: "getSchema",
    35: "getSchemaResponse",
    36: "authChallenge",
    37: "authResponse",
    38: "ackResponse",
    39: "getOrCreateSchema",
    40: "getOrCreateSchemaResponse",
    50: "newTxn",
    62: "tcClientConnectRequest",
}
"""The field of BaseCommand that holds a command, by its type: the two numbers are the same by design."""
