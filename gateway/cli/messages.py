"""`headwater produce`, `consume` and `tail`: messages by hand, over Pulsar's protocol."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import click

from gateway.cli.find import Target, target_options
from gateway.cli.output import counted, print_json, print_message
from gateway.cli.status import json_option
from gateway.client.api import Client, ConsumerOptions, Producer, ProducerOptions
from gateway.limits import KIB
from gateway.message import EARLIEST, LATEST, InitialPosition, MessageId, OutgoingMessage, SubscriptionType

SEND_AHEAD = 500
"""Messages sent before the first of them is waited for."""
READ_SIZE = 64 * KIB
"""Bytes of standard input taken at once."""
Result = TypeVar("Result")
_TYPES = {kind.name: kind for kind in SubscriptionType}


@click.command()
@click.argument("topic")
@click.option("-m", "--message", "texts", multiple=True, help="A message's text; may be given several times.")
@click.option("-n", "--count", type=click.IntRange(1), default=1, help="Send everything so many times.")
@click.option("-k", "--key", help="The messages' key.")
@click.option("-p", "--property", "properties", multiple=True, metavar="KEY=VALUE", help="A property; may be repeated.")
@click.option("--name", help="The producer's name; needed where duplicates are to be dropped.")
@target_options(pulsar=True)
@json_option
def produce(
    target: Target,
    topic: str,
    texts: tuple[str, ...],
    count: int,
    key: str | None,
    properties: tuple[str, ...],
    name: str | None,
    as_json: bool,
) -> None:
    """Publish to TOPIC; without -m, each line of standard input is a message. Returns when all are durable."""
    parsed = {}
    for text in properties:
        left, equals, right = text.partition("=")
        if not equals:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="--property")
        parsed[left] = right
    if not texts and count > 1:
        raise click.UsageError("-n repeats the messages given by -m; standard input is read once")

    async def work(client: Client) -> tuple[int, str]:
        producer = await client.create_producer(target.find_topic(topic), ProducerOptions(name=name))
        payloads = _repeated(texts, count) if texts else _lines()
        sent = await _send_all(producer, (OutgoingMessage(payload, key, parsed) async for payload in payloads))
        await producer.close()
        return sent

    sent, last = asyncio.run(_with_client(target, work))
    if as_json:
        print_json({"messages": sent, "last_message_id": last})
    else:
        verb = "is" if sent == 1 else "are"
        click.echo(f"{counted(sent, 'message')} {verb} durable" + (f", the last is {last}" if sent else ""))


async def _repeated(texts: tuple[str, ...], count: int) -> AsyncIterator[bytes]:
    # What the shell handed over as it is, bytes that are not UTF-8 too.
    payloads = [text.encode(errors="surrogateescape") for text in texts]
    for _ in range(count):
        for payload in payloads:
            yield payload


async def _lines() -> AsyncIterator[bytes]:
    """Lines of standard input, without holding up the connection while a slow program writes them."""
    rest = b""
    while data := await _read(sys.stdin.fileno()):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


async def _read(descriptor: int) -> bytes:
    # Not in a thread: Ctrl-C would wait for the thread, and the thread for another line.
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:
        # A regular file, which can always be read.
        await asyncio.sleep(0)
    else:
        try:
            await readable.wait()
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, READ_SIZE)


async def _send_all(producer: Producer, messages: AsyncIterator[OutgoingMessage]) -> tuple[int, str]:
    """Send ahead of the receipts. Returns how many, and the last id."""
    under_way: list[asyncio.Task[MessageId]] = []
    sent, last = 0, ""
    async for message in messages:
        under_way.append(asyncio.ensure_future(producer.send(message)))
        sent += 1
        # Lets the task start, so that messages leave in order.
        await asyncio.sleep(0)
        if len(under_way) >= SEND_AHEAD:
            last = str((await asyncio.gather(*under_way))[-1])
            under_way = []
    if under_way:
        last = str((await asyncio.gather(*under_way))[-1])
    return sent, last


@click.command()
@click.argument("topic")
@click.option("-s", "--subscription", required=True, help="Its name; it is created if missing.")
@click.option("-n", "--count", type=click.IntRange(0), default=1, help="End after so many messages; 0: never.")
@click.option("-t", "--type", "kind", type=click.Choice(sorted(_TYPES)), default="shared", show_default=True)
@click.option(
    "--from", "start", type=click.Choice(["earliest", "latest"]), default="latest", help="Of a new subscription."
)
@click.option("--timeout", "timeout_s", type=float, help="End when nothing came for so many seconds (exit code 1).")
@target_options(pulsar=True)
@json_option
def consume(
    target: Target,
    topic: str,
    subscription: str,
    count: int,
    kind: str,
    start: str,
    timeout_s: float | None,
    as_json: bool,
) -> int:
    """Receive messages of TOPIC, print and acknowledge them."""

    async def work(client: Client) -> int:
        options = ConsumerOptions(subscription_type=_TYPES[kind], initial_position=InitialPosition[start])
        consumer = await client.subscribe(target.find_topic(topic), subscription, options)
        received = 0
        try:
            while not count or received < count:
                try:
                    async with asyncio.timeout(timeout_s):
                        message = await consumer.receive()
                except TimeoutError:
                    click.echo(f"nothing came for {timeout_s:g} s", err=True)
                    return 1
                print_message(message, as_json=as_json)
                # After it was printed: what a closed pipe did not take is delivered again.
                consumer.acknowledge(message.message_id)
                received += 1
        finally:
            await consumer.close()
        return 0

    return asyncio.run(_with_client(target, work))


@click.command()
@click.argument("topic")
@click.option("--from", "start", type=click.Choice(["earliest", "latest"]), default="latest", show_default=True)
@click.option("-n", "--count", type=click.IntRange(0), default=0, help="End after so many messages; 0: never.")
@click.option("--no-follow", is_flag=True, help="End when everything stored was printed.")
@target_options(pulsar=True)
@json_option
def tail(target: Target, topic: str, start: str, count: int, no_follow: bool, as_json: bool) -> None:
    """Print messages of TOPIC as they come, without a subscription: nobody else is affected."""

    async def work(client: Client) -> None:
        reader = await client.create_reader(target.find_topic(topic), EARLIEST if start == "earliest" else LATEST)
        printed = 0
        while not count or printed < count:
            if no_follow and not reader.has_opened_messages and not await reader.has_entry_available():
                break
            print_message(await reader.read(), as_json=as_json)
            printed += 1
        await reader.close()

    asyncio.run(_with_client(target, work))


async def _with_client(target: Target, work: Callable[[Client], Awaitable[Result]]) -> Result:
    client = await target.connect()
    try:
        return await work(client)
    finally:
        await client.close()
