"""One consumer of one subscription: its permits, and what was delivered to it and is not acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.limits import UNACKED_MESSAGES_PER_CONSUMER_MAX
from gateway.log import StoredEntry

if TYPE_CHECKING:
    from gateway.broker.subscription import Subscription


class ConsumerOwner(Protocol):
    """Whoever holds consumers: a connection, or the client inside this process."""

    writable: bool
    """False while the peer takes nothing: then nothing is delivered, and the owner calls `Subscription.wake`
    afterwards."""

    def deliver(self, consumer: Consumer, entry: StoredEntry, redelivery_count: int, ack_set: tuple[int, ...]) -> None:
        """Hand an entry to the peer."""

    def consumer_closed(self, consumer: Consumer) -> None:
        """The broker took the consumer away: the peer is told to subscribe again."""

    def active_changed(self, consumer: Consumer, active: bool) -> None:
        """A failover consumer became the active one, or stopped being it."""


class Consumer:
    """A place that a subscription's entries are sent to."""

    __slots__ = (
        "closed",
        "consumer_id",
        "epoch",
        "name",
        "owner",
        "pending",
        "permits",
        "priority_level",
        "subscription",
        "unacked_messages",
    )

    def __init__(
        self,
        owner: ConsumerOwner,
        subscription: Subscription,
        *,
        consumer_id: int,
        name: str,
        priority_level: int = 0,
        epoch: int | None = None,
    ) -> None:
        self.owner = owner
        self.subscription = subscription
        self.consumer_id = consumer_id
        """The connection's number for it; unique there only."""
        self.name = name
        self.priority_level = priority_level
        """Lower is served first."""
        self.epoch = epoch
        """Echoed with every entry, where the peer gave one: it drops what was sent before its last redelivery
        request."""
        self.permits = 0
        """Messages that the peer has room for. Negative after an entry with more messages than there was room for."""
        self.pending: dict[int, int] = {}
        """Shared subscriptions: entry id -> messages charged, for what was delivered and is not acknowledged."""
        self.unacked_messages = 0
        """Sum of `pending`."""
        self.closed = False

    @property
    def ready(self) -> bool:
        """Whether an entry may be delivered now."""
        return self.permits > 0 and self.owner.writable and self.unacked_messages < UNACKED_MESSAGES_PER_CONSUMER_MAX

    def deliver(self, entry: StoredEntry, *, messages: int, redelivery_count: int, ack_set: tuple[int, ...]) -> None:
        """Charge `messages` permits and hand the entry over."""
        self.permits -= messages
        self.owner.deliver(self, entry, redelivery_count, ack_set)

    def keep_pending(self, entry_id: int, messages: int) -> None:
        """Remember that this consumer holds an entry."""
        self.pending[entry_id] = messages
        self.unacked_messages += messages

    def drop_pending(self, entry_id: int) -> bool:
        """Forget an entry. Returns whether this consumer held it."""
        messages = self.pending.pop(entry_id, None)
        if messages is None:
            return False
        self.unacked_messages -= messages
        return True
