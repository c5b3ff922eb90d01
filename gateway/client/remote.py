"""The door over Pulsar's protocol: a client of any broker that speaks it, this gateway's or a cloud's."""

from __future__ import annotations

import asyncio
import secrets

from gateway.client.api import (
    RECEIVER_QUEUE_SIZE,
    Client,
    Commit,
    ConsumerOptions,
    ProducerOptions,
    TopicInfo,
)
from gateway.client.remote_connection import RemoteConnection, open_connection
from gateway.client.remote_consumer import RemoteConsumer, RemoteInbox, RemoteReader
from gateway.client.remote_producer import RemoteProducer
from gateway.errors import NotAllowed, ProtocolError
from gateway.message import LATEST, Position
from gateway.names import TopicName
from gateway.wire import commands
from gateway.wire.commands import CommandType

LOOKUP_REDIRECTS_MAX = 10


class RemoteClient(Client):
    """A client of the broker at a service URL."""

    def __init__(self, service_url: str, *, token: str | None, trust_certs_file: str | None) -> None:
        self.service_url = service_url
        self._token = token
        self._trust_certs_file = trust_certs_file
        self._connections: dict[tuple[str, str], RemoteConnection] = {}
        """By (URL, the broker behind a proxy)."""
        self._connecting = asyncio.Lock()

    @classmethod
    async def connect(
        cls, service_url: str, *, token: str | None = None, trust_certs_file: str | None = None
    ) -> RemoteClient:
        """Connect to `service_url`. Raises: ProtocolError, BrokerError when refused."""
        client = cls(service_url, token=token, trust_certs_file=trust_certs_file)
        await client.connection(service_url)
        return client

    @property
    def alive(self) -> bool:
        """Whether the connection to the service URL stands."""
        connection = self._connections.get((self.service_url, ""))
        return connection is not None and connection.error is None

    async def connection(self, url: str, *, proxy_to: str = "") -> RemoteConnection:
        """The open connection to a URL, made if need be. Raises: ProtocolError, BrokerError."""
        async with self._connecting:
            connection = self._connections.get((url, proxy_to))
            if connection is None or connection.error is not None:
                connection = await open_connection(
                    url, token=self._token, trust_certs_file=self._trust_certs_file, proxy_to=proxy_to
                )
                self._connections[url, proxy_to] = connection
            return connection

    async def lookup(self, topic: str) -> RemoteConnection:
        """A connection to the broker that serves `topic`. Raises: BrokerError, ProtocolError."""
        connection = await self.connection(self.service_url)
        authoritative = False
        for _ in range(LOOKUP_REDIRECTS_MAX):
            answer = await connection.request(
                CommandType.LOOKUP, commands.CommandLookupTopic(topic=topic, request_id=0, authoritative=authoritative)
            )
            tls = self.service_url.startswith("pulsar+ssl")
            url = (answer.brokerServiceUrlTls if tls else answer.brokerServiceUrl) or self.service_url
            if answer.response == commands.LOOKUP_CONNECT:
                if answer.proxy_through_service_url:
                    return await self.connection(self.service_url, proxy_to=url)
                return await self.connection(url)
            authoritative = answer.authoritative
            connection = await self.connection(url)
        raise ProtocolError(f"the brokers send each other the lookup of {topic} in a circle")

    async def create_producer(self, topic: str, options: ProducerOptions = ProducerOptions()) -> RemoteProducer:
        full_name = str(TopicName.parse(topic))
        await self._check_not_partitioned(full_name)
        producer = RemoteProducer(await self.lookup(full_name), full_name)
        await producer.open(options)
        return producer

    async def subscribe(
        self, topic: str, subscription: str, options: ConsumerOptions = ConsumerOptions()
    ) -> RemoteConsumer:
        full_name = str(TopicName.parse(topic))
        await self._check_not_partitioned(full_name)
        consumer = RemoteConsumer(RemoteInbox(await self.lookup(full_name), full_name, subscription, options))
        await consumer.inbox.join()
        return consumer

    async def create_reader(
        self,
        topic: str,
        start: Position = LATEST,
        *,
        since_ms: int | None = None,
        receiver_queue_size: int = RECEIVER_QUEUE_SIZE,
    ) -> RemoteReader:
        full_name = str(TopicName.parse(topic))
        await self._check_not_partitioned(full_name)
        options = ConsumerOptions(receiver_queue_size=receiver_queue_size)
        # Unique among all programs that read the topic.
        name = f"reader-{secrets.token_hex(5)}"
        inbox = RemoteInbox(await self.lookup(full_name), full_name, name, options, start=start)
        await inbox.join()
        if since_ms is not None:
            await inbox.seek(commands.CommandSeek(consumer_id=0, request_id=0, message_publish_time=since_ms))
        return RemoteReader(inbox, start)

    async def topics(self, namespace: str) -> list[TopicInfo]:
        connection = await self.connection(self.service_url)
        answer = await connection.request(
            CommandType.GET_TOPICS_OF_NAMESPACE,
            commands.CommandGetTopicsOfNamespace(request_id=0, namespace=namespace),
        )
        names = [name for name in answer.topics if name.startswith("persistent://")]
        return [TopicInfo(name, -1, -1) for name in sorted(names)]

    async def partitions(self, topic: str) -> int:
        connection = await self.connection(self.service_url)
        answer = await connection.request(
            CommandType.PARTITIONED_METADATA,
            commands.CommandPartitionedTopicMetadata(topic=str(TopicName.parse(topic)), request_id=0),
        )
        return int(answer.partitions)

    async def commit(self, commit: Commit) -> list[Position]:
        raise NotAllowed("an atomic commit needs the gateway's own process")

    async def load_state(self, owner: str) -> dict[str, bytes]:
        raise NotAllowed("keyed state is kept in the gateway's own process")

    async def close(self) -> None:
        connections, self._connections = list(self._connections.values()), {}
        await asyncio.gather(*(connection.close() for connection in connections))

    async def _check_not_partitioned(self, topic: str) -> None:
        partitions = await self.partitions(topic)
        if partitions and TopicName.parse(topic).partition < 0:
            raise NotAllowed(
                f"{topic} has {partitions} partitions", hint=f"use one of them, such as {topic}-partition-0"
            )
