"""One ledger on its way to the cloud: everything arrives once and in order, whatever the two sides have forgotten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.client.api import Commit, StateChange
from gateway.replication import sender
from gateway.replication.progress import PERSIST_EVERY
from gateway.wire.entry import build_entry, parse_metadata, split_entry
from tests.replication.cloud import FakeCloud
from tests.replication.conftest import TOPIC, Edge


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%06d" % number for number in range(first, last)]


async def test_replicator_sends_every_entry_once_and_in_order(edge: Edge, cloud: FakeCloud) -> None:
    """More than a window, published before and while it runs."""
    await edge.publish(numbers(0, 1_500))
    edge.run()
    await edge.publish(numbers(1_500, 2_500))
    await edge.replicated(2_499)
    assert cloud.payloads(TOPIC) == numbers(0, 2_500)
    assert cloud.received == 2_500
    assert edge.status["lag_entries"] == 0
    assert edge.status["confirmed_entries"] == edge.status["sent_entries"] == 2_500
    assert not edge.alarms


async def test_replicator_never_has_more_than_a_window_under_way(edge: Edge, cloud: FakeCloud) -> None:
    """While the cloud confirms nothing, no more than 1,000 entries are sent."""
    cloud.hold_receipts = True
    await edge.publish(numbers(0, 3_000))
    edge.run()
    await edge.eventually(lambda: cloud.received >= 1_000)
    await edge.publish(numbers(0, 1))
    assert cloud.received == 1_000
    assert edge.status["lag_entries"] == 3_000 or edge.status["topics"][0]["confirmed_entry_id"] == -1


async def test_replicator_marks_entries_with_the_way_they_went(edge: Edge, cloud: FakeCloud) -> None:
    """The device's own metadata survives; name, ids and path stand behind it."""
    await edge.publish([b"x"], properties={"unit": "K"})
    edge.run()
    await edge.replicated(0)
    (stored,) = cloud.topics[TOPIC]
    metadata = parse_metadata(stored.data)
    properties = [(item.key, item.value) for item in metadata.properties]
    incarnation = stored.producer_name.split("/")[2]
    assert properties == [("unit", "K"), ("headwater.path", incarnation)]
    assert stored.producer_name.startswith("headwater/hall-7/")


async def test_replicator_stops_what_has_been_here_before(edge: Edge, cloud: FakeCloud) -> None:
    """An entry that comes back over another way is passed, and the position goes on; a reconnect finds nothing wrong
    with that."""
    await edge.publish([b"first"])
    edge.run()
    await edge.replicated(0)
    incarnation = cloud.topics[TOPIC][0].producer_name.split("/")[2]
    await edge.publish([b"came back"], properties={"headwater.path": incarnation})
    await edge.replicated(1)
    cloud.cut()
    await edge.publish([b"second"])
    await edge.replicated(2)
    assert cloud.payloads(TOPIC) == [b"first", b"second"]
    assert not edge.alarms


async def test_replicator_parks_what_is_too_large_for_the_cloud(edge: Edge, cloud: FakeCloud) -> None:
    """It is never sent, a person is told, and what stands behind it goes on; also after a restart."""
    cloud.message_size_max = 2_000
    await edge.publish([b"small", b"x" * 5_000, b"after"])
    edge.run()
    await edge.replicated(2)
    assert cloud.payloads(TOPIC) == [b"small", b"after"]
    assert "parked" in edge.alarms[0]
    assert edge.status["topics"][0]["parked"] == 1
    await edge.restart()
    edge.run()
    await edge.replicated(2)
    assert edge.status["topics"][0]["parked"] == 1
    assert cloud.received == 2


@pytest.mark.parametrize("stored", [1, 7, 400])
async def test_replicator_sends_again_what_was_stored_and_not_confirmed(
    edge: Edge, cloud: FakeCloud, stored: int
) -> None:
    """The link breaks between storing and confirming: the cloud drops the second copy."""
    cloud.die_after = stored
    await edge.publish(numbers(0, 500))
    edge.run()
    await edge.replicated(499)
    assert cloud.payloads(TOPIC) == numbers(0, 500)
    assert cloud.connections_made > 1
    assert not edge.alarms


async def test_replicator_waits_for_a_cloud_that_is_away(edge: Edge, cloud: FakeCloud) -> None:
    """It says why, connects by itself when the cloud is back, and loses nothing."""
    await cloud.stop()
    await edge.publish(numbers(0, 10))
    edge.run()
    await edge.eventually(lambda: "can't be reached" in edge.status["last_error"])
    assert not edge.status["connected"]
    await cloud.start()
    await edge.replicated(9)
    assert cloud.payloads(TOPIC) == numbers(0, 10)


