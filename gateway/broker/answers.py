"""What the broker answers, command by command. Pure.

Each request has its own way of being refused: a client that gets another one waits until a time-out. The table of
them stands in `docs/protocol.md`.
"""

from __future__ import annotations

from typing import Any

from gateway.broker.consumer import Consumer
from gateway.broker.producer import Producer
from gateway.errors import BrokerError, GatewayError, ServerError
from gateway.message import Position
from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import UNSIGNED

UNSOLICITED = UNSIGNED
"""The request id of what the broker closes by itself."""
PROXY_URL = "pulsar://localhost:6650"
"""Never connected to: with proxy_through_service_url a client stays on the address that it already uses, which is the
only one that is sure to be reachable for it."""
SUBSCRIPTION_TYPE_NAMES = ("Exclusive", "Shared", "Failover", "Key_Shared")
Answer = tuple[CommandType, Any]


def code_of(error: GatewayError) -> ServerError:
    """The code that makes a client do the right thing."""
    return error.code if isinstance(error, BrokerError) else ServerError.UnknownError


def refusal(kind: int, command: Any, error: GatewayError) -> Answer | None:
    """How `command` is refused. None: it has no answer."""
    code = int(code_of(error))
    # The hint is for whoever reads the client's error, which is often the person who can do something about it.
    message = f"{error}: {error.hint}" if error.hint else str(error)
    if kind == CommandType.LOOKUP:
        return CommandType.LOOKUP_RESPONSE, commands.CommandLookupTopicResponse(
            request_id=command.request_id, response=commands.LOOKUP_FAILED, error=code, message=message
        )
    if kind == CommandType.PARTITIONED_METADATA:
        return CommandType.PARTITIONED_METADATA_RESPONSE, commands.CommandPartitionedTopicMetadataResponse(
            request_id=command.request_id, response=commands.METADATA_FAILED, error=code, message=message
        )
    if kind == CommandType.CONSUMER_STATS:
        return CommandType.CONSUMER_STATS_RESPONSE, commands.CommandConsumerStatsResponse(
            request_id=command.request_id, error_code=code, error_message=message
        )
    if kind in (CommandType.FLOW, CommandType.REDELIVER_UNACKNOWLEDGED_MESSAGES):
        return None
    if kind == CommandType.SUBSCRIBE and code in RETRIED_UNTIL_TIMEOUT:
        # A C++ client that is refused with one of these believes that it is subscribed, and waits for ever.
        code = int(ServerError.NotAllowedError)
    return CommandType.ERROR, commands.CommandError(request_id=command.request_id, error=code, message=message)


RETRIED_UNTIL_TIMEOUT = frozenset(
    {
        ServerError.UnknownError,
        ServerError.MetadataError,
        ServerError.PersistenceError,
        ServerError.ServiceNotReady,
        ServerError.UnsupportedVersionError,
        ServerError.SubscriptionNotFound,
        ServerError.ConsumerNotFound,
        ServerError.InvalidTopicName,
    }
)
"""Codes that clients take for "try again"."""


def unsupported(kind: int, command: Any) -> Answer | None:
    """The answer to a command that is understood and not served."""
    if kind == CommandType.GET_SCHEMA:
        return CommandType.GET_SCHEMA_RESPONSE, commands.CommandGetSchemaResponse(
            request_id=command.request_id, error_code=int(ServerError.TopicNotFound), error_message="no schema"
        )
    if kind == CommandType.GET_OR_CREATE_SCHEMA:
        return CommandType.GET_OR_CREATE_SCHEMA_RESPONSE, commands.CommandGetOrCreateSchemaResponse(
            request_id=command.request_id,
            error_code=int(ServerError.NotAllowedError),
            error_message="schemas are not supported by this version",
        )
    if kind in (CommandType.NEW_TXN, CommandType.TC_CLIENT_CONNECT_REQUEST):
        return CommandType.ERROR, commands.CommandError(
            request_id=command.request_id,
            error=int(ServerError.NotAllowedError),
            message="Transactions are not enabled",
        )
    return None


