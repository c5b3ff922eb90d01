"""The readings of a real machine, over MQTT, while edge and cloud are killed: nothing is missing, nothing is doubled
by us.

A device that was not told "received" sends again, so a reading may be in the edge's log twice; edge and cloud logs
are identical entry for entry.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.cli.demo.verify import compare
from gateway.client.remote import RemoteClient
from gateway.message import EARLIEST
from tests.support.gateway import GatewayRig
from tests.support.pulsar import PulsarMissing, PulsarRig

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "machine_temperature.csv"
NAMESPACE = "plant/hall7"
TOPIC = f"persistent://{NAMESPACE}/temperature"
RATE = 1_500
"""Readings a second: the kills have to fall into the middle of the replay."""
REPLAY_TIMEOUT_S = 240

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def data() -> Path:
    if not DATA.exists():
        pytest.skip(f"the real data set is not beside this repository ({'/'.join(DATA.parts[-3:])})")
    return DATA


def make_edge(folder: Path, cloud_url: str) -> GatewayRig:
    edge = GatewayRig(
        folder,
        gateway_id="hall-7",
        defaults={"namespace": NAMESPACE},
        namespaces={NAMESPACE: {"commit_interval": "5ms"}},
        replication=[
            {
                "name": "cloud",
                "service_url": cloud_url,
                "namespaces": [NAMESPACE],
                "topic": "persistent://plant/{gateway.id}/{topic}",
            }
        ],
    )
    edge.add_mqtt(name="machine", subscribe=["replay/#"], topic="temperature", format="json")
    return edge


def start_replay(edge: GatewayRig, data: Path, acked: Path) -> subprocess.Popen[bytes]:
    """The data set on its way to the edge; each acknowledged payload becomes a line of `acked`."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "firmware_sim", "replay", str(data), "--port", str(edge.mqtt_port),
            "--rate", str(RATE), "--in-flight", "100", "--acked", str(acked), "--json", "--grace", "60",
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip


def check_logs(edge: GatewayRig, cloud_url: str, acked: Path, readings: int) -> None:
    """Every acknowledged payload is in the edge's log, in order; both logs are identical."""
    acknowledged = acked.read_bytes().splitlines()

    async def look() -> None:
        client = await RemoteClient.connect(edge.service_url)
        cloud = await RemoteClient.connect(cloud_url)
        reader = await client.create_reader(TOPIC, EARLIEST)
        stored = []
        while reader.has_opened_messages or await reader.has_entry_available():
            stored.append((await reader.read()).payload)
        assert len(acknowledged) == readings
        assert set(acknowledged) <= set(stored)
        firsts = list(dict.fromkeys(stored))
        assert firsts == list(dict.fromkeys(acknowledged)), "the edge's log is not in the device's order"
        comparison = await compare(client, TOPIC, cloud, "persistent://plant/hall-7/temperature")
        assert comparison.entries_edge == comparison.entries_cloud
        assert (comparison.missing, comparison.duplicated) == (0, 0)
        await client.close()
        await cloud.close()

    asyncio.run(look())


def test_real_data_arrives_complete_through_fifteen_kills(data: Path, tmp_path: Path) -> None:
    """The edge is killed ten times and the cloud gateway five times while 22,695 readings pass."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    readings = len(data.read_text().splitlines()) - 1
    cloud = GatewayRig(tmp_path / "cloud", gateway_id="cloud")
    with cloud, make_edge(tmp_path / "edge", cloud.service_url) as edge:
        acked = tmp_path / "acked"
        device = start_replay(edge, data, acked)
        victims = [edge] * 10 + [cloud] * 5
        chance.shuffle(victims)
        for victim in victims:
            time.sleep(chance.uniform(0.1, 0.8))
            victim.restart()
        assert device.wait(REPLAY_TIMEOUT_S) == 0
        edge.wait_replicated(120)
        check_logs(edge, cloud.service_url, acked, readings)


def test_real_data_arrives_complete_at_apache_pulsar(data: Path, tmp_path: Path) -> None:
    """The same with Apache Pulsar as the cloud, whose broker is killed twice."""
    try:
        cloud = PulsarRig(tmp_path / "pulsar")
    except PulsarMissing as error:
        pytest.skip(f"Apache Pulsar as the cloud of the real data set is not tested: {error}")
    readings = len(data.read_text().splitlines()) - 1
    with cloud:
        cloud.make_namespace("plant/hall-7")
        with make_edge(tmp_path / "edge", cloud.service_url) as edge:
            acked = tmp_path / "acked"
            device = start_replay(edge, data, acked)
            for _ in range(2):
                time.sleep(1.5)
                cloud.kill()
                edge.restart()
                cloud.start()
            assert device.wait(REPLAY_TIMEOUT_S) == 0
            edge.wait_replicated(120)
            check_logs(edge, cloud.service_url, acked, readings)
