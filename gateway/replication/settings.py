"""What a replication is told: where to, and which topics. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.names import Domain, NamespaceName, TopicName

PLACEHOLDERS = ("tenant", "namespace", "topic", "gateway.id")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ReplicationSettings:
    """One way to one cloud."""

    name: str
    gateway_id: str
    service_url: str
    """`pulsar://HOST:PORT` or `pulsar+ssl://HOST:PORT`."""
    namespaces: tuple[str, ...]
    """`tenant/namespace` whose topics are replicated."""
    topic: str = ""
    """Template of the remote topic's full name; empty: the same name."""
    admin_url: str = ""
    """Of Pulsar's admin REST, for the doctor; empty: not known."""
    token_file: str = ""
    trust_certs_file: str = ""
    """Certificates to trust instead of the system's."""

    def remote_topic(self, name: TopicName) -> str:
        """The remote topic of a local one."""
        if not self.topic:
            return str(name)
        return fill_template(self.topic, name, self.gateway_id)


def fill_template(template: str, name: TopicName, gateway_id: str) -> str:
    """Put a topic's parts into a template. Raises: ValueError for a placeholder that does not exist."""
    values = {
        "tenant": name.namespace.tenant,
        "namespace": name.namespace.namespace,
        "topic": name.local_name,
        "gateway.id": gateway_id,
    }

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(
                f"'{{{match[1]}}}' is no placeholder; there are {', '.join(f'{{{p}}}' for p in PLACEHOLDERS)}"
            )
        return values[match[1]]

    return _PLACEHOLDER.sub(fill, template)


def keeps_topics_apart(template: str, namespaces: tuple[str, ...], gateway_id: str) -> bool:
    """Whether no two topics of `namespaces` get the same remote name. Raises: ValueError, as `fill_template`."""
    if not template:
        return True
    # Two topics of one namespace differ in their own name only, so that must be in it; then one probe a namespace is
    # enough.
    probes = [TopicName(Domain.persistent, NamespaceName.parse(text), "probe") for text in namespaces]
    filled = {fill_template(template, probe, gateway_id) for probe in probes}
    return "{topic}" in template and len(filled) == len(set(namespaces))
