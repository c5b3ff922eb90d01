"""Every bound of the gateway, with its unit and its source; the asserts tie them to each other.

Modules import their bounds from here, so that one page shows what can grow and how far.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MS = 1_000_000
"""Nanoseconds in a millisecond."""
SECOND = 1_000 * MS
"""Nanoseconds in a second."""

# Wire. Source: Pulsar's broker.conf (maxMessageSize) and Commands.java.
ENTRY_SIZE_MAX = 5 * MIB
"""Bytes of an entry. Apache Pulsar's default maxMessageSize, and hard where its bookies' own frame limit was left at
the same size: such a bookie refuses an entry that is exactly as large, and the broker then tries it for ever (seen
with 4.0.8)."""
ENTRY_EXTENSION_MAX = 8 * KIB
"""Bytes kept free in every entry for what replication appends on the way to a broker with the same limit."""
MESSAGE_SIZE_MAX = ENTRY_SIZE_MAX - ENTRY_EXTENSION_MAX
"""Announced in CONNECTED: clients refuse or chunk what is larger."""
FRAME_PADDING_MAX = 10 * KIB
"""Bytes a frame may exceed ENTRY_SIZE_MAX by: sizes and command."""
FRAME_SIZE_MAX = ENTRY_SIZE_MAX + FRAME_PADDING_MAX
PROTOCOL_VERSION = 19
"""The newest that brings anything to an edge broker; 20 and 21 announce topic migration and AutoConsume."""
KEEP_ALIVE_INTERVAL_NS = 30 * SECOND
"""After this silence a PING is sent; after as much again the connection is closed."""
HANDSHAKE_TIMEOUT_NS = 10 * SECOND
"""A connection that has not sent CONNECT by then is closed."""
UNREAD_ANSWERS_SIZE_MAX = 4 * MIB
"""Bytes that a peer may leave unread before it is read and answered no further."""
CONNECTIONS_MAX = 1_000
CONNECTION_WRITE_BUFFER_MAX = 1 * MIB
"""Bytes buffered for one slow peer before its dispatch pauses (guarantee G14)."""
PENDING_RECEIPTS_MAX = 4_096
"""Entries of one connection that wait for the commit before its socket is read no further."""
PENDING_SIZE_MAX = 32 * MIB
"""Raw bytes of all connections together that wait for the commit before sockets are read no further."""
PARTIAL_FRAMES_SIZE_MAX = 64 * MIB
"""Bytes of incomplete frames of all connections together; who goes beyond it is closed."""
HANDLES_PER_CONNECTION_MAX = 10_000
"""Producers plus consumers of one connection."""
ACK_IDS_MAX = 10_000
"""Message ids taken from one ACK command; clients group at most 1,000."""
BATCH_MESSAGES_MAX = 100_000
"""Messages in one client batch that this side is willing to open."""
DECOMPRESSED_SIZE_MAX = 64 * MIB
"""Bytes that opening one client batch may inflate to."""

# Log. Source: docs/ARCHITECTURE.md, "The log".
ALIGN_DEFAULT = 4 * KIB
ALIGN_MIN = 4 * KIB
ALIGN_MAX = 64 * KIB
SEGMENT_SIZE_DEFAULT = 32 * MIB
SEGMENT_SIZE_MIN = 12 * MIB
"""Holds the largest atomic group and the segment's header."""
GROUP_RAW_SIZE_MAX = 1 * MIB
"""Raw bytes at which a group is closed to further units."""
ATOMIC_UNIT_SIZE_MAX = 8 * MIB
"""Raw bytes of one atomic change (a function's commit), which is never split."""
GROUP_RECORDS_MAX = 65_535
FRAME_RAW_SIZE_MAX = 64 * KIB
"""Raw bytes of one compressed frame; a larger entry is a frame of its own."""
REPLAY_SIZE_MAX = 16 * MIB
"""Journal bytes after which a checkpoint of the views is due."""
COMMIT_INTERVAL_MAX_NS = 60 * SECOND
IDLE_COMMIT_INTERVAL_NS = 5 * SECOND
"""How long acks, cursor moves and marks wait for a group that is opened by something else."""
TAIL_CACHE_SIZE_MAX = 4 * MIB
"""Bytes of recent entries kept for consumers that keep up."""
FRAME_CACHE_SIZE_MAX = 8 * MIB
"""Bytes of inflated frames kept for readers of older entries."""
LEDGER_ENTRIES_MAX = 1 << 28
"""Entries of one ledger; some clients pack both ids into 64 bits."""

# Broker.
PRODUCERS_REMEMBERED_MAX = 10_000
"""Producer names whose last sequence id a topic remembers. Source: Pulsar's broker.conf."""
UNACKED_MESSAGES_PER_CONSUMER_MAX = 50_000
"""Source: Pulsar's maxUnackedMessagesPerConsumer."""
ACKED_RANGES_MAX = 10_000
"""Holes that a cursor keeps durable. Source: Pulsar's managedLedgerMaxUnackedRangesToPersist."""
PROPERTIES_MAX = 1_000
NAME_LENGTH_MAX = 255
"""UTF-8 bytes of a tenant, a namespace, a local topic name or a subscription."""
DISPATCH_ENTRIES_MAX = 100
"""Entries read for a subscription in one step, so that no subscription holds the event loop."""

# MQTT. Source: MQTT 3.1.1, section 2.2.3 and 3.1.
MQTT_PACKET_SIZE_MAX = 1 * MIB
"""Bytes of one MQTT packet; the specification's own limit is 256 MiB."""
MQTT_CONNECTIONS_MAX = 1_000
MQTT_IN_FLIGHT_MAX = 4_096
"""PUBLISH packets of one connection that wait for the commit before its socket is read no further."""
MQTT_SESSIONS_MAX = 10_000
"""Client ids remembered as having a session; the one unused for longest is forgotten."""

# Connectors.
CONNECTOR_BATCH_SIZE_MAX = 64 * KIB
"""Bytes at which an entry that a source assembles is closed; one larger message is an entry of its own."""
CONNECTOR_BATCH_MESSAGES_MAX = 1_000
CONNECTOR_IN_FLIGHT_SIZE_MAX = 16 * MIB
"""Bytes of one source that wait for the commit before it reads nothing more."""
CONNECTOR_TOPICS_MAX = 1_000
"""Topics that one source holds open; above it, those that are idle are closed."""
CONNECTOR_ROUTES_MAX = 256
"""Addresses (MQTT topics) of one device whose way into the log is remembered; at the bound all are looked up again."""

# Replication.
REPLICATION_WINDOW = 1_000
"""Entries sent and not yet confirmed."""
BACKOFF_MIN_NS = 100 * MS
BACKOFF_MAX_NS = 60 * SECOND

assert FRAME_SIZE_MAX < ATOMIC_UNIT_SIZE_MAX
assert ATOMIC_UNIT_SIZE_MAX + ALIGN_MAX < SEGMENT_SIZE_MIN
assert FRAME_RAW_SIZE_MAX <= GROUP_RAW_SIZE_MAX <= ATOMIC_UNIT_SIZE_MAX
assert MQTT_PACKET_SIZE_MAX < MESSAGE_SIZE_MAX
assert REPLICATION_WINDOW < PENDING_RECEIPTS_MAX
