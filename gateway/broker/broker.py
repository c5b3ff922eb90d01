"""The broker: the topics that are open, and the catalogue of all that exist.

It knows no socket and no file: sessions bring requests, the log keeps what they change.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from gateway.broker.settings import BrokerSettings
from gateway.broker.topic import Topic
from gateway.clock import Clock
from gateway.errors import LogError, NotAllowed, StorageUnavailable, TopicNotFound
from gateway.log import CommittedGroup, JournalState, Log, PendingGroup
from gateway.log.records import Record, StateRecord, TopicRecord
from gateway.metadata.states import TopicState, TopicSummary
from gateway.names import Domain, NamespaceName, TopicName

logger = logging.getLogger(__name__)

RECORD_SIZE = 512
"""Bytes that one catalogue record is taken to need in a group."""
PARTITIONS_MAX = 1_024


class Broker:
    """Topics, their catalogue, and the atomic commit over them. Belongs to the event loop's thread."""

    def __init__(self, log: Log, clock: Clock, settings: BrokerSettings) -> None:
        self.log = log
        self.clock = clock
        self.settings = settings
        self.topics: dict[str, Topic] = {}
        """Open topics by full name."""
        self._by_ledger: dict[int, Topic] = {}
        self._opening: dict[str, asyncio.Task[Topic]] = {}
        self._partitions: dict[str, int] = {}
        """Partitions of partitioned topics, by full name, as far as they were asked for."""
        self._ledgers: dict[NamespaceName, dict[str, int]] = {}
        """Stored topics of the namespaces that were asked for, with their ledger ids."""
        self._ledger_ids = itertools.count(log.metadata.next_ledger_id)
        self._subscription_ids = itertools.count(log.metadata.next_subscription_id)
        self._names = itertools.count()
        self.closing = False
        log.journal.on_commit(self._committed)
        log.journal.on_state(self._journal_changed)

    async def create_configured_topics(self) -> None:
        """Create the partitioned topics that the settings name and that do not exist yet.

        Raises: StorageUnavailable.
        """
        for full_name, policy in self.settings.topics.items():
            if policy.partitions:
                name = TopicName.parse(full_name)
                if await self.partitions(name) == 0:
                    await self.create_partitioned_topic(name, policy.partitions)

    def new_subscription_id(self) -> int:
        return next(self._subscription_ids)

    def new_producer_name(self) -> str:
        """A name that no producer of this broker ever had: the data directory, the start, a counter."""
        return f"{self.log.directory_id.hex()[:8]}-{self.clock.boottime_ns():x}-{next(self._names)}"

    def check_accepting(self) -> None:
        """Raises: StorageUnavailable while the log takes no entries."""
        state = self.log.journal.state
        if state is not JournalState.open:
            raise StorageUnavailable(f"the log is {state}", hint="see `headwater status`")

    # Topics

    async def topic(self, name: TopicName, *, create: bool = True) -> Topic:
        """Open a topic, creating it if it is new and `create`.

        Raises: TopicNotFound, NotAllowed (a partitioned topic is only ever used by its partitions), StorageUnavailable.
        """
        full_name = str(name)
        present = self.topics.get(full_name)
        if present is not None:
            return present
        if name.domain is not Domain.persistent:
            raise NotAllowed("non-persistent topics are not supported by this version")
        if self.closing:
            raise StorageUnavailable("the gateway is stopping")
        opening = self._opening.get(full_name)
        if opening is None:
            opening = asyncio.get_running_loop().create_task(self._open(name, create))
            self._opening[full_name] = opening
            opening.add_done_callback(lambda _: self._opening.pop(full_name, None))
        try:
            return await asyncio.shield(opening)
        except TopicNotFound:
            # Somebody who may not create it asked first.
            if create and not opening.cancelled() and full_name not in self.topics:
                return await self._open(name, True)
            raise

    async def partitions(self, name: TopicName) -> int:
        """The number of partitions of a partitioned topic; 0: there is no such partitioned topic."""
        full_name = str(name)
        known = self._partitions.get(full_name)
        if known is None:
            state = await self.log.metadata.load_topic(full_name)
            if state is None or not state.partitions:
                return 0
            known = self._partitions[full_name] = state.partitions
        return known

    async def exists(self, name: TopicName) -> bool:
        """Whether a topic, partitioned or not, is in the catalogue."""
        return str(name) in self.topics or await self.log.metadata.load_topic(str(name)) is not None

    async def create_partitioned_topic(self, name: TopicName, partitions: int) -> None:
        """Create a partitioned topic, durably. Raises: NotAllowed, StorageUnavailable."""
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise NotAllowed(f"{name}: {partitions} partitions; between 1 and {PARTITIONS_MAX} are allowed")
        if await self.exists(name):
            raise NotAllowed(f"{name} exists already")
        await self.commit_records([TopicRecord(0, str(name), partitions=partitions)])
        self._partitions[str(name)] = partitions

    async def list_topics(self, namespace: NamespaceName | None = None) -> list[TopicSummary]:
        """All topics of a namespace (None: of all), by name; a partitioned topic and each of its partitions."""
        return await self.log.metadata.list_topics(None if namespace is None else str(namespace))

    async def ledgers(self, namespace: NamespaceName) -> dict[str, int]:
        """The ledger id of each topic (or partition) of a namespace, by name.

        For those who ask again and again: reading the views brings them up to date first, which costs flash every time.
        """
        known = self._ledgers.get(namespace)
        if known is None:
            known = {
                summary.name: summary.ledger_id for summary in await self.list_topics(namespace) if summary.ledger_id
            }
            # Those that were made meanwhile.
            known |= {
                topic.full_name: topic.ledger_id for topic in self.topics.values() if topic.name.namespace == namespace
            }
            self._ledgers[namespace] = known
        return known

    async def close(self) -> None:
        """Take everybody away from all topics. The log is the caller's to close."""
        self.closing = True
        for opening in tuple(self._opening.values()):
            opening.cancel()
        for topic in tuple(self.topics.values()):
            await topic.close()

    async def _open(self, name: TopicName, create: bool) -> Topic:
        full_name = str(name)
        state = await self.log.metadata.load_topic(full_name)
        if full_name in self.topics:
            return self.topics[full_name]
        if state is not None and state.partitions:
            raise NotAllowed(f"{full_name} is partitioned: use its partitions")
        if state is None:
            if not create:
                raise TopicNotFound(f"{full_name} does not exist")
            state = self._create(name)
        topic = Topic(
            name,
            state,
            journal=self.log.journal,
            reader=self.log.reader,
            clock=self.clock,
            policy=self.settings.policy(name),
        )
        self.topics[full_name] = topic
        self._by_ledger[topic.ledger_id] = topic
        return topic

    def _create(self, name: TopicName) -> TopicState:
        """Give a topic its ledger id.

        Whatever is stored in it later stands behind its record, so nobody waits for that.
        """
        ledger_id = next(self._ledger_ids)
        group = self._group(RECORD_SIZE)
        group.add_record(TopicRecord(ledger_id, str(name)))
        if name.namespace in self._ledgers:
            self._ledgers[name.namespace][str(name)] = ledger_id
        self.log.journal.commit_within(0, "catalogue")
        return TopicState(name=str(name), ledger_id=ledger_id, partitions=0, next_entry_id=0)

    # Changes that are durable together

    def _group(self, size: int) -> PendingGroup:
        try:
            return self.log.journal.group(size, essential=True)
        except LogError as error:
            raise StorageUnavailable(str(error), hint=error.hint) from error

    async def commit_records(self, records: list[Record], *, size: int = RECORD_SIZE) -> None:
        """Make records durable together. Raises: StorageUnavailable."""

        def add(group: PendingGroup) -> None:
            for record in records:
                group.add_record(record)

        await self.commit(size, add)

    async def commit(self, size: int, add: Callable[[PendingGroup], object]) -> None:
        """Let `add` put all of one atomic change into a group, and return when it is durable. Raises:
        StorageUnavailable.

        `add` must not yield and must not fail: half a change would become durable.
        """
        group = self._group(size)
        add(group)
        self.log.journal.commit_within(0, "commit")
        done: asyncio.Future[LogError | None] = asyncio.get_running_loop().create_future()
        group.when_durable(lambda error: None if done.done() else done.set_result(error))
        error = await done
        if error is not None:
            raise StorageUnavailable(str(error), hint=error.hint) from error

    async def load_state(self, owner: str) -> dict[str, bytes]:
        """All keys that `owner` committed with StateRecords."""
        return await self.log.metadata.load_state(owner)

    # What the journal tells

    def _committed(self, group: CommittedGroup) -> None:
        for run in group.runs:
            topic = self._by_ledger.get(run.ledger_id)
            if topic is not None:
                topic.committed(run.first_entry_id + run.entries)

    def _journal_changed(self, state: JournalState) -> None:
        """Send producers away while nothing can be stored: they keep their messages and come back by themselves."""
        if state is JournalState.open:
            logger.info("the log takes entries again")
            return
        # Topics whose records did not become durable do not exist.
        self._ledgers.clear()
        logger.error("the log is %s: publishing is refused, reading goes on", state)
        for topic in tuple(self.topics.values()):
            for producer in tuple(topic.producers.values()):
                topic.remove_named_producer(producer.name)
            if state is JournalState.failed and topic.next_entry_id != topic.durable_end:
                # Ids that were given out and never became durable must not be counted: open it again from the views.
                self.topics.pop(topic.full_name, None)
                self._by_ledger.pop(topic.ledger_id, None)


def state_size(changes: list[StateRecord]) -> int:
    """Bytes that keyed state is taken to need in a group."""
    return sum(64 + len(change.owner) + len(change.key) + len(change.value or b"") for change in changes)
