"""A cloud in memory that behaves as Apache Pulsar was measured to, with faults that a test orders by name.

Fair faults, all seen with the real thing: it forgets a producer's last id after a long outage (`forget`), loses its
newest entries in a crash (`lose`), refuses one entry while it stores later ones and then calls the refused one a
duplicate (`refuse`), dies between storing and confirming (`die_after`), lets nobody read (`may_consume`), and answers
to no new connection for a while (`stop`, `start`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any, NamedTuple, cast

from gateway.errors import ProtocolError, ServerError
from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import UNSIGNED, Connection, Role, State
from gateway.wire.entry import check_entry, parse_metadata

LEDGER_ID = 7


class Stored(NamedTuple):
    """An entry in the cloud."""

    producer_name: str
    sequence_id: int
    data: bytes

    @property
    def payload(self) -> bytes:
        size = int.from_bytes(self.data[6:10], "big")
        return self.data[10 + size :]


class FakeCloud:
    """A broker of one node."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Stored]] = defaultdict(list)
        self.last_ids: dict[tuple[str, str], int] = {}
        """What it took in under a name, stored or not."""
        self.refuse: set[int] = set()
        """Sequence ids to be refused, once each."""
        self.die_after = -1
        """Entries to store before all connections are cut, the last ones unconfirmed; -1: never."""
        self.hold_receipts = False
        self.may_consume = True
        self.silent_to_readers = False
        """SUBSCRIBE is left unanswered."""
        self.message_size_max = 1 << 20
        self.connections: set[CloudConnection] = set()
        self.connections_made = 0
        self.tokens: list[bytes] = []
        self.producers: set[tuple[str, str]] = set()
        self.received = 0
        """SEND commands."""
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"pulsar://127.0.0.1:{self._port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: CloudConnection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection, as a lost link does."""
        for connection in tuple(self.connections):
            connection.abort()

    def forget(self) -> None:
        """The inactivity time-out has passed."""
        self.last_ids.clear()

    def lose(self, topic: str, entries: int) -> None:
        """A crash took the newest entries, and what was known of them."""
        for stored in self.topics[topic][-entries:]:
            key = (topic, stored.producer_name)
            self.last_ids[key] = min(self.last_ids[key], stored.sequence_id - 1)
        del self.topics[topic][-entries:]

    def payloads(self, topic: str) -> list[bytes]:
        return [stored.payload for stored in self.topics[topic]]

    def names(self, topic: str) -> list[str]:
        """Producer names in the order in which they first appear."""
        return list(dict.fromkeys(stored.producer_name for stored in self.topics[topic]))

    def store(self, topic: str, name: str, sequence_id: int, data: bytes) -> int | None:
        """Take an entry in. Its entry id; -1: a duplicate; None: refused."""
        self.received += 1
        check_entry(data)
        key = (topic, name)
        if sequence_id <= self.last_ids.get(key, -1):
            return -1
        self.last_ids[key] = sequence_id
        if sequence_id in self.refuse:
            self.refuse.discard(sequence_id)
            return None
        metadata = parse_metadata(data)
        assert (metadata.producer_name, metadata.sequence_id, metadata.highest_sequence_id) == (
            name,
            sequence_id,
            sequence_id,
        ), "after an unload the cloud would not recognise this entry"
        self.topics[topic].append(Stored(name, sequence_id, data))
        if self.die_after > 0:
            self.die_after -= 1
            if self.die_after == 0:
                self.die_after = -1
                self.cut()
        for connection in tuple(self.connections):
            connection.deliver()
        return len(self.topics[topic]) - 1


class _Consumer:
    def __init__(self, topic: str, subscription: str, next_entry_id: int) -> None:
        self.topic = topic
        self.subscription = subscription
        self.mark_delete = next_entry_id - 1
        self.next_entry_id = next_entry_id
        self.permits = 0


class CloudConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud
        self._wire = Connection(Role.broker, now_ns=time.monotonic_ns(), message_size_max=cloud.message_size_max)
        self._producers: dict[int, tuple[str, str]] = {}
        self._consumers: dict[int, _Consumer] = {}
        self._moved: dict[str, int] = {}
        """Where a seek left a subscription."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._cloud.connections.add(self)
        self._cloud.connections_made += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._cloud.connections.discard(self)
        self._cloud.producers.difference_update(self._producers.values())

    def abort(self) -> None:
        self._wire.fail("cut")
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, command, entry in self._wire.receive_data(data, time.monotonic_ns()):
                if self._wire.state is not State.closed:
                    self._handle(CommandType(kind), command, entry)
        except ProtocolError:
            self._transport.close()
        self._flush()

    def _flush(self) -> None:
        self._transport.writelines(self._wire.data_to_send())

    def _error(self, command: Any, code: ServerError, message: str) -> None:
        self._wire.send(
            CommandType.ERROR, commands.CommandError(request_id=command.request_id, error=int(code), message=message)
        )

    def _success(self, command: Any) -> None:
        self._wire.send(CommandType.SUCCESS, commands.CommandSuccess(request_id=command.request_id))

    def _handle(self, kind: CommandType, command: Any, entry: bytes | None) -> None:
        cloud = self._cloud
        match kind:
            case CommandType.CONNECT:
                if command.auth_data:
                    cloud.tokens.append(command.auth_data)
                self._wire.connected(server_version="a cloud")
            case CommandType.PARTITIONED_METADATA:
                self._wire.send(
                    CommandType.PARTITIONED_METADATA_RESPONSE,
                    commands.CommandPartitionedTopicMetadataResponse(
                        request_id=command.request_id, response=commands.METADATA_SUCCESS, partitions=0
                    ),
                )
            case CommandType.LOOKUP:
                self._wire.send(
                    CommandType.LOOKUP_RESPONSE,
                    commands.CommandLookupTopicResponse(
                        request_id=command.request_id, response=commands.LOOKUP_CONNECT, brokerServiceUrl=cloud.url
                    ),
                )
            case CommandType.PRODUCER:
                self._producer(command)
            case CommandType.CLOSE_PRODUCER:
                cloud.producers.discard(self._producers.pop(command.producer_id, ("", "")))
                self._success(command)
            case CommandType.SEND:
                assert entry is not None
                self._send(command, entry)
            case CommandType.SUBSCRIBE:
                self._subscribe(command)
            case CommandType.FLOW:
                self._consumers[command.consumer_id].permits += command.messagePermits
                self.deliver()
            case CommandType.SEEK:
                consumer = self._consumers.pop(command.consumer_id)
                times = [parse_metadata(stored.data).publish_time for stored in cloud.topics[consumer.topic]]
                later = [index for index, at in enumerate(times) if at >= command.message_publish_time]
                self._moved[consumer.subscription] = later[0] if later else len(times)
                close = commands.CommandCloseConsumer(consumer_id=command.consumer_id, request_id=UNSIGNED)
                self._wire.send(CommandType.CLOSE_CONSUMER, close)
                self._success(command)
            case CommandType.GET_LAST_MESSAGE_ID:
                self._last_message_id(command)
            case CommandType.CLOSE_CONSUMER:
                self._consumers.pop(command.consumer_id, None)
                self._success(command)
            case _:
                raise AssertionError(f"the replicator sent {kind.name}")

    def _producer(self, command: Any) -> None:
        key = (command.topic, command.producer_name)
        if key in self._cloud.producers:
            self._error(command, ServerError.ProducerBusy, "the name is taken")
            return
        self._cloud.producers.add(key)
        self._producers[command.producer_id] = key
        self._wire.send(
            CommandType.PRODUCER_SUCCESS,
            commands.CommandProducerSuccess(
                request_id=command.request_id,
                producer_name=command.producer_name,
                last_sequence_id=self._cloud.last_ids.get(key, -1),
            ),
        )

    def _send(self, command: Any, entry: bytes) -> None:
        key = self._producers.get(command.producer_id)
        if key is None:
            return
        entry_id = self._cloud.store(*key, command.sequence_id, entry)
        if entry_id is None:
            self._wire.send(
                CommandType.SEND_ERROR,
                commands.CommandSendError(
                    producer_id=command.producer_id,
                    sequence_id=command.sequence_id,
                    error=int(ServerError.PersistenceError),
                    message="a bookie failed",
                ),
            )
        elif not self._cloud.hold_receipts:
            ledger_id = LEDGER_ID if entry_id >= 0 else -1
            self._wire.send_receipt(command.producer_id, command.sequence_id, None, ledger_id, entry_id)

    def _subscribe(self, command: Any) -> None:
        if self._cloud.silent_to_readers:
            return
        if not self._cloud.may_consume:
            self._error(command, ServerError.AuthorizationError, "may not consume")
            return
        moved = self._moved.pop(command.subscription, None)
        end = len(self._cloud.topics[command.topic])
        start = command.start_message_id.entryId
        first = moved if moved is not None else 0 if start == UNSIGNED else min(start, end)
        self._consumers[command.consumer_id] = _Consumer(command.topic, command.subscription, first)
        self._success(command)

    def _last_message_id(self, command: Any) -> None:
        consumer = self._consumers[command.consumer_id]
        last = len(self._cloud.topics[consumer.topic]) - 1
        answer = commands.CommandGetLastMessageIdResponse(request_id=command.request_id)
        answer.last_message_id.ledgerId = LEDGER_ID if last >= 0 else UNSIGNED
        answer.last_message_id.entryId = last & UNSIGNED
        answer.consumer_mark_delete_position.ledgerId = LEDGER_ID
        answer.consumer_mark_delete_position.entryId = consumer.mark_delete & UNSIGNED
        self._wire.send(CommandType.GET_LAST_MESSAGE_ID_RESPONSE, answer)

    def deliver(self) -> None:
        """Deliver what there is and what is asked for."""
        for consumer_id, consumer in self._consumers.items():
            entries = self._cloud.topics[consumer.topic]
            while consumer.permits > 0 and consumer.next_entry_id < len(entries):
                data = entries[consumer.next_entry_id].data
                self._wire.send_message(consumer_id, LEDGER_ID, consumer.next_entry_id, -1, 0, (), None, data)
                consumer.next_entry_id += 1
                consumer.permits -= 1
        self._flush()
