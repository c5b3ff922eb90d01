"""Reads a remote topic's tail for entries of ours: which ids does it really hold?"""

from __future__ import annotations

import asyncio

from gateway.client.api import Reader
from gateway.client.remote import RemoteClient
from gateway.errors import BrokerError, ServerError
from gateway.message import Entry
from gateway.wire.entry import parse_metadata

TAIL_ENTRIES_MAX = 200_000
"""Entries read at most; a topic that many gateways share may need them."""
TAIL_TIMEOUT_S = 120.0
TIME_MARGIN_MS = 60_000
"""How far the clocks of publishers of one topic may lie apart before an entry is looked for in vain."""
READ_ENTRIES = 500


class TailUnreadable(Exception):
    """There is no right to consume, or the tail is longer than the bounds."""


async def read_tail(remote: RemoteClient, topic: str, names: set[str], *, since_ms: int) -> set[int]:
    """The sequence ids that the remote holds under `names`, among what was published since `since_ms`.

    Raises: TailUnreadable, ProtocolError, BrokerError.
    """
    try:
        reader = await remote.create_reader(topic, since_ms=max(0, since_ms - TIME_MARGIN_MS))
    except BrokerError as error:
        if error.code in (ServerError.AuthorizationError, ServerError.AuthenticationError):
            raise TailUnreadable(f"no right to read {topic}: {error}") from error
        raise
    try:
        return await asyncio.wait_for(_collect(reader, names), TAIL_TIMEOUT_S)
    except TimeoutError:
        raise TailUnreadable(f"{topic} was not read to its end within {TAIL_TIMEOUT_S:.0f} s") from None
    finally:
        await reader.close()


async def _collect(reader: Reader, names: set[str]) -> set[int]:
    found: set[int] = set()
    seen = 0
    while await reader.has_entry_available():
        for received in await reader.read_entries(READ_ENTRIES):
            metadata = parse_metadata(received.entry.data)
            if metadata.producer_name in names:
                found.add(metadata.sequence_id)
            seen += 1
        if seen > TAIL_ENTRIES_MAX:
            raise TailUnreadable(f"{reader.topic} has more than {TAIL_ENTRIES_MAX} entries in the time in question")
    return found


def earliest_publish_time_ms(entries: list[Entry]) -> int:
    """The least publish time of entries; 0: there are none."""
    return min((parse_metadata(entry.data).publish_time for entry in entries), default=0)
