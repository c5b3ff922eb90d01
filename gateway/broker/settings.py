"""What the broker is told when it starts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.names import TopicName


@dataclass(frozen=True, slots=True)
class NamespacePolicy:
    """How the topics of one namespace behave."""

    commit_interval_ns: int = 0
    """How long an entry may wait for others before it is made durable; 0: not at all."""
    deduplication: bool = True
    """Whether entries of named producers are stored once, whatever is sent again."""


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """What one topic does differently from its namespace."""

    commit_interval_ns: int | None = None
    """None: the namespace's."""
    partitions: int = 0
    """0: not partitioned."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Policies by name; whatever is not named has the defaults."""

    namespaces: dict[str, NamespacePolicy] = field(default_factory=dict)
    """By `tenant/namespace`."""
    topics: dict[str, TopicPolicy] = field(default_factory=dict)
    """By full name, without a partition's suffix."""

    def policy(self, name: TopicName) -> NamespacePolicy:
        """What holds for a topic: its own settings over its namespace's."""
        namespace = self.namespaces.get(str(name.namespace), NamespacePolicy())
        topic = self.topics.get(str(name.partitioned_name))
        if topic is None or topic.commit_interval_ns is None:
            return namespace
        return NamespacePolicy(topic.commit_interval_ns, namespace.deduplication)
