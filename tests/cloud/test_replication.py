"""Replication to Apache Pulsar: everything once, whatever happens on the way."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pulsar
import pytest

from tests.cloud.conftest import start_pulsar
from tests.support import official
from tests.support.gateway import GatewayRig
from tests.support.pulsar import PulsarRig

NAMESPACE = "plant/hall7"
FORGET_S = 100
"""Pulsar looks for idle producers every third of the time-out, which is a minute here."""
CHUNKED_SIZE = 12 << 20


def _edge(folder: Path, cloud: PulsarRig, name: str, **replication: Any) -> GatewayRig:
    """A gateway that replicates to a namespace of its own."""
    cloud.make_namespace(f"plant/{name}")
    return GatewayRig(
        folder,
        gateway_id=name,
        replication=[
            {
                "name": "cloud",
                "service_url": cloud.service_url,
                "namespaces": [NAMESPACE],
                "topic": "persistent://plant/{gateway.id}/{topic}",
                **replication,
            }
        ],
    )


def _publish(edge: GatewayRig, topic: str, payloads: list[bytes]) -> None:
    with official.client(edge.service_url) as client:
        producer = client.create_producer(f"persistent://{NAMESPACE}/{topic}", batching_enabled=False)
        for payload in payloads:
            producer.send(payload)


def _numbers(first: int, last: int) -> list[bytes]:
    return [b"%06d" % number for number in range(first, last)]


def _cloud_payloads(cloud: PulsarRig, topic: str) -> list[bytes]:
    with official.client(cloud.service_url) as client:
        return [message.data() for message in official.read_all(client, f"persistent://{topic}")]


def test_replicator_delivers_every_kind_of_entry_intact(tmp_path: Path, cloud: PulsarRig) -> None:
    """Key, properties, event time, every compression, batches and a chunked message arrive as they were sent."""
    compressions = {
        "none": pulsar.CompressionType.NONE,
        "lz4": pulsar.CompressionType.LZ4,
        "zlib": pulsar.CompressionType.ZLib,
        "zstd": pulsar.CompressionType.ZSTD,
        "snappy": pulsar.CompressionType.SNAPPY,
    }
    chunked = bytes(index * 7 % 251 for index in range(1 << 16)) * (CHUNKED_SIZE >> 16)
    with _edge(tmp_path / "edge", cloud, "intact") as edge:
        with official.client(edge.service_url) as client:
            for name, compression in compressions.items():
                for batching in (False, True):
                    producer = client.create_producer(
                        f"persistent://{NAMESPACE}/{name}", compression_type=compression, batching_enabled=batching
                    )
                    for number in range(20):
                        producer.send_async(
                            b"reading %d of %s " % (number, name.encode()) * 10,
                            lambda result, message_id: None,
                            partition_key=f"device-{number % 3}",
                            properties={"unit": "°C", "number": str(number)},
                            event_timestamp=1_700_000_000_000 + number,
                        )
                    producer.flush()
            producer = client.create_producer(
                f"persistent://{NAMESPACE}/large", batching_enabled=False, chunking_enabled=True
            )
            producer.send(chunked, properties={"what": "picture"})
            sent = {
                name: [official.facts(m) for m in official.read_all(client, f"{NAMESPACE}/{name}")]
                for name in compressions
            }
        edge.wait_replicated()
        with official.client(cloud.service_url) as client:
            for name in compressions:
                arrived = [official.facts(m) for m in official.read_all(client, f"plant/intact/{name}")]
                assert len(arrived) == 40
                assert arrived == sent[name]
            consumer = client.subscribe("plant/intact/large", "whole", initial_position=pulsar.InitialPosition.Earliest)
            message = consumer.receive(official.RECEIVE_TIMEOUT_MS)
            assert message.data() == chunked
            assert message.properties()["what"] == "picture"


def test_replicator_doubles_nothing_when_the_topic_is_unloaded_between_sends(tmp_path: Path, cloud: PulsarRig) -> None:
    """Pulsar rebuilds its deduplication from what is stored, and finds our ids there."""
    with _edge(tmp_path / "edge", cloud, "unloaded") as edge:
        for step in range(5):
            _publish(edge, "temperature", _numbers(step * 40, step * 40 + 40))
            if step % 2:
                edge.restart()
            edge.wait_replicated()
            cloud.unload("plant/unloaded/temperature")
        edge.wait_replicated()
        assert _cloud_payloads(cloud, "plant/unloaded/temperature") == _numbers(0, 200)


def test_replicator_survives_its_own_death_anywhere(tmp_path: Path, cloud: PulsarRig) -> None:
    """Killed while it sends, the gateway goes on where the cloud's confirmations ended; what it sends again is
    dropped."""
    with _edge(tmp_path / "edge", cloud, "killed") as edge:
        for step in range(6):
            _publish(edge, "temperature", _numbers(step * 300, step * 300 + 300))
            edge.restart()
        edge.wait_replicated()
        assert _cloud_payloads(cloud, "plant/killed/temperature") == _numbers(0, 1800)


def test_replicator_finds_its_tail_when_the_cloud_forgot_its_name(tmp_path: Path, cloud: PulsarRig) -> None:
    """After an outage longer than the inactivity time-out the cloud knows no last id of ours: the tail tells it."""
    topic = "plant/forgotten/temperature"
    edge = _edge(tmp_path / "edge", cloud, "forgotten")
    with edge:
        _publish(edge, "temperature", _numbers(0, 100))
        name = edge.wait_replicated()["topics"][0]["producer_name"]
    # Asking Pulsar for the name would be a sign of life, so there is nothing to poll.
    time.sleep(FORGET_S)
    with official.client(cloud.service_url) as client:
        producer = client.create_producer(topic, producer_name=name)
        assert producer.last_sequence_id() == -1, "Pulsar still remembers the producer"
        producer.close()
    with edge:
        _publish(edge, "temperature", _numbers(100, 150))
        status = edge.wait_replicated()
        assert _cloud_payloads(cloud, topic) == _numbers(0, 150)
        assert status["alarms"] == []


def test_replicator_recognises_a_data_directory_put_back_to_an_older_copy(tmp_path: Path, cloud: PulsarRig) -> None:
    """New entries get ids that the cloud has seen with other content: they arrive all the same, under a new
    incarnation."""
    topic = "plant/restored/temperature"
    edge = _edge(tmp_path / "edge", cloud, "restored")
    with edge:
        _publish(edge, "temperature", _numbers(0, 50))
        edge.wait_replicated()
    copy = tmp_path / "copy"
    shutil.copytree(edge.data_dir, copy, ignore=shutil.ignore_patterns("*.sock"))
    with edge:
        _publish(edge, "temperature", _numbers(50, 120))
        edge.wait_replicated()
    shutil.rmtree(edge.data_dir)
    copy.rename(edge.data_dir)
    with edge:
        _publish(edge, "temperature", _numbers(1000, 1030))
        status = edge.wait_replicated()
        assert any("older copy" in alarm for alarm in status["alarms"])
        assert _cloud_payloads(cloud, topic) == _numbers(0, 120) + _numbers(1000, 1030)
        # Again, to see that the new incarnation is kept.
        edge.restart()
        _publish(edge, "temperature", _numbers(1030, 1040))
        edge.wait_replicated()
        assert _cloud_payloads(cloud, topic) == _numbers(0, 120) + _numbers(1000, 1040)


def test_replicator_loses_nothing_when_the_cloud_broker_is_killed(tmp_path: Path) -> None:
    """The broker dies with entries under way, and comes back on the same data."""
    with start_pulsar(tmp_path / "pulsar") as cloud, _edge(tmp_path / "edge", cloud, "crashed") as edge:
        for step in range(2):
            _publish(edge, "temperature", _numbers(step * 1000, step * 1000 + 900))
            cloud.kill()
            _publish(edge, "temperature", _numbers(step * 1000 + 900, step * 1000 + 1000))
            cloud.start()
        edge.wait_replicated(90)
        assert Counter(_cloud_payloads(cloud, "plant/crashed/temperature")) == Counter(_numbers(0, 2000))
        assert _cloud_payloads(cloud, "plant/crashed/temperature") == _numbers(0, 2000)


def test_replicator_speaks_tls_with_a_token(tmp_path: Path) -> None:
    """Over TLS, as a role with rights; a wrong token is said in words and tried again with the next one."""
    with start_pulsar(tmp_path / "pulsar", secure=True) as cloud:
        token_file = tmp_path / "token"
        token_file.write_text("wrong")
        edge = _edge(
            tmp_path / "edge",
            cloud,
            "secure",
            token_file=str(token_file),
            trust_certs_file=str(cloud.ca_file),
        )
        with edge:
            _publish(edge, "temperature", _numbers(0, 10))
            deadline = time.monotonic() + 20
            while not (error := edge.status()["replication"][0]["last_error"]) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert "uthenticat" in error or "token" in error, error
            token_file.write_text(cloud.role_token("admin"))
            edge.wait_replicated(90)
        with official.client(
            cloud.service_url,
            authentication=pulsar.AuthenticationToken(cloud.role_token("admin")),
            tls_trust_certs_file_path=str(cloud.ca_file),
        ) as client:
            assert [m.data() for m in official.read_all(client, "plant/secure/temperature")] == _numbers(0, 10)


@pytest.mark.parametrize("existing", [False, True])
def test_doctor_prepares_the_cloud_namespace(tmp_path: Path, cloud: PulsarRig, existing: bool) -> None:
    """What is missing is created and set, and said; a second examination finds nothing to do."""
    from gateway.cli.control import ControlClient

    name = f"doctored-{existing}".lower()
    edge = _edge(tmp_path / "edge", cloud, name, admin_url=cloud.admin_url)
    if not existing:
        cloud.rest("DELETE", f"/namespaces/plant/{name}")
    with edge:
        _publish(edge, "temperature", _numbers(0, 3))
        client = ControlClient.over_socket(edge.data_dir)
        rows = {row["check"]: row for row in client.post("/admin/replication/cloud/doctor")}
        assert rows["reachable"]["ok"]
        assert rows[f"namespace plant/{name}"]["ok"]
        assert ("created now" in rows[f"namespace plant/{name}"]["finding"]) is not existing
        assert rows[f"deduplication of plant/{name}"]["ok"]
        assert rows["producers are remembered"]["ok"] is False
        edge.wait_replicated()
        assert cloud.rest("GET", f"/namespaces/plant/{name}/deduplication")[1] is True


def test_doctor_makes_partitioned_topics_that_consumers_find(tmp_path: Path, cloud: PulsarRig) -> None:
    """Partitions are replicated one by one; a consumer of the whole topic at the cloud gets all of them."""
    from gateway.cli.control import ControlClient

    edge = _edge(tmp_path / "edge", cloud, "partitioned", admin_url=cloud.admin_url)
    topic = f"persistent://{NAMESPACE}/spread"
    edge.configuration["topics"] = {topic: {"partitions": 2}}
    with edge:
        with official.client(edge.service_url) as client:
            producer = client.create_producer(topic, batching_enabled=False)
            for number in range(20):
                producer.send(b"%06d" % number, partition_key=str(number))
        rows = ControlClient.over_socket(edge.data_dir).post("/admin/replication/cloud/doctor")
        (row,) = [row for row in rows if row["check"] == "partitions of persistent://plant/partitioned/spread"]
        assert (row["ok"], row["finding"]) == (True, "2, created now")
        edge.wait_replicated()
        with official.client(cloud.service_url) as client:
            consumer = client.subscribe(
                "plant/partitioned/spread", "s", initial_position=pulsar.InitialPosition.Earliest
            )
            payloads = sorted(consumer.receive(official.RECEIVE_TIMEOUT_MS).data() for _ in range(20))
        assert payloads == _numbers(0, 20)
