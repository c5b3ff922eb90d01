"""Examines the way to a cloud: is it reachable, and is its namespace set up so that nothing is lost or doubled?

What the administration of the cloud allows is set right on the way. Every finding is a row: check, ok (None: can't be
known), finding, fix.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.client.api import ProducerOptions
from gateway.client.remote import RemoteClient
from gateway.errors import BrokerError, GatewayError
from gateway.message import LATEST
from gateway.names import TopicName
from gateway.replication.link import connect
from gateway.replication.settings import ReplicationSettings

REQUEST_TIMEOUT_S = 15
RETENTION_MINUTES_MIN = 30 * 24 * 60
"""What is set where a namespace has no retention: a topic without retention and subscription is trimmed at once."""
OUTAGE_MINUTES = 30 * 24 * 60
"""The longest outage that is prepared for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the examination."""

    check: str
    ok: bool | None
    finding: str
    fix: str = ""


class Administration:
    """Pulsar's admin REST, as far as the doctor needs it."""

    def __init__(self, settings: ReplicationSettings) -> None:
        self._url = settings.admin_url.rstrip("/") + "/admin/v2"
        self._token = Path(settings.token_file).read_text().strip() if settings.token_file else ""
        self._tls = ssl.create_default_context(cafile=settings.trust_certs_file or None)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer. Raises: OSError, HTTPException."""
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        request = urllib.request.Request(self._url + path, method=method)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S, context=self._tls) as response:
                return response.status, _parse(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _parse(error.read())


async def examine(settings: ReplicationSettings, edge_topics: Iterable[str]) -> list[dict[str, Any]]:
    """All findings, as plain data."""
    findings: list[Finding] = []
    topics = [name for name in edge_topics if str(TopicName.parse(name).namespace) in settings.namespaces]
    try:
        remote = await connect(settings)
    except GatewayError as error:
        findings.append(
            Finding("reachable", False, str(error), error.hint or "check service_url, the network and the token")
        )
    else:
        findings.append(Finding("reachable", True, settings.service_url))
        try:
            findings += await _namespaces(settings, topics)
            findings += await _partitions(remote, settings, topics)
            findings += await _rights(remote, settings, topics)
        finally:
            await remote.close()
    return [asdict(finding) for finding in findings]


async def _namespaces(settings: ReplicationSettings, topics: list[str]) -> list[Finding]:
    if not settings.admin_url:
        return [
            Finding(
                "namespace",
                None,
                "deduplication, retention and TTL can't be seen over Pulsar's protocol",
                "set admin_url (a gateway as the cloud needs none: it deduplicates and keeps everything)",
            )
        ]
    findings = []
    names = [TopicName.parse(settings.remote_topic(TopicName.parse(topic))) for topic in topics]
    if not names:
        probe = TopicName.parse(f"persistent://{settings.namespaces[0]}/probe")
        names = [TopicName.parse(settings.remote_topic(probe))]
    try:
        administration = Administration(settings)
        for namespace in sorted({str(name.namespace) for name in names}):
            findings += await _namespace(administration, namespace)
        findings.append(await _inactivity(administration))
    except (OSError, http.client.HTTPException) as error:
        findings.append(Finding("admin", False, f"{settings.admin_url} does not answer: {error}", "check admin_url"))
    return findings


async def _namespace(administration: Administration, namespace: str) -> list[Finding]:
    status, _ = await administration.ask("GET", f"/namespaces/{namespace}")
    if status in (401, 403):
        return [
            Finding(f"namespace {namespace}", None, "the token may not see it", "give it the right, or ask its owner")
        ]
    created = ""
    if status == 404:
        tenant = namespace.split("/")[0]
        _, clusters = await administration.ask("GET", "/clusters")
        await administration.ask("PUT", f"/tenants/{tenant}", {"adminRoles": [], "allowedClusters": clusters or []})
        status, _ = await administration.ask("PUT", f"/namespaces/{namespace}", {})
        if status >= 300:
            fix = f"pulsar-admin namespaces create {namespace}"
            return [
                Finding(f"namespace {namespace}", False, f"does not exist and can't be created (HTTP {status})", fix)
            ]
        created = ", created now"
    findings = [Finding(f"namespace {namespace}", True, f"exists{created}")]
    findings.append(await _deduplication(administration, namespace))
    findings.append(await _retention(administration, namespace))
    status, ttl_s = await administration.ask("GET", f"/namespaces/{namespace}/messageTTL")
    short = isinstance(ttl_s, int) and 0 < ttl_s < OUTAGE_MINUTES * 60
    findings.append(
        Finding(
            f"TTL of {namespace}",
            not short,
            f"{ttl_s} s: entries that come late would expire at once" if short else "none shorter than an outage",
            f"pulsar-admin namespaces remove-message-ttl {namespace}" if short else "",
        )
    )
    return findings


async def _deduplication(administration: Administration, namespace: str) -> Finding:
    path = f"/namespaces/{namespace}/deduplication"
    check = f"deduplication of {namespace}"
    _, enabled = await administration.ask("GET", path)
    if enabled is True:
        return Finding(check, True, "on")
    status, _ = await administration.ask("POST", path, True)
    if status < 300:
        return Finding(check, True, "on, set now")
    return Finding(
        check,
        False,
        f"not on, and can't be set (HTTP {status}): what is sent again is stored twice",
        f"pulsar-admin namespaces set-deduplication {namespace} --enable",
    )


async def _retention(administration: Administration, namespace: str) -> Finding:
    path = f"/namespaces/{namespace}/retention"
    check = f"retention of {namespace}"
    _, retention = await administration.ask("GET", path)
    minutes = retention.get("retentionTimeInMinutes", 0) if isinstance(retention, dict) else 0
    if minutes:
        return Finding(check, True, "for ever" if minutes < 0 else f"{minutes} minutes")
    wanted = {"retentionTimeInMinutes": RETENTION_MINUTES_MIN, "retentionSizeInMB": -1}
    status, _ = await administration.ask("POST", path, wanted)
    if status < 300:
        return Finding(check, True, f"{RETENTION_MINUTES_MIN} minutes, set now")
    return Finding(
        check,
        False,
        f"none, and can't be set (HTTP {status}): what nobody has subscribed to is deleted at once",
        f"pulsar-admin namespaces set-retention {namespace} --time 30d --size -1",
    )


async def _inactivity(administration: Administration) -> Finding:
    check = "producers are remembered"
    status, configuration = await administration.ask("GET", "/brokers/configuration/runtime")
    value = (
        configuration.get("brokerDeduplicationProducerInactivityTimeoutMinutes")
        if isinstance(configuration, dict)
        else None
    )
    if value is None:
        return Finding(check, None, f"the broker's configuration can't be seen (HTTP {status})")
    minutes = int(value)
    if minutes >= OUTAGE_MINUTES:
        return Finding(check, True, f"for {minutes} minutes")
    return Finding(
        check,
        False,
        f"for {minutes} minutes: after a longer outage the remote tail is read to find what it holds",
        f"brokerDeduplicationProducerInactivityTimeoutMinutes={OUTAGE_MINUTES} in the broker's configuration",
    )


async def _partitions(remote: RemoteClient, settings: ReplicationSettings, topics: list[str]) -> list[Finding]:
    """A partitioned topic is replicated partition by partition; consumers find those only if the cloud knows them."""
    partitions: dict[TopicName, int] = {}
    for name in map(TopicName.parse, topics):
        if name.partition >= 0:
            whole = name.partitioned_name
            partitions[whole] = max(partitions.get(whole, 0), name.partition + 1)
    findings = []
    for whole, wanted in sorted(partitions.items()):
        topic = settings.remote_topic(whole)
        check = f"partitions of {topic}"
        try:
            found = await remote.partitions(topic)
        except BrokerError as error:
            findings.append(Finding(check, None, f"can't be seen: {error}"))
            continue
        if found >= wanted:
            findings.append(Finding(check, True, str(found)))
        elif not found and settings.admin_url and await _create_partitioned(settings, topic, wanted):
            findings.append(Finding(check, True, f"{wanted}, created now"))
        else:
            fix = f"pulsar-admin topics {'update' if found else 'create'}-partitioned-topic {topic} -p {wanted}"
            findings.append(Finding(check, False, f"{found}; {wanted} are used here", fix))
    return findings


async def _create_partitioned(settings: ReplicationSettings, topic: str, partitions: int) -> bool:
    name = TopicName.parse(topic)
    path = f"/{name.domain}/{name.namespace}/{name.local_name}/partitions"
    try:
        status, _ = await Administration(settings).ask("PUT", path, partitions)
    except (OSError, http.client.HTTPException):
        return False
    return status < 300


async def _rights(remote: RemoteClient, settings: ReplicationSettings, topics: list[str]) -> list[Finding]:
    if not topics:
        return [Finding("rights", None, "there is no topic to try them on yet", "publish something, then ask again")]
    # Not a partitioned topic's own name: trying that would make a topic of it.
    wholes = {str(TopicName.parse(name).partitioned_name) for name in topics if TopicName.parse(name).partition >= 0}
    topic = settings.remote_topic(TopicName.parse(next(name for name in topics if name not in wholes)))
    findings = []
    try:
        producer = await remote.create_producer(topic, ProducerOptions(name=f"headwater/{settings.gateway_id}/doctor"))
        await producer.close()
        findings.append(Finding("right to produce", True, topic))
    except BrokerError as error:
        findings.append(Finding("right to produce", False, str(error), "give the token's role the right to produce"))
    try:
        reader = await remote.create_reader(topic, LATEST)
        await reader.close()
        findings.append(Finding("right to consume", True, topic))
    except BrokerError as error:
        findings.append(
            Finding(
                "right to consume",
                False,
                str(error),
                "without it doubled or lost entries can't be found out after an accident, only announced",
            )
        )
    return findings


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
