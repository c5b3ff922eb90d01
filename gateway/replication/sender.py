"""Sends one ledger's entries over one producer, for as long as that producer lives, and counts what is confirmed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.client.api import Reader
from gateway.client.remote_producer import RemoteProducer
from gateway.errors import BrokerError, GatewayError
from gateway.limits import IDLE_COMMIT_INTERVAL_NS, MIB, REPLICATION_WINDOW, SECOND
from gateway.replication.extension import Extension, Unsendable
from gateway.replication.progress import Progress

READ_ENTRIES = 250
"""Entries taken from the edge in one step."""
IN_FLIGHT_BYTES_MAX = 4 * MIB
"""Bytes sent and not confirmed: the window in bytes, for entries that are large."""
ROOM_ENTRIES = 100
"""How much of a full window must be free again before more is sent."""
PERSIST_PAUSE_S = IDLE_COMMIT_INTERVAL_NS / SECOND
"""How long a confirmed id waits to be written when little is going on: writing it costs flash, not writing it only
costs sending again."""


class Sender:
    """One round of sending. `confirmed_entries` counts receipts."""

    def __init__(
        self,
        producer: RemoteProducer,
        progress: Progress,
        extension: Extension,
        *,
        persist: Callable[[], Awaitable[None]],
        park: Callable[[int, str], Awaitable[None]],
    ) -> None:
        self._producer = producer
        self._progress = progress
        self._extension = extension
        self._persist = persist
        self._park = park
        self.sent_entries = 0
        self.confirmed_entries = 0
        self.last_entry_id = -1
        """The last one read from the edge."""
        self._sizes: deque[int] = deque()
        """Bytes of the entries under way, in their order."""
        self._in_flight_bytes = 0
        self._room = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._persist_due = asyncio.Event()
        self._ended = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, reader: Reader) -> None:
        """Send what the reader gives until something fails. Raises: what failed; the progress then says how far it
        came."""
        self._producer.stream = self
        works = [asyncio.ensure_future(self._keep_progress()), asyncio.ensure_future(self._pump(reader))]
        try:
            await asyncio.wait([*works, self._failure], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # From here on no receipt counts: what is under way is sent again, by the next round.
            self._ended = True
            self._producer.stream = None
            self._progress.disconnected()
            for work in works:
                work.cancel()
            outcomes = await asyncio.gather(*works, return_exceptions=True)
            failure = self._failure.exception() if self._failure.done() else None
            self._failure.cancel()
        for error in (failure, *outcomes):
            if isinstance(error, Exception):
                raise error

    async def _pump(self, reader: Reader) -> None:
        progress = self._progress
        producer = self._producer
        extend = self._extension.extend
        publish = producer.stream_entry
        sizes = self._sizes
        while True:
            for received in await reader.read_entries(READ_ENTRIES):
                entry = received.entry
                entry_id = entry.position.entry_id
                if entry_id <= progress.sent:
                    continue
                self.last_entry_id = entry_id
                if len(sizes) >= REPLICATION_WINDOW or self._in_flight_bytes >= IN_FLIGHT_BYTES_MAX:
                    # Until there is room for some: single steps would make small writes.
                    await self._until(REPLICATION_WINDOW - ROOM_ENTRIES, IN_FLIGHT_BYTES_MAX * 3 // 4)
                if not producer.writable:
                    await producer.wait_writable()
                try:
                    extended = extend(entry.data, entry_id)
                except Unsendable as unsendable:
                    await self._until(0, 0)
                    if unsendable.reason is not None:
                        await self._park(entry_id, unsendable.reason)
                    progress.skip(entry_id)
                    self._confirmed.set()
                    continue
                publish(extended, entry_id, entry.messages)
                progress.sending(entry_id)
                sizes.append(len(extended))
                self._in_flight_bytes += len(extended)
                self.sent_entries += 1

    async def _until(self, entries: int, size: int) -> None:
        """Wait until no more than so many entries and bytes are under way."""
        while len(self._sizes) > entries or self._in_flight_bytes > size:
            self._room.clear()
            await self._room.wait()

    # Stream

    def confirmed(self, sequence_id: int, entries: int) -> None:
        """Receipts. That the remote has an entry already confirms it as well."""
        progress = self._progress
        if self._ended or progress.suspect is not None:
            return
        progress.confirm(sequence_id)
        sizes = self._sizes
        self._in_flight_bytes -= sum([sizes.popleft() for _ in range(entries)])
        self.confirmed_entries += entries
        self._room.set()
        if progress.persist_due:
            self._persist_due.set()
            self._confirmed.set()
        elif not sizes:
            self._confirmed.set()

    def refused(self, sequence_id: int, error: BrokerError) -> None:
        if not self._ended and self._progress.suspect is None:
            self._progress.suspect = sequence_id
            self.closed(error)

    def closed(self, error: GatewayError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    # Keeping the progress

    async def _keep_progress(self) -> None:
        """Write the confirmed id: at once when half a window is confirmed, else seldom."""
        while True:
            await self._confirmed.wait()
            self._confirmed.clear()
            if not self._progress.persist_due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PERSIST_PAUSE_S):
                        await self._persist_due.wait()
            self._persist_due.clear()
            await self._persist()
