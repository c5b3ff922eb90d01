"""The link: one connection for all topics of a replication, made again whenever it is lost, and examined by the
doctor."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.errors import ReplicationError
from gateway.limits import BACKOFF_MAX_NS, BACKOFF_MIN_NS, SECOND
from gateway.replication import link as link_module
from gateway.replication.doctor import examine
from gateway.replication.link import Backoff, Link, connect
from gateway.replication.settings import ReplicationSettings
from tests.replication.cloud import FakeCloud
from tests.replication.conftest import eventually

TOPIC = "persistent://plant/hall7/temperature"


def settings(cloud: FakeCloud, **more: str) -> ReplicationSettings:
    return ReplicationSettings("cloud", "hall-7", cloud.url, ("plant/hall7",), **more)


async def test_backoff_doubles_up_to_its_bound_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is between half of its turn and all of it, so that a fleet does not come back at once."""
    pauses: list[float] = []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", slept)
    backoff = Backoff()
    for _ in range(30):
        await backoff.pause()
    for number, pause in enumerate(pauses):
        turn = min(BACKOFF_MIN_NS * 2**number, BACKOFF_MAX_NS) / SECOND
        assert turn / 2 <= pause <= turn
    backoff.succeeded()
    await backoff.pause()
    assert pauses[-1] <= BACKOFF_MIN_NS / SECOND


async def test_link_connects_once_for_all_who_ask(cloud: FakeCloud) -> None:
    """Also when they ask at the same time, and again when the connection was lost."""
    link = Link(settings(cloud))
    clients = await asyncio.gather(*(link.client() for _ in range(10)))
    assert len(set(map(id, clients))) == 1
    assert cloud.connections_made == 1
    assert link.connected
    cloud.cut()
    await eventually(lambda: not link.connected)
    await asyncio.gather(*(link.client() for _ in range(10)))
    assert cloud.connections_made == 2
    await link.close()
    assert not link.connected


async def test_link_says_why_it_can_not_connect(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stops saying so when it can."""
    monkeypatch.setattr(link_module, "BACKOFF_MIN_NS", 1_000_000)
    await cloud.stop()
    link = Link(settings(cloud))
    waiting = asyncio.ensure_future(link.client())
    await eventually(lambda: bool(link.last_error))
    assert "can't be reached" in link.last_error
    await cloud.start()
    await waiting
    assert link.last_error == ""
    await link.close()


async def test_token_is_read_for_each_connection(cloud: FakeCloud, tmp_path: Path) -> None:
    """A new token takes effect without a restart; one that can't be read is said by its file's name."""
    token = tmp_path / "token"
    with pytest.raises(ReplicationError, match=str(token)):
        await connect(settings(cloud, token_file=str(token)))
    for text in ("first\n", "second"):
        token.write_text(text)
        await (await connect(settings(cloud, token_file=str(token)))).close()
    assert cloud.tokens == [b"first", b"second"]


async def test_doctor_finds_what_the_protocol_shows(cloud: FakeCloud) -> None:
    """Without the administration's address it says what it can't know, and leaves nothing behind."""
    rows = {row["check"]: row for row in await examine(settings(cloud), [TOPIC])}
    assert {check: row["ok"] for check, row in rows.items()} == {
        "reachable": True,
        "namespace": None,
        "right to produce": True,
        "right to consume": True,
    }
    assert not cloud.producers
    cloud.may_consume = False
    rows = {row["check"]: row for row in await examine(settings(cloud), [TOPIC])}
    assert rows["right to consume"]["ok"] is False
    assert rows["right to consume"]["fix"]


async def test_doctor_names_partitions_that_the_cloud_lacks(cloud: FakeCloud) -> None:
    """With the command that makes them. The partitioned topic's own name is not tried: that would make a topic of
    it."""
    topics = [TOPIC, f"{TOPIC}-partition-0", f"{TOPIC}-partition-2"]
    rows = {row["check"]: row for row in await examine(settings(cloud), topics)}
    row = rows[f"partitions of {TOPIC}"]
    assert row["ok"] is False
    assert row["fix"] == f"pulsar-admin topics create-partitioned-topic {TOPIC} -p 3"
    assert rows["right to produce"]["finding"] == f"{TOPIC}-partition-0"


async def test_doctor_says_that_the_cloud_is_away(cloud: FakeCloud) -> None:
    """Then it has nothing else to say."""
    await cloud.stop()
    (row,) = await examine(settings(cloud), [TOPIC])
    assert (row["check"], row["ok"]) == ("reachable", False)
    await cloud.start()
