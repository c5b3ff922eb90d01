"""Names under which entries are published at a remote. Pure."""

from __future__ import annotations

REPAIR_LANE = "repair"
PATH_PROPERTY = "headwater.path"
"""Property that names the incarnations an entry has passed."""


def producer_name(gateway_id: str, incarnation: str, ledger_id: int, lane: str = "") -> str:
    """Unique for ever: the ledger id instead of the topic's name, because a topic that is made again counts from 0
    again."""
    name = f"headwater/{gateway_id}/{incarnation}/{ledger_id}"
    return f"{name}/{lane}" if lane else name
