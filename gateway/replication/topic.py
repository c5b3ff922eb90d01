"""One ledger's way to the remote: reads entries from the edge, extends them, sends them, and counts what is confirmed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from gateway.client.api import Client, Producer, ProducerOptions, Reader, ReceivedEntry
from gateway.client.remote import RemoteClient, RemoteProducer
from gateway.errors import BrokerError, GatewayError, ProtocolError
from gateway.limits import IDLE_COMMIT_INTERVAL_NS, MIB, REPLICATION_WINDOW, SECOND
from gateway.message import Entry, Position
from gateway.names import TopicName
from gateway.replication.link import Backoff, Link
from gateway.replication.names import PATH_PROPERTY, REPAIR_LANE, producer_name
from gateway.replication.progress import Case, Progress
from gateway.replication.settings import ReplicationSettings
from gateway.replication.state import ReplicationState, new_incarnation
from gateway.replication.tail import TailUnreadable, earliest_publish_time_ms, read_tail
from gateway.wire.entry import extend_metadata, parse_metadata

logger = logging.getLogger(__name__)

READ_ENTRIES = 250
"""Entries taken from the edge in one step."""
IN_FLIGHT_BYTES_MAX = 4 * MIB
"""Bytes sent and not confirmed: the window in bytes, for entries that are large."""
ALARMS_MAX = 20
_PATH_MARK = PATH_PROPERTY.encode()


class TopicReplication:
    """Replicates one topic partition until it is cancelled."""

    def __init__(
        self,
        *,
        topic: str,
        ledger_id: int,
        edge: Client,
        link: Link,
        settings: ReplicationSettings,
        state: ReplicationState,
        progress: Progress,
    ) -> None:
        self.topic = topic
        self.ledger_id = ledger_id
        self.remote_topic = settings.remote_topic(TopicName.parse(topic))
        self.progress = progress
        self.last_entry_id = progress.confirmed
        """Of the ledger, as far as it was heard of."""
        self.sent_entries = 0
        self.confirmed_entries = 0
        """Since the process started."""
        self.alarms: list[str] = []
        self.last_error = ""
        self.phase = "waiting for the link"
        self._edge = edge
        self._link = link
        self._settings = settings
        self._state = state
        self._backoff = Backoff()
        self._in_flight_bytes: dict[int, int] = {}
        self._in_flight_total = 0
        self._room = asyncio.Event()
        self._persist_soon = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Replicate for ever; whatever goes wrong at the remote is tried again."""
        while True:
            try:
                self.phase = "waiting for the link"
                remote = await self._link.client()
                await self._replicate(remote)
            except (ProtocolError, BrokerError) as error:
                self.last_error = str(error)
                logger.warning("%s to %s: %s", self.topic, self._settings.name, error)
            self.phase = "pausing after an error"
            await self._backoff.pause()

    # One connection

    async def _replicate(self, remote: RemoteClient) -> None:
        self.phase = "comparing"
        producer = await self._open_producer(remote)
        try:
            if self.progress.suspect is not None:
                await self._repair(remote, producer)
            await self._recorded_connection()
            self._backoff.succeeded()
            self.last_error = ""
            reader = await self._edge.create_reader(
                self.topic, Position(self.ledger_id, self.progress.confirmed + 1), receiver_queue_size=REPLICATION_WINDOW
            )
            try:
                await self._send_all(producer, reader)
            finally:
                await reader.close()
        finally:
            with contextlib.suppress(GatewayError):
                await asyncio.wait_for(asyncio.shield(self._persist()), 1.0)
            with contextlib.suppress(GatewayError, TimeoutError):
                await asyncio.wait_for(producer.close(), 1.0)

    async def _open_producer(self, remote: RemoteClient) -> RemoteProducer:
        """Open the remote topic and settle where to go on, by what the remote says that it has of us."""
        producer = await remote.create_producer(self.remote_topic, ProducerOptions(name=self._producer_name()))
        progress = self.progress
        case = progress.case(producer.last_sequence_id)
        if case is Case.older_copy:
            self._alarm(
                f"the data directory is an older copy: the cloud holds ids up to {producer.last_sequence_id}, this ledger ended at "
                f"{progress.bound}; a new incarnation begins"
            )
            await producer.close()
            progress.begin_incarnation()
            await self._state.put(
                {
                    f"{self.ledger_id}/incarnation": new_incarnation(),
                    f"{self.ledger_id}/base": str(progress.base),
                    f"{self.ledger_id}/confirmed": str(progress.confirmed),
                    f"{self.ledger_id}/bound": None,
                    f"{self.ledger_id}/suspect": None,
                }
            )
            progress.persisted = progress.confirmed
            progress.bound = None
            return await remote.create_producer(self.remote_topic, ProducerOptions(name=self._producer_name()))
        if case is Case.remote_forgot:
            await self._find_in_tail(remote, producer.last_sequence_id)
        return producer

    async def _find_in_tail(self, remote: RemoteClient, remote_last: int) -> None:
        """The remote knows less of us than it confirmed: has it forgotten the name, or lost entries?"""
        progress = self.progress
        try:
            nearby = await self._read_edge(max(0, progress.confirmed - REPLICATION_WINDOW), 2 * REPLICATION_WINDOW)
            found = await read_tail(
                remote, self.remote_topic, {self._producer_name()}, since_ms=earliest_publish_time_ms(nearby)
            )
        except TailUnreadable as error:
            self._alarm(f"possibly doubled from {progress.confirmed + 1} on: the cloud forgot this producer, and {error}")
            return
        highest = max(found, default=-1)
        if highest < 0:
            self._alarm(
                f"possibly doubled from {progress.confirmed + 1} on: the cloud forgot this producer and holds none of its latest entries"
            )
        elif highest >= progress.confirmed:
            progress.resume(highest)
        else:
            self._alarm(f"the cloud lost entries: {progress.confirmed} was confirmed, {highest} is its last; they are sent again")
            progress.confirmed = progress.persisted = progress.sent = highest
            progress.base = min(progress.base, highest)

    async def _recorded_connection(self) -> None:
        """Before anything new is sent: from now on the remote may know more than the ledger had at the start."""
        if self.progress.bound is not None:
            await self._state.put({f"{self.ledger_id}/bound": None})
        self.progress.connected()

    # Sending

    async def _send_all(self, producer: RemoteProducer, reader: Reader) -> None:
        self._failure = asyncio.get_running_loop().create_future()
        self._in_flight_bytes.clear()
        self._in_flight_total = 0
        persisting = asyncio.ensure_future(self._persist_loop())
        pumping = asyncio.ensure_future(self._pump(producer, reader))
        try:
            await asyncio.wait({persisting, pumping, self._failure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (persisting, pumping):
                task.cancel()
            outcomes = await asyncio.gather(persisting, pumping, return_exceptions=True)
            self.progress.sent = self.progress.confirmed
        if self._failure.done():
            self._failure.result()
        self._failure.cancel()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _pump(self, producer: RemoteProducer, reader: Reader) -> None:
        progress = self.progress
        name = producer.name
        incarnation = self._state.incarnation_of(self.ledger_id)
        properties = ((PATH_PROPERTY, incarnation),)
        own_mark = incarnation.encode()
        self.phase = "replicating"
        while True:
            for received in await reader.read_entries(READ_ENTRIES):
                while len(self._in_flight_bytes) >= REPLICATION_WINDOW or self._in_flight_total >= IN_FLIGHT_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
                entry = received.entry
                entry_id = entry.position.entry_id
                self.last_entry_id = max(self.last_entry_id, entry_id)
                data = entry.data
                if _PATH_MARK in data and own_mark in data and _came_from(data, incarnation):
                    await self._skip(entry_id, None)
                    continue
                extended = extend_metadata(data, producer_name=name, sequence_id=entry_id, properties=properties)
                if len(extended) > producer.message_size_max:
                    await self._skip(entry_id, f"{len(extended)} bytes; the cloud takes {producer.message_size_max}")
                    continue
                progress.sending(entry_id)
                self._in_flight_bytes[entry_id] = len(extended)
                self._in_flight_total += len(extended)
                self.sent_entries += 1
                producer.publish(extended, sequence_id=entry_id, messages=entry.messages, on_receipt=self._receipt)

    def _receipt(self, sequence_id: int, position: Position, error: GatewayError | None) -> None:
        """A receipt. -1:-1 says that the remote has the entry already, which confirms it as well."""
        self._in_flight_total -= self._in_flight_bytes.pop(sequence_id, 0)
        self._room.set()
        if error is not None:
            if isinstance(error, BrokerError) and self.progress.suspect is None:
                self.progress.suspect = sequence_id
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)
            return
        if self.progress.suspect is not None:
            return
        self.progress.confirm(sequence_id)
        self.confirmed_entries += 1
        if not self._in_flight_bytes or self.progress.persist_due:
            self._persist_soon.set()

    async def _skip(self, entry_id: int, reason: str | None) -> None:
        """Pass an entry that is not sent, once everything before it is confirmed."""
        while self._in_flight_bytes:
            self._room.clear()
            await self._room.wait()
        if reason is not None:
            self._alarm(f"entry {entry_id} is parked: {reason}")
            self.progress.parked[entry_id] = reason
            await self._state.put({f"{self.ledger_id}/parked/{entry_id}": reason})
        self.progress.skip(entry_id)
        self._persist_soon.set()

    # Keeping the confirmed id

    async def _persist_loop(self) -> None:
        """Write the confirmed id: at once when half a window is confirmed, else seldom, because it costs flash and saves little."""
        while True:
            await self._persist_soon.wait()
            self._persist_soon.clear()
            if not self.progress.persist_due:
                await asyncio.sleep(IDLE_COMMIT_INTERVAL_NS / SECOND)
            await self._persist()

    async def _persist(self) -> None:
        progress = self.progress
        confirmed = progress.confirmed
        if confirmed != progress.persisted or progress.suspect is not None:
            await self._state.put(
                {
                    f"{self.ledger_id}/confirmed": str(confirmed),
                    f"{self.ledger_id}/suspect": None if progress.suspect is None else str(progress.suspect),
                }
            )
            progress.persisted = confirmed

    # After a send error

    async def _repair(self, remote: RemoteClient, producer: RemoteProducer) -> None:
        """Find out what became of the ids from the failed one on, and send what is missing under a name of its own.

        The remote may have stored later ids and then calls the failed one a duplicate, so a receipt would be no proof.
        """
        progress = self.progress
        suspect = progress.suspect
        assert suspect is not None
        self.phase = f"verifying from {suspect} on"
        last = max(producer.last_sequence_id, suspect - 1)
        lane = producer_name(
            self._settings.gateway_id, self._state.incarnation_of(self.ledger_id), self.ledger_id, REPAIR_LANE
        )
        entries = await self._read_edge(suspect, last - suspect + 1)
        try:
            found = await read_tail(
                remote, self.remote_topic, {producer.name, lane}, since_ms=earliest_publish_time_ms(entries)
            )
        except TailUnreadable as error:
            self._alarm(f"possibly lost at the cloud: {suspect} to {last}: {error}")
        else:
            missing = [entry for entry in entries if entry.position.entry_id not in found]
            if missing:
                self._alarm(f"{len(missing)} entries from {suspect} on were missing at the cloud and are sent again")
                await self._send_missing(remote, lane, missing)
        progress.suspect = None
        progress.resume(last)
        await self._state.put(
            {f"{self.ledger_id}/suspect": None, f"{self.ledger_id}/confirmed": str(progress.confirmed)}
        )
        progress.persisted = progress.confirmed

    async def _send_missing(self, remote: RemoteClient, lane: str, missing: list[Entry]) -> None:
        repairer: Producer = await remote.create_producer(self.remote_topic, ProducerOptions(name=lane))
        try:
            for entry in missing:
                entry_id = entry.position.entry_id
                if entry_id <= repairer.last_sequence_id:
                    # The lane's own ids must rise; what fails here twice is told to a person.
                    self._alarm(f"possibly lost at the cloud: {entry_id}")
                    continue
                data = extend_metadata(entry.data, producer_name=lane, sequence_id=entry_id)
                await repairer.send_entry(data, sequence_id=entry_id, messages=entry.messages)
        finally:
            await repairer.close()

    # Small things

    async def _read_edge(self, first_entry_id: int, entries: int) -> list[Entry]:
        """Up to `entries` stored entries from an id on."""
        read: list[Entry] = []
        if entries <= 0:
            return read
        reader = await self._edge.create_reader(self.topic, Position(self.ledger_id, first_entry_id))
        try:
            while len(read) < entries and await reader.has_entry_available():
                taken: list[ReceivedEntry] = list(await reader.read_entries(entries - len(read)))
                read.extend(
                    received.entry for received in taken if received.entry.position.entry_id < first_entry_id + entries
                )
                if taken[-1].entry.position.entry_id >= first_entry_id + entries - 1:
                    break
        finally:
            await reader.close()
        return read

    def _producer_name(self) -> str:
        return producer_name(self._settings.gateway_id, self._state.incarnation_of(self.ledger_id), self.ledger_id)

    def _alarm(self, text: str) -> None:
        logger.error("%s to %s: %s", self.topic, self._settings.name, text)
        self.alarms.append(text)
        del self.alarms[:-ALARMS_MAX]

    @property
    def lag_entries(self) -> int:
        return max(0, self.last_entry_id - self.progress.confirmed)

    def status(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "remote_topic": self.remote_topic,
            "phase": self.phase,
            "confirmed_entry_id": self.progress.confirmed,
            "last_entry_id": self.last_entry_id,
            "lag_entries": self.lag_entries,
            "parked": len(self.progress.parked),
            "alarms": list(self.alarms),
            "last_error": self.last_error,
        }


def _came_from(data: bytes, incarnation: str) -> bool:
    """Whether an entry has already passed this incarnation: sending it on would be a circle."""
    try:
        properties = parse_metadata(data).properties
    except ProtocolError:
        return False
    return any(item.key == PATH_PROPERTY and item.value == incarnation for item in properties)