def success(request_id: int) -> Answer:
    return CommandType.SUCCESS, commands.CommandSuccess(request_id=request_id)


def producer_success(request_id: int, producer: Producer) -> Answer:
    return CommandType.PRODUCER_SUCCESS, commands.CommandProducerSuccess(
        request_id=request_id,
        producer_name=producer.name,
        last_sequence_id=producer.last_sequence_id,
        schema_version=b"",
    )


def close_producer(producer_id: int) -> Answer:
    return CommandType.CLOSE_PRODUCER, commands.CommandCloseProducer(producer_id=producer_id, request_id=UNSOLICITED)


def close_consumer(consumer_id: int) -> Answer:
    return CommandType.CLOSE_CONSUMER, commands.CommandCloseConsumer(consumer_id=consumer_id, request_id=UNSOLICITED)


def send_error(producer_id: int, sequence_id: int, code: ServerError, message: str) -> Answer:
    return CommandType.SEND_ERROR, commands.CommandSendError(
        producer_id=producer_id, sequence_id=sequence_id, error=int(code), message=message
    )


def ack_response(command: Any, error: GatewayError | None) -> Answer:
    response = commands.CommandAckResponse(consumer_id=command.consumer_id, request_id=command.request_id)
    if error is not None:
        response.error = int(code_of(error))
        response.message = str(error)
    return CommandType.ACK_RESPONSE, response


def active_consumer_change(consumer_id: int, active: bool) -> Answer:
    return CommandType.ACTIVE_CONSUMER_CHANGE, commands.CommandActiveConsumerChange(
        consumer_id=consumer_id, is_active=active
    )


def partitions(request_id: int, number: int) -> Answer:
    return CommandType.PARTITIONED_METADATA_RESPONSE, commands.CommandPartitionedTopicMetadataResponse(
        request_id=request_id, response=commands.METADATA_SUCCESS, partitions=number
    )


def lookup(request_id: int) -> Answer:
    return CommandType.LOOKUP_RESPONSE, commands.CommandLookupTopicResponse(
        request_id=request_id,
        response=commands.LOOKUP_CONNECT,
        authoritative=True,
        brokerServiceUrl=PROXY_URL,
        brokerServiceUrlTls=PROXY_URL.replace("pulsar://", "pulsar+ssl://"),
        proxy_through_service_url=True,
    )


def topics(request_id: int, names: list[str]) -> Answer:
    return CommandType.GET_TOPICS_OF_NAMESPACE_RESPONSE, commands.CommandGetTopicsOfNamespaceResponse(
        request_id=request_id, topics=names, filtered=False, changed=True
    )


def last_message_id(request_id: int, last: Position, partition: int, batch_index: int, mark_delete: Position) -> Answer:
    return CommandType.GET_LAST_MESSAGE_ID_RESPONSE, commands.CommandGetLastMessageIdResponse(
        request_id=request_id,
        last_message_id=_message_id(last, partition, batch_index),
        consumer_mark_delete_position=_message_id(mark_delete, partition, -1),
    )


def consumer_stats(request_id: int, consumer: Consumer) -> Answer:
    subscription = consumer.subscription
    return CommandType.CONSUMER_STATS_RESPONSE, commands.CommandConsumerStatsResponse(
        request_id=request_id,
        consumerName=consumer.name,
        availablePermits=max(0, consumer.permits),
        unackedMessages=consumer.unacked_messages,
        type=SUBSCRIPTION_TYPE_NAMES[subscription.subscription_type],
        msgBacklog=subscription.backlog_messages,
    )


def _message_id(position: Position, partition: int, batch_index: int) -> Any:
    return commands.MessageIdData(
        ledgerId=position.ledger_id & UNSIGNED,
        entryId=position.entry_id & UNSIGNED,
        partition=partition,
        batch_index=batch_index,
    )
