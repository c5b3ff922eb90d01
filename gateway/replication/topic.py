"""One ledger's way to the remote: compare both sides, settle what they disagree about, send, and again after every
failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from gateway.client.api import Client, ProducerOptions
from gateway.client.remote import RemoteClient
from gateway.client.remote_producer import RemoteProducer
from gateway.errors import GatewayError
from gateway.limits import BACKOFF_MAX_NS, REPLICATION_WINDOW, SECOND
from gateway.message import Entry, Position
from gateway.names import TopicName
from gateway.replication.extension import Extension, Unsendable
from gateway.replication.link import Backoff, Link
from gateway.replication.names import REPAIR_LANE, producer_name
from gateway.replication.progress import Case, Finding, Progress, case_of, finding_of
from gateway.replication.sender import Sender
from gateway.replication.settings import ReplicationSettings
from gateway.replication.state import CONNECTED, ReplicationState, new_incarnation
from gateway.replication.tail import Tail, TailUnreadable, earliest_publish_time_ms, read_tail

logger = logging.getLogger(__name__)

ALARMS_MAX = 20
END_TIMEOUT_S = 2.0
"""How long a round that failed may take to let go of its name and to write its progress."""
SETTLE_READINGS = 5
SETTLE_PAUSE_S = 1.0
"""A refused send may leave others still being stored: the tail is read until two readings agree on what is missing."""


class OlderCopy(Exception):
    """This data directory was put back to an older copy; `remote_last` is the highest of our ids that the remote
    knows."""

    def __init__(self, remote_last: int) -> None:
        super().__init__(remote_last)
        self.remote_last = remote_last


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
        self.alarms: list[str] = []
        self.last_error = ""
        self.phase = "waiting for the link"
        self._last_entry_id = progress.confirmed
        self._sent_before = 0
        self._confirmed_before = 0
        """Entries of earlier rounds."""
        self._sender: Sender | None = None
        self._edge = edge
        self._link = link
        self._settings = settings
        self._state = state
        self._backoff = Backoff()

    async def run(self) -> None:
        """Replicate for ever; whatever goes wrong is tried again."""
        while True:
            try:
                self.phase = "waiting for the link"
                await self._round(await self._link.client())
            except GatewayError as error:
                self.last_error = str(error)
                logger.warning("%s to %s: %s", self.topic, self._settings.name, error)
            self.phase = "pausing after an error"
            await self._backoff.pause()

    async def _round(self, remote: RemoteClient) -> None:
        self.phase = "comparing"
        producer = await self._open(remote)
        try:
            if not await self._compare(remote, producer):
                return
            # Before anything new is sent: from now on the remote may know more than the ledger had at the start.
            self.progress.connected()
            await self._state.save(self.ledger_id, self.progress, bound=CONNECTED)
            self.last_error = ""
            await self._send(producer)
        finally:
            await self._end(remote, producer)

    async def _open(self, remote: RemoteClient) -> RemoteProducer:
        return await remote.create_producer(self.remote_topic, ProducerOptions(name=self._name()))

    async def _end(self, remote: RemoteClient, producer: RemoteProducer) -> None:
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await producer.abandon()
        except (GatewayError, TimeoutError):
            # The remote may still hold the name for this connection, so a new one is needed.
            await remote.close()
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._state.save(self.ledger_id, self.progress)

    async def _send(self, producer: RemoteProducer) -> None:
        self.phase = "replicating"
        sender = self._sender = Sender(
            producer,
            self.progress,
            self._extension(producer.name, producer.entry_size_max),
            persist=lambda: self._state.save(self.ledger_id, self.progress),
            park=self._park,
        )
        start = Position(self.ledger_id, self.progress.confirmed + 1)
        reader = await self._edge.create_reader(self.topic, start, receiver_queue_size=REPLICATION_WINDOW)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await sender.run(reader)
        finally:
            self._sent_before += sender.sent_entries
            self._confirmed_before += sender.confirmed_entries
            if sender.confirmed_entries or loop.time() - began_s > BACKOFF_MAX_NS / SECOND:
                self._backoff.succeeded()
            self._last_entry_id = self.last_entry_id
            self._sender = None
            await reader.close()

    # When the two sides disagree

    async def _compare(self, remote: RemoteClient, producer: RemoteProducer) -> bool:
        """Settle what stands between the two sides. Returns whether `producer` may go on."""
        try:
            await self._settle(remote, producer)
        except OlderCopy as older:
            await self._begin_incarnation(older.remote_last)
            return False
        return True

    async def _settle(self, remote: RemoteClient, producer: RemoteProducer) -> None:
        progress = self.progress
        remote_last = producer.last_sequence_id
        case = case_of(progress, remote_last)
        if case is Case.older_copy:
            raise OlderCopy(remote_last)
        if case is Case.resume:
            return
        self.phase = "reading the cloud's tail"
        lane = self._name(REPAIR_LANE)
        try:
            tail = await self._read_tail(remote, {producer.name, lane})
        except TailUnreadable as error:
            await self._settle_unread(case, remote_last, str(error))
            return
        highest = max(tail[producer.name], default=-1)
        finding = finding_of(progress, highest)
        if finding is Finding.older_copy:
            raise OlderCopy(highest)
        if finding is Finding.nothing and case is Case.remote_forgot:
            self._alarm(
                f"possibly doubled from {progress.confirmed + 1} on: the cloud forgot this producer, and holds nothing "
                "of it"
            )
        elif finding is Finding.lost:
            self._alarm(
                f"the cloud lost entries: {progress.confirmed} was confirmed, {highest} is its last; they are "
                "sent again from there"
            )
            progress.fall_back(highest)
        # What lies up to here the remote holds or calls a duplicate: none of it can be sent under the same name again.
        last = max(remote_last, highest)
        if last > progress.confirmed:
            await self._repair(remote, producer, lane, tail, last)
            progress.resume(last)
        progress.suspect = None
        await self._state.save(self.ledger_id, progress)

    async def _settle_unread(self, case: Case, remote_last: int, reason: str) -> None:
        progress = self.progress
        if case is Case.refused:
            if remote_last > progress.confirmed:
                self._alarm(
                    f"possibly lost at the cloud: {progress.confirmed + 1} to {remote_last}: a send was refused, "
                    f"and {reason}"
                )
                progress.resume(remote_last)
        else:
            self._alarm(
                f"possibly doubled from {progress.confirmed + 1} on: the cloud forgot this producer, and {reason}"
            )
        progress.suspect = None
        await self._state.save(self.ledger_id, progress)

    async def _begin_incarnation(self, remote_last: int) -> None:
        progress = self.progress
        self._alarm(
            f"the data directory is an older copy: the cloud holds ids up to {remote_last}, this ledger ended at "
            f"{progress.bound}; a new incarnation begins"
        )
        progress.begin_incarnation()
        await self._state.save(
            self.ledger_id, progress, incarnation=new_incarnation(), base=str(progress.base), bound=CONNECTED
        )
        progress.connected()

    async def _read_tail(self, remote: RemoteClient, names: set[str]) -> Tail:
        """Read the tail from shortly before the last confirmed entry on; from the beginning, if that is not in it."""
        progress = self.progress
        nearby = await self._read_edge(
            max(0, progress.confirmed - REPLICATION_WINDOW), progress.confirmed + REPLICATION_WINDOW
        )
        since_ms = earliest_publish_time_ms(nearby)
        if since_ms is not None and progress.acknowledged > progress.base:
            tail = await read_tail(remote, self.remote_topic, names, since_ms=since_ms)
            if any(entry_id <= progress.acknowledged for entry_id in tail[self._name()]):
                return tail
        # Clocks of devices jump: a place found by publish time is only good if it shows an id that must be there.
        return await read_tail(remote, self.remote_topic, names, since_ms=None)

    async def _repair(self, remote: RemoteClient, producer: RemoteProducer, lane: str, tail: Tail, last: int) -> None:
        """Send what the remote does not hold of (confirmed, last] under a name of its own.

        The remote stored later ids, or took them in, and so calls these duplicates; a receipt under the old name
        would be no proof.
        """
        progress = self.progress
        entries = await self._read_edge(progress.confirmed + 1, last)
        missing = _missing(entries, tail, {producer.name, lane})
        for _ in range(SETTLE_READINGS):
            if not missing:
                return
            await asyncio.sleep(SETTLE_PAUSE_S)
            before = missing
            missing = _missing(entries, await self._read_tail(remote, {producer.name, lane}), {producer.name, lane})
            if missing == before:
                break
        wanted = set(missing)
        await self._send_in_lane(remote, lane, [entry for entry in entries if entry.position.entry_id in wanted])

    async def _send_in_lane(self, remote: RemoteClient, lane: str, entries: list[Entry]) -> None:
        repairer = await remote.create_producer(self.remote_topic, ProducerOptions(name=lane))
        extension = self._extension(lane, repairer.entry_size_max)
        sent = 0
        try:
            for entry in entries:
                entry_id = entry.position.entry_id
                try:
                    data = extension.extend(entry.data, entry_id)
                except Unsendable as unsendable:
                    if unsendable.reason is not None:
                        await self._park(entry_id, unsendable.reason)
                    continue
                if entry_id <= repairer.last_sequence_id:
                    # Ids of the lane must rise as well. It was sent in it before, and is not there: a person must know.
                    self._alarm(f"possibly lost at the cloud: {entry_id}")
                    continue
                await repairer.send_entry(data, sequence_id=entry_id, messages=entry.messages)
                sent += 1
        finally:
            await repairer.abandon()
        if sent:
            self._alarm(
                f"{sent} entries were missing at the cloud after a refused send; they were sent again, out of order"
            )

    # Small things

    async def _park(self, entry_id: int, reason: str) -> None:
        self._alarm(f"entry {entry_id} is parked: {reason}")
        await self._state.put({f"{self.ledger_id}/parked/{entry_id}": reason})
        self.progress.parked[entry_id] = reason

    async def _read_edge(self, first_entry_id: int, last_entry_id: int) -> list[Entry]:
        """The stored entries from one id to another, both included."""
        read: list[Entry] = []
        if last_entry_id < first_entry_id:
            return read
        reader = await self._edge.create_reader(self.topic, Position(self.ledger_id, first_entry_id))
        try:
            while await reader.has_entry_available():
                for received in await reader.read_entries(REPLICATION_WINDOW):
                    if received.entry.position.entry_id > last_entry_id:
                        return read
                    read.append(received.entry)
        finally:
            await reader.close()
        return read

    def _name(self, lane: str = "") -> str:
        return producer_name(
            self._settings.gateway_id, self._state.incarnation_of(self.ledger_id), self.ledger_id, lane
        )

    def _extension(self, name: str, entry_size_max: int) -> Extension:
        return Extension(name, incarnation=self._state.incarnation, size_max=entry_size_max)

    def _alarm(self, text: str) -> None:
        logger.error("%s to %s: %s", self.topic, self._settings.name, text)
        if text not in self.alarms:
            self.alarms.append(text)
            del self.alarms[:-ALARMS_MAX]

    def heard_of(self, last_entry_id: int) -> None:
        """The ledger reaches to this id."""
        self._last_entry_id = max(self._last_entry_id, last_entry_id)

    @property
    def last_entry_id(self) -> int:
        """Of the ledger, as far as it was heard of."""
        return max(self._last_entry_id, self._sender.last_entry_id if self._sender else -1)

    @property
    def sent_entries(self) -> int:
        """Since the process started."""
        return self._sent_before + (self._sender.sent_entries if self._sender else 0)

    @property
    def confirmed_entries(self) -> int:
        """Receipts since the process started."""
        return self._confirmed_before + (self._sender.confirmed_entries if self._sender else 0)

    @property
    def lag_entries(self) -> int:
        return max(0, self.last_entry_id - self.progress.confirmed)

    def status(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "remote_topic": self.remote_topic,
            "producer_name": self._name(),
            "phase": self.phase,
            "confirmed_entry_id": self.progress.confirmed,
            "last_entry_id": self.last_entry_id,
            "lag_entries": self.lag_entries,
            "parked": len(self.progress.parked),
            "alarms": list(self.alarms),
            "last_error": self.last_error,
        }


def _missing(entries: Iterable[Entry], tail: Tail, names: set[str]) -> list[int]:
    held = set().union(*(tail[name] for name in names))
    return [entry.position.entry_id for entry in entries if entry.position.entry_id not in held]
