"""Reads a remote topic's tail for entries of ours: which ids does it really hold?"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from gateway.client.api import Reader
from gateway.client.remote import RemoteClient
from gateway.errors import BrokerError, ProtocolError, ServerError
from gateway.message import EARLIEST, Entry
from gateway.wire.entry import parse_metadata

TAIL_ENTRIES_MAX = 200_000
"""Entries read at most; a topic that many gateways share may need them."""
TAIL_TIMEOUT_S = 120.0
TIME_MARGIN_MS = 60_000
"""How far the clocks of publishers of one topic may lie apart before an entry is looked for in vain."""
READ_ENTRIES = 500


class TailUnreadable(Exception):
    """There is no right to consume, or the tail is longer than the bounds."""


Tail = dict[str, set[int]]
"""The sequence ids held, by producer name."""


async def read_tail(remote: RemoteClient, topic: str, names: Collection[str], *, since_ms: int | None) -> Tail:
    """What the remote holds under `names`, among what was published since `since_ms`; None: from its beginning.

    Raises: TailUnreadable, ProtocolError, BrokerError.
    """
    try:
        since = None if since_ms is None else max(0, since_ms - TIME_MARGIN_MS)
        reader = await remote.create_reader(topic, EARLIEST, since_ms=since)
    except BrokerError as error:
        if error.code in (ServerError.AuthorizationError, ServerError.AuthenticationError):
            raise TailUnreadable(f"there is no right to read it ({error})") from error
        raise
    try:
        async with asyncio.timeout(TAIL_TIMEOUT_S):
            return await _collect(reader, names)
    except TimeoutError:
        raise TailUnreadable(f"it was not read to its end within {TAIL_TIMEOUT_S:.0f} s") from None
    finally:
        await reader.close()


async def _collect(reader: Reader, names: Collection[str]) -> Tail:
    found: Tail = {name: set() for name in names}
    seen = 0
    while await reader.has_entry_available():
        for received in await reader.read_entries(READ_ENTRIES):
            metadata = parse_metadata(received.entry.data)
            if metadata.producer_name in found:
                found[metadata.producer_name].add(metadata.sequence_id)
            seen += 1
        if seen > TAIL_ENTRIES_MAX:
            raise TailUnreadable(f"more than {TAIL_ENTRIES_MAX} entries would have to be read")
    return found


def earliest_publish_time_ms(entries: Iterable[Entry]) -> int | None:
    """The least publish time of entries; None: there are none."""
    times = []
    for entry in entries:
        try:
            times.append(parse_metadata(entry.data).publish_time)
        except ProtocolError:
            continue
    return min(times, default=None)
