"""The client over Pulsar's protocol against a broker that misbehaves, redirects, or is not there."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.client import remote_connection
from gateway.client.api import ConsumerOptions, ProducerOptions
from gateway.client.messages import encode_entry
from gateway.client.remote import RemoteClient
from gateway.errors import (
    AuthenticationFailed,
    BrokerError,
    GatewayError,
    NotAllowed,
    ProducerBusy,
    ProtocolError,
    ServerError,
    TopicNotFound,
)
from gateway.message import EARLIEST, MessageId, OutgoingMessage, Position, SubscriptionType
from gateway.wire import commands
from gateway.wire.commands import CommandType
from gateway.wire.connection import UNSIGNED
from tests.client.broker import Peer, ScriptedBroker

TOPIC = "persistent://plant/hall7/temperature"
LOOKUP_REDIRECT = 0
"""PulsarApi.proto, CommandLookupTopicResponse.LookupType."""
WAIT_S = 10
ENTRY = encode_entry(OutgoingMessage(b"x"), producer_name="p", sequence_id=0, publish_time_ms=1)


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    opened = ScriptedBroker()
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def client(broker: ScriptedBroker) -> AsyncIterator[RemoteClient]:
    opened = await RemoteClient.connect(broker.url)
    yield opened
    await opened.close()


def silent(peer: Peer, command: Any, entry: bytes | None) -> None:
    """Say nothing."""


class Recorded:
    """A stream that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.called = asyncio.Event()

    def confirmed(self, sequence_id: int, entries: int) -> None:
        self._call(sequence_id, entries)

    def refused(self, sequence_id: int, error: BrokerError) -> None:
        self._call(sequence_id, error.code)

    def closed(self, error: GatewayError) -> None:
        self._call(error)

    def _call(self, *what: Any) -> None:
        self.calls.append(what)
        self.called.set()


def refusing(code: ServerError) -> Any:
    def handler(peer: Peer, command: Any, entry: bytes | None) -> None:
        error = commands.CommandError(request_id=command.request_id, error=int(code), message="no")
        peer.send(CommandType.ERROR, error)

    return handler


# Connecting


@pytest.mark.parametrize("url", ["http://127.0.0.1:6650", "pulsar://", "pulsar://host:port", "127.0.0.1:6650", ""])
async def test_client_refuses_what_is_no_service_url(url: str) -> None:
    """With a hint that shows one."""
    with pytest.raises(ProtocolError, match="not a service URL") as caught:
        await RemoteClient.connect(url)
    assert "pulsar://" in caught.value.hint


async def test_client_says_that_nobody_listens() -> None:
    """In words, with the URL."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"pulsar://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ProtocolError, match="can't be reached"):
            await RemoteClient.connect(url)


async def test_client_gives_up_on_a_silent_peer(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something accepts connections and never speaks."""
    monkeypatch.setattr(remote_connection, "CONNECT_TIMEOUT_S", 0.05)
    broker.handlers[CommandType.CONNECT] = silent
    with pytest.raises(ProtocolError, match="does not speak Pulsar's protocol"):
        await RemoteClient.connect(broker.url)


async def test_client_is_refused_by_the_broker(broker: ScriptedBroker) -> None:
    """A wrong token is named as such."""

    def refuse(peer: Peer, command: Any, entry: bytes | None) -> None:
        error = commands.CommandError(
            request_id=UNSIGNED, error=int(ServerError.AuthenticationError), message="the token is wrong"
        )
        peer.send(CommandType.ERROR, error)
        peer.transport.close()

    broker.handlers[CommandType.CONNECT] = refuse
    with pytest.raises(AuthenticationFailed, match="the token is wrong"):
        await RemoteClient.connect(broker.url, token="wrong")


