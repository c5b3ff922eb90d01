"""Compares the edge's log with the cloud's, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.client.api import Client
from gateway.message import EARLIEST
from gateway.wire.entry import parse_metadata, split_entry

READ_ENTRIES = 500


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the two logs hold."""

    entries_edge: int
    entries_cloud: int
    missing: int
    """Entries of the edge that the cloud lacks, or holds with other content."""
    duplicated: int
    """Entries that the cloud holds more than once."""


async def compare(edge: Client, edge_topic: str, cloud: Client, cloud_topic: str) -> Comparison:
    """Read both topics whole.

    The replicator's sequence id is the edge's entry id, so each entry is compared with its own.
    """
    stored = {entry_id: payload for entry_id, _, payload in await _read(edge, edge_topic)}
    arrived = await _read(cloud, cloud_topic)
    seen: dict[int, bytes] = {sequence_id: payload for _, sequence_id, payload in arrived}
    missing = sum(1 for entry_id, payload in stored.items() if seen.get(entry_id) != payload)
    return Comparison(len(stored), len(arrived), missing, len(arrived) - len(seen))


async def _read(client: Client, topic: str) -> list[tuple[int, int, bytes]]:
    """Entry id, sequence id and payload of each entry."""
    entries = []
    reader = await client.create_reader(topic, EARLIEST)
    while await reader.has_entry_available():
        for received in await reader.read_entries(READ_ENTRIES):
            data = received.entry.data
            entries.append((received.entry.position.entry_id, parse_metadata(data).sequence_id, split_entry(data)[1]))
    await reader.close()
    return entries