async def test_replicator_notices_a_lost_link_while_it_is_idle(edge: Edge, cloud: FakeCloud) -> None:
    """It need not wait for the next entry."""
    await edge.publish([b"x"])
    edge.run()
    await edge.replicated(0)
    cloud.cut()
    await edge.eventually(lambda: cloud.connections_made == 2 and edge.status["connected"])


async def test_replicator_goes_on_after_a_restart_where_the_confirmations_ended(edge: Edge, cloud: FakeCloud) -> None:
    """At a clean stop the confirmed id is in the journal: nothing is sent twice."""
    for step in range(3):
        edge.run()
        await edge.publish(numbers(step * 20, step * 20 + 20))
        await edge.replicated(step * 20 + 19)
        await edge.restart()
    edge.run()
    await edge.replicated(59)
    assert cloud.payloads(TOPIC) == numbers(0, 60)
    assert cloud.received == 60


async def test_replicator_writes_the_confirmed_id_for_every_half_window(
    edge: Edge, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting, so that a crash makes it send again at most that much and the window."""
    monkeypatch.setattr(sender, "PERSIST_PAUSE_S", 3_600.0)
    await edge.publish(numbers(0, PERSIST_EVERY - 1))
    edge.run()
    await edge.replicated(PERSIST_EVERY - 2)
    assert edge.topic.progress.persisted == -1
    await edge.publish([b"x"])
    await edge.eventually(lambda: edge.topic.progress.persisted == PERSIST_EVERY - 1)
    kept = await edge.client.load_state("replication/cloud")
    assert kept[f"{edge.topic.ledger_id}/confirmed"] == str(PERSIST_EVERY - 1).encode()


# The two sides disagree


async def test_replicator_finds_its_tail_when_the_cloud_forgot_its_name(edge: Edge, cloud: FakeCloud) -> None:
    """What the journal does not know to be confirmed is found in the cloud's tail and not sent again."""
    edge.run()
    await edge.publish(numbers(0, 50))
    await edge.replicated(49)
    ledger_id = edge.topic.ledger_id
    await edge.restart()
    # As after a crash: the newest confirmations did not reach the journal.
    await edge.client.commit(
        Commit(
            state=[
                StateChange("replication/cloud", f"{ledger_id}/{key}", b"30") for key in ("confirmed", "acknowledged")
            ]
        )
    )
    await edge.restart()
    cloud.forget()
    await edge.publish(numbers(50, 60))
    edge.run()
    await edge.replicated(59)
    assert cloud.payloads(TOPIC) == numbers(0, 60)
    assert not edge.alarms


async def test_replicator_reads_the_whole_topic_where_publish_times_mislead(edge: Edge, cloud: FakeCloud) -> None:
    """Another publisher's clock is years ahead, so that a search by time starts behind our entries."""
    edge.run()
    await edge.publish(numbers(0, 20))
    await edge.replicated(19)
    stored = cloud.topics[TOPIC]
    cloud.topics[TOPIC] = [entry._replace(data=_published_at(entry.data, 1)) for entry in stored]
    cloud.forget()
    cloud.cut()
    await edge.publish(numbers(20, 25))
    await edge.replicated(24)
    assert [entry.sequence_id for entry in cloud.topics[TOPIC]] == list(range(25))
    assert not edge.alarms


async def test_replicator_says_possibly_doubled_where_it_may_not_read(edge: Edge, cloud: FakeCloud) -> None:
    """Without the right to consume nobody can tell: it goes on behind the confirmed id and says so."""
    edge.run()
    await edge.publish(numbers(0, 20))
    await edge.replicated(19)
    cloud.forget()
    cloud.may_consume = False
    cloud.cut()
    await edge.publish(numbers(20, 30))
    await edge.replicated(29)
    assert cloud.payloads(TOPIC) == numbers(0, 30)
    assert "possibly doubled from 20 on" in edge.alarms[0]


async def test_replicator_sends_again_what_the_cloud_lost(edge: Edge, cloud: FakeCloud) -> None:
    """The cloud confirmed entries and came back without them."""
    edge.run()
    await edge.publish(numbers(0, 50))
    await edge.replicated(49)
    cloud.lose(TOPIC, 15)
    cloud.cut()
    await edge.publish(numbers(50, 60))
    await edge.replicated(59)
    assert cloud.payloads(TOPIC) == numbers(0, 60)
    assert "lost entries" in edge.alarms[0]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_replicator_recognises_an_older_copy_of_its_data_directory(
    edge: Edge, cloud: FakeCloud, tmp_path: Path, forgotten: bool
) -> None:
    """New entries get ids that the cloud has seen with other content: they arrive all the same, under a new
    incarnation."""
    edge.run()
    await edge.publish(numbers(0, 50))
    await edge.replicated(49)
    await edge.stop()
    copy = tmp_path / "copy"
    shutil.copytree(edge.folder, copy)
    await edge.start()
    edge.run()
    await edge.publish(numbers(50, 120))
    await edge.replicated(119)
    if forgotten:
        cloud.forget()
    await edge.put_back(copy)
    await edge.publish(numbers(1_000, 1_030))
    # A further start before the cloud is reached must not take these for old ones.
    await edge.restart()
    edge.run()
    await edge.replicated(79)
    assert cloud.payloads(TOPIC) == numbers(0, 120) + numbers(1_000, 1_030)
    assert "older copy" in edge.alarms[0]
    assert len(cloud.names(TOPIC)) == 2
    await edge.restart()
    edge.run()
    await edge.publish(numbers(1_030, 1_040))
    await edge.replicated(89)
    assert cloud.payloads(TOPIC) == numbers(0, 120) + numbers(1_000, 1_040)
    assert len(cloud.names(TOPIC)) == 2


async def test_replicator_recognises_a_topic_that_the_older_copy_never_had(
    edge: Edge, cloud: FakeCloud, tmp_path: Path
) -> None:
    """The ledger id was used by a topic that the copy does not know: not one of the new entries is taken for an old
    one."""
    await edge.stop()
    copy = tmp_path / "copy"
    await edge.start()
    other = TOPIC + "-other"
    await edge.publish([b"other"], topic=other)
    edge.run()
    await edge.replicated(0)
    await edge.stop()
    shutil.copytree(edge.folder, copy)
    await edge.start()
    edge.run()
    await edge.publish(numbers(0, 20))
    await edge.eventually(lambda: len(cloud.topics[TOPIC]) == 20)
    await edge.put_back(copy)
    await cloud.stop()
    edge.run()
    await edge.publish(numbers(100, 110))
    await edge.eventually(lambda: len(edge.status["topics"]) == 2)
    await edge.restart()
    await cloud.start()
    edge.run()
    await edge.eventually(lambda: len(cloud.topics[TOPIC]) == 30)
    assert cloud.payloads(TOPIC) == numbers(0, 20) + numbers(100, 110)


@pytest.mark.parametrize("refused", [0, 5, 99])
async def test_replicator_verifies_what_followed_a_refused_send(edge: Edge, cloud: FakeCloud, refused: int) -> None:
    """The cloud stored later ids and calls the refused one a duplicate: it is found missing and sent in a lane of its
    own."""
    cloud.refuse = {refused}
    await edge.publish(numbers(0, 100))
    edge.run()
    await edge.replicated(99)
    await edge.publish(numbers(100, 110))
    await edge.replicated(109)
    assert sorted(cloud.payloads(TOPIC)) == numbers(0, 110)
    lanes = {
        stored.producer_name.rpartition("/")[2] for stored in cloud.topics[TOPIC] if stored.payload == b"%06d" % refused
    }
    assert lanes == {"repair"}
    assert "sent again" in edge.alarms[0]


async def test_replicator_verifies_a_refused_send_after_a_restart_in_between(edge: Edge, cloud: FakeCloud) -> None:
    """That a send was refused is in the journal before anything else is done about it."""
    cloud.refuse = {5}
    cloud.silent_to_readers = True
    await edge.publish(numbers(0, 100))
    edge.run()
    await edge.eventually(lambda: "tail" in edge.topic.phase if edge.status["topics"] else False)
    await edge.restart()
    cloud.silent_to_readers = False
    edge.run()
    await edge.replicated(99)
    assert sorted(cloud.payloads(TOPIC)) == numbers(0, 100)


async def test_replicator_says_possibly_lost_where_it_may_not_read(edge: Edge, cloud: FakeCloud) -> None:
    """Without the right to consume a refused send can't be verified: a person is told which ids."""
    cloud.refuse = {5}
    cloud.may_consume = False
    await edge.publish(numbers(0, 10))
    edge.run()
    await edge.replicated(9)
    assert any("possibly lost at the cloud: 5 to 9" in alarm for alarm in edge.alarms)


def _published_at(entry: bytes, time_ms: int) -> bytes:
    """The entry with another publish_time (3) appended."""
    metadata, payload = split_entry(entry)
    return build_entry(metadata + b"\x18" + bytes([time_ms]), payload)