async def test_client_presents_its_token(broker: ScriptedBroker) -> None:
    """With the method that Pulsar knows; none without a token."""
    await (await RemoteClient.connect(broker.url, token="secret")).close()
    await (await RemoteClient.connect(broker.url)).close()
    with_token, without = broker.of(CommandType.CONNECT)
    assert (with_token.auth_method_name, with_token.auth_data) == ("token", b"secret")
    assert without.auth_method_name == "none"


@pytest.mark.parametrize(
    ("host", "trusted", "accepted"),
    [("127.0.0.1", True, True), ("elsewhere.example", True, False), ("127.0.0.1", False, False)],
)
async def test_client_checks_certificate_and_host_name(
    tmp_path: Path, host: str, trusted: bool, accepted: bool
) -> None:
    """A certificate that is not trusted, or belongs to another host, ends the connection before anything was said."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(tls)
    certificates = tmp_path / "ca.pem"
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(certificates)
    broker = ScriptedBroker()
    await broker.start(tls)
    url = f"pulsar+ssl://127.0.0.1:{broker.port}"
    if accepted:
        client = await RemoteClient.connect(url, token="secret", trust_certs_file=str(certificates))
        await (await client.create_producer(TOPIC)).close()
        await client.close()
    else:
        with pytest.raises(ProtocolError, match="certificate"):
            await RemoteClient.connect(url, token="secret", trust_certs_file=str(certificates))
        assert not broker.received
    await broker.stop()


# Lookup


async def test_client_goes_to_the_broker_that_serves_the_topic(broker: ScriptedBroker, client: RemoteClient) -> None:
    """A second connection where the lookup names another one; one connection for all its topics."""
    serving = ScriptedBroker()
    await serving.start()
    broker.lookup_url = serving.url
    for name in ("a", "b"):
        await client.create_producer(f"plant/hall7/{name}")
    assert [command.topic for command in serving.of(CommandType.PRODUCER)] == [
        "persistent://plant/hall7/a",
        "persistent://plant/hall7/b",
    ]
    assert not broker.of(CommandType.PRODUCER)
    assert len(serving.peers) == 1
    await serving.stop()


async def test_client_follows_redirected_lookups(broker: ScriptedBroker, client: RemoteClient) -> None:
    """And asks there with the authority that it was given."""
    owner = ScriptedBroker()
    await owner.start()

    def redirect(peer: Peer, command: Any, entry: bytes | None) -> None:
        answer = commands.CommandLookupTopicResponse(
            request_id=command.request_id, response=LOOKUP_REDIRECT, brokerServiceUrl=owner.url
        )
        answer.authoritative = True
        peer.send(CommandType.LOOKUP_RESPONSE, answer)

    broker.handlers[CommandType.LOOKUP] = redirect
    await client.create_producer(TOPIC)
    (lookup,) = owner.of(CommandType.LOOKUP)
    assert lookup.authoritative
    owner.handlers[CommandType.LOOKUP] = redirect
    with pytest.raises(ProtocolError, match="circle"):
        await client.create_producer("plant/hall7/other")
    await owner.stop()


async def test_client_stays_on_the_proxy(broker: ScriptedBroker, client: RemoteClient) -> None:
    """Through it, a connection of its own names the broker behind; that URL need not even resolve."""

    def through_proxy(peer: Peer, command: Any, entry: bytes | None) -> None:
        answer = commands.CommandLookupTopicResponse(
            request_id=command.request_id,
            response=commands.LOOKUP_CONNECT,
            brokerServiceUrl="pulsar://no-such-host.invalid:6650",
            proxy_through_service_url=True,
        )
        peer.send(CommandType.LOOKUP_RESPONSE, answer)

    broker.handlers[CommandType.LOOKUP] = through_proxy
    await client.create_producer(TOPIC)
    assert [command.proxy_to_broker_url for command in broker.of(CommandType.CONNECT)] == [
        "",
        "pulsar://no-such-host.invalid:6650",
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ServerError.TopicNotFound, TopicNotFound),
        (ServerError.ProducerBusy, ProducerBusy),
        (ServerError.NotAllowedError, NotAllowed),
        (ServerError.ServiceNotReady, BrokerError),
    ],
)
async def test_client_raises_refusals_as_their_class(
    broker: ScriptedBroker, client: RemoteClient, code: ServerError, expected: type[BrokerError]
) -> None:
    """Callers need not look at codes, but can."""
    broker.handlers[CommandType.PRODUCER] = refusing(code)
    with pytest.raises(expected) as caught:
        await client.create_producer(TOPIC)
    assert caught.value.code is code


async def test_client_gives_up_a_request_and_the_name_with_it(
    broker: ScriptedBroker, client: RemoteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that was asked for in vain is closed, in case the broker made it after all."""
    monkeypatch.setattr(remote_connection, "REQUEST_TIMEOUT_S", 0.05)
    broker.handlers[CommandType.PRODUCER] = silent
    with pytest.raises(ProtocolError, match="did not answer PRODUCER"):
        await client.create_producer(TOPIC)
    await client.partitions(TOPIC)
    (asked,), (closed,) = broker.of(CommandType.PRODUCER), broker.of(CommandType.CLOSE_PRODUCER)
    assert asked.producer_id == closed.producer_id


