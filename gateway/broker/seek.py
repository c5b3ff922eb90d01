"""Finds the entry to begin with for a time that somebody asks for."""

from __future__ import annotations

from gateway.broker.topic import Topic
from gateway.errors import ProtocolError
from gateway.limits import DISPATCH_ENTRIES_MAX, MIB
from gateway.wire.entry import parse_metadata


async def first_entry_published_since(topic: Topic, publish_time_ms: int) -> int:
    """The first entry whose publish time is at least `publish_time_ms`; the end of the topic if there is none.

    Publish times are what the publishers' clocks say, so they need not rise: entries are read one after the other. A
    topic of a million entries takes seconds; the loop is yielded at every step.
    """
    entry_id = 0
    while entry_id < topic.durable_end:
        result = await topic.reader.read(topic.ledger_id, entry_id, entries_max=DISPATCH_ENTRIES_MAX, size_max=MIB)
        for entry in result.entries:
            try:
                if parse_metadata(entry.data).publish_time >= publish_time_ms:
                    return entry.entry_id
            except ProtocolError:
                # Stored before its metadata was checked at the door; it has no time to be found by.
                continue
        if result.next_entry_id == entry_id:
            break
        entry_id = result.next_entry_id
    return topic.durable_end
