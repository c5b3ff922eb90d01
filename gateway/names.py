"""Names of tenants, namespaces and topics, as Pulsar writes them. Pure.

persistent://plant/hall7/temperature-partition-3
└ domain      └ tenant    └ local name └ partition
                    └ namespace
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from gateway.errors import InvalidTopicName
from gateway.limits import NAME_LENGTH_MAX

PUBLIC_DEFAULT = "public/default"
"""The namespace that Pulsar's clients expand short names to."""
PARTITION_SUFFIX = "-partition-"
_PART = re.compile(r"[-=:.\w]+", re.ASCII)
"""Source: Pulsar's NamedEntity, for tenants and namespaces."""
_PARTITION = re.compile(r"^(.+)-partition-(0|[1-9][0-9]{0,5})$", re.DOTALL)


class Domain(StrEnum):
    """Whether a topic is stored."""

    persistent = "persistent"
    non_persistent = "non-persistent"


@dataclass(frozen=True, slots=True, order=True)
class NamespaceName:
    """A tenant and one of its namespaces."""

    tenant: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.namespace}"

    @classmethod
    def parse(cls, text: str) -> NamespaceName:
        """Read `tenant/namespace`.

        Raises: InvalidTopicName.
        """
        tenant, slash, namespace = text.partition("/")
        if not slash:
            raise InvalidTopicName(f"'{text}' is not a namespace", hint="write tenant/namespace, such as plant/hall7")
        for part in (tenant, namespace):
            _check_part(part, text)
        return cls(tenant, namespace)


@dataclass(frozen=True, slots=True, order=True)
class TopicName:
    """A full topic name. A partition of a partitioned topic is a topic of its own."""

    domain: Domain
    namespace: NamespaceName
    local_name: str
    """As the application writes it, `-partition-N` included."""

    def __str__(self) -> str:
        return f"{self.domain}://{self.namespace}/{self.local_name}"

    @property
    def partition(self) -> int:
        """The partition's index, or -1."""
        match = _PARTITION.match(self.local_name)
        return int(match[2]) if match else -1

    @property
    def partitioned_name(self) -> TopicName:
        """The topic that this one is a partition of; itself, if it is none."""
        match = _PARTITION.match(self.local_name)
        return TopicName(self.domain, self.namespace, match[1]) if match else self

    @classmethod
    def parse(cls, text: str, *, default_namespace: str = PUBLIC_DEFAULT) -> TopicName:
        """Read a topic's name: `domain://tenant/namespace/name`, `tenant/namespace/name` or `name`.

        Raises: InvalidTopicName.
        """
        return _parse_topic(text, default_namespace)


@lru_cache(maxsize=1024)
def _parse_topic(text: str, default_namespace: str) -> TopicName:
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = Domain.persistent, text
        if "/" not in rest:
            rest = f"{default_namespace}/{rest}"
    try:
        domain = Domain(scheme)
    except ValueError:
        raise InvalidTopicName(f"'{text}' has the unknown domain '{scheme}'", hint="use persistent://") from None
    parts = rest.split("/", 2)
    if len(parts) != 3 or not parts[2]:
        raise InvalidTopicName(f"'{text}' is not a topic name", hint="write tenant/namespace/topic, or a short name")
    tenant, namespace, local_name = parts
    _check_part(tenant, text)
    _check_part(namespace, text)
    if len(local_name.encode("utf-8", "surrogatepass")) > NAME_LENGTH_MAX or not local_name.isprintable():
        raise InvalidTopicName(f"'{text[:80]}' has a local name that is too long or not printable")
    if "/" in local_name:
        # Pulsar reads four parts as its old tenant/cluster/namespace/topic form, which nothing creates any more.
        raise InvalidTopicName(f"'{text}' has too many slashes", hint="a topic's own name can't contain '/'")
    return TopicName(domain, NamespaceName(tenant, namespace), local_name)


def _check_part(part: str, text: str) -> None:
    if not _PART.fullmatch(part) or len(part) > NAME_LENGTH_MAX:
        raise InvalidTopicName(
            f"'{text[:80]}' has the bad part '{part[:40]}'", hint="letters, digits and - = : . _ are allowed"
        )