# Producing


async def test_producer_fails_what_is_under_way_when_the_connection_is_lost(
    broker: ScriptedBroker, client: RemoteClient
) -> None:
    """Nobody knows what was stored: ProtocolError, for each; what is sent afterwards fails as well."""
    broker.handlers[CommandType.SEND] = silent
    producer = await client.create_producer(TOPIC)
    producer.stream = stream = Recorded()
    producer.stream_entry(ENTRY, 90, 1)
    futures = [producer.send_entry(ENTRY, sequence_id=100 + number) for number in range(3)]
    await client.partitions(TOPIC)
    broker.peers[0].transport.abort()
    for future in futures:
        with pytest.raises(ProtocolError, match="lost"):
            await asyncio.wait_for(future, WAIT_S)
    assert [type(call[0]) for call in stream.calls] == [ProtocolError]
    with pytest.raises(ProtocolError):
        await producer.send_entry(ENTRY, sequence_id=3)
    await producer.close()


async def test_producer_is_told_that_the_broker_closed_it(broker: ScriptedBroker, client: RemoteClient) -> None:
    """Also while nothing is under way. The connection goes on."""
    producer = await client.create_producer(TOPIC)
    producer.stream = stream = Recorded()
    command = commands.CommandCloseProducer(producer_id=1, request_id=UNSIGNED)
    broker.peers[0].send(CommandType.CLOSE_PRODUCER, command)
    await asyncio.wait_for(stream.called.wait(), WAIT_S)
    assert "broker closed the producer" in str(stream.calls[0][0])
    await client.create_producer(TOPIC)


async def test_producer_ends_the_connection_at_a_receipt_that_it_does_not_await(
    broker: ScriptedBroker, client: RemoteClient
) -> None:
    """One too high means that a receipt was skipped: an entry would count as stored that is not."""

    def skip(peer: Peer, command: Any, entry: bytes | None) -> None:
        peer.wire.send_receipt(command.producer_id, command.sequence_id + 1, None, 1, 1)

    broker.handlers[CommandType.SEND] = skip
    producer = await client.create_producer(TOPIC)
    with pytest.raises(ProtocolError, match="was awaited"):
        await asyncio.wait_for(producer.send_entry(ENTRY, sequence_id=0), WAIT_S)


async def test_producer_ignores_a_receipt_that_it_had(broker: ScriptedBroker, client: RemoteClient) -> None:
    """One too low is an old one."""

    def twice(peer: Peer, command: Any, entry: bytes | None) -> None:
        for _ in range(2):
            peer.wire.send_receipt(command.producer_id, command.sequence_id, None, 1, command.sequence_id)

    broker.handlers[CommandType.SEND] = twice
    producer = await client.create_producer(TOPIC)
    positions = [await producer.send_entry(ENTRY, sequence_id=number) for number in range(3)]
    assert positions == [Position(1, 0), Position(1, 1), Position(1, 2)]


async def test_producer_fails_the_entry_that_was_refused(broker: ScriptedBroker, client: RemoteClient) -> None:
    """That one alone, with the broker's code."""

    def refuse_second(peer: Peer, command: Any, entry: bytes | None) -> None:
        if command.sequence_id == 1:
            error = commands.CommandSendError(
                producer_id=command.producer_id, sequence_id=1, error=int(ServerError.ChecksumError), message="bad"
            )
            peer.wire.send(CommandType.SEND_ERROR, error)
        else:
            peer.wire.send_receipt(command.producer_id, command.sequence_id, None, 1, command.sequence_id)

    broker.handlers[CommandType.SEND] = refuse_second
    producer = await client.create_producer(TOPIC)
    futures = [producer.send_entry(ENTRY, sequence_id=number) for number in range(3)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert results[0] == Position(1, 0)
    assert results[2] == Position(1, 2)
    assert isinstance(results[1], BrokerError)
    assert results[1].code is ServerError.ChecksumError


async def test_producer_tells_its_stream_of_many_receipts_at_once(broker: ScriptedBroker, client: RemoteClient) -> None:
    """Each entry is counted once, whoever else sends over the same producer and connection; a refusal is told at
    once."""
    held: list[Any] = []

    def hold(peer: Peer, command: Any, entry: bytes | None) -> None:
        held.append(command)

    broker.handlers[CommandType.SEND] = hold
    producer = await client.create_producer(TOPIC)
    other = await client.create_producer("plant/hall7/other")
    producer.stream = stream = Recorded()
    for number in (0, 1, 2):
        producer.stream_entry(ENTRY, number, 1)
    single = producer.send_entry(ENTRY, sequence_id=3)
    others = other.send_entry(ENTRY, sequence_id=0)
    for number in (4, 5, 6):
        producer.stream_entry(ENTRY, number, 1)
    await client.partitions(TOPIC)
    peer = broker.peers[0]
    for command in held[:-1]:
        peer.wire.send_receipt(command.producer_id, command.sequence_id, None, 1, command.sequence_id)
    error = commands.CommandSendError(
        producer_id=1, sequence_id=6, error=int(ServerError.PersistenceError), message="no"
    )
    peer.wire.send(CommandType.SEND_ERROR, error)
    peer.flush()
    assert await asyncio.wait_for(single, WAIT_S) == Position(1, 3)
    assert await asyncio.wait_for(others, WAIT_S) == Position(1, 0)
    await client.partitions(TOPIC)
    counted = [call for call in stream.calls if isinstance(call[1], int) and not isinstance(call[1], ServerError)]
    assert sum(entries for _, entries in counted) == 5
    assert counted[-1][0] == 5
    assert stream.calls[-1] == (6, ServerError.PersistenceError)
    await producer.flush()


async def test_producer_refuses_what_is_larger_than_the_broker_takes(
    broker: ScriptedBroker, client: RemoteClient
) -> None:
    """Before it is sent: the broker would close the connection."""
    producer = await client.create_producer(TOPIC)
    large = encode_entry(
        OutgoingMessage(bytes(producer.entry_size_max)), producer_name="p", sequence_id=0, publish_time_ms=1
    )
    with pytest.raises(ProtocolError, match="the broker takes"):
        await producer.send_entry(large, sequence_id=0)
    assert (await producer.send_entry(ENTRY, sequence_id=1)).entry_id == 1


async def test_abandoned_producer_does_not_wait_for_receipts(broker: ScriptedBroker, client: RemoteClient) -> None:
    """Its entries fail at once and the name is given back."""
    broker.handlers[CommandType.SEND] = silent
    producer = await client.create_producer(TOPIC, ProducerOptions(name="p"))
    future = producer.send_entry(ENTRY, sequence_id=0)
    await asyncio.wait_for(producer.abandon(), WAIT_S)
    with pytest.raises(ProtocolError, match="closed"):
        await future
    assert len(broker.of(CommandType.CLOSE_PRODUCER)) == 1


# Consuming


def deliver(peer: Peer, command: Any, entry: bytes | None) -> None:
    """Answer FLOW with as many entries as were asked for."""
    for number in range(command.messagePermits):
        peer.wire.send_message(command.consumer_id, 3, number, -1, 0, (), None, ENTRY)


async def test_consumer_never_holds_more_than_it_asked_for(broker: ScriptedBroker, client: RemoteClient) -> None:
    """Permits go out for the queue, then for what was taken, when that is half of it."""
    broker.handlers[CommandType.FLOW] = deliver
    consumer = await client.subscribe(TOPIC, "s", ConsumerOptions(receiver_queue_size=10))
    for _ in range(25):
        await consumer.receive()
    await client.partitions(TOPIC)
    assert [command.messagePermits for command in broker.of(CommandType.FLOW)] == [10, 5, 5, 5, 5, 5]


async def test_consumer_ends_when_the_connection_is_lost(broker: ScriptedBroker, client: RemoteClient) -> None:
    """What waits is told; so is what asks later."""
    consumer = await client.subscribe(TOPIC, "s")
    waiting = asyncio.ensure_future(consumer.receive())
    await client.partitions(TOPIC)
    broker.peers[0].transport.abort()
    for receiving in (waiting, consumer.receive()):
        with pytest.raises(ProtocolError, match="lost"):
            await asyncio.wait_for(receiving, WAIT_S)


async def test_consumer_takes_no_damaged_entry(broker: ScriptedBroker, client: RemoteClient) -> None:
    """The connection ends; the entry stays unacknowledged and comes again over the next one."""

    def damaged(peer: Peer, command: Any, entry: bytes | None) -> None:
        peer.wire.send_message(command.consumer_id, 3, 0, -1, 0, (), None, ENTRY[:-1] + b"y")

    broker.handlers[CommandType.FLOW] = damaged
    consumer = await client.subscribe(TOPIC, "s")
    with pytest.raises(ProtocolError, match="checksum"):
        await asyncio.wait_for(consumer.receive(), WAIT_S)


async def test_consumer_names_the_whole_batch_with_the_last_acknowledgement(
    broker: ScriptedBroker, client: RemoteClient
) -> None:
    """Before that, what is left of it: a broker that keeps no acknowledgements within batches waits for the whole."""
    consumer = await client.subscribe(TOPIC, "s", ConsumerOptions(SubscriptionType.shared))

    for index in (0, 2, 1):
        consumer.acknowledge(MessageId(3, 7, -1, index, 3))
    await client.partitions(TOPIC)
    sets = [list(command.message_id[0].ack_set) for command in broker.of(CommandType.ACK)]
    assert sets == [[0b110], [0b010], []]


async def test_reader_names_differ(broker: ScriptedBroker, client: RemoteClient) -> None:
    """Readers of several programs must not meet in one subscription."""
    for _ in range(3):
        await client.create_reader(TOPIC, EARLIEST)
    subscriptions = broker.of(CommandType.SUBSCRIBE)
    assert len({command.subscription for command in subscriptions}) == 3
    assert not any(command.durable for command in subscriptions)


# Closing


async def test_client_closes_although_the_peer_takes_nothing(
    broker: ScriptedBroker, client: RemoteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is dropped after a while."""
    monkeypatch.setattr(remote_connection, "CLOSE_TIMEOUT_S", 0.05)
    producer = await client.create_producer(TOPIC)
    broker.peers[0].transport.pause_reading()
    large = encode_entry(OutgoingMessage(bytes(1 << 20)), producer_name="p", sequence_id=0, publish_time_ms=1)
    futures = [producer.send_entry(large, sequence_id=number) for number in range(32)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not producer.writable
    await asyncio.wait_for(client.close(), WAIT_S)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, ProtocolError) for result in results)
