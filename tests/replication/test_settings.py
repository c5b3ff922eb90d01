"""Names and templates: every topic gets a remote name of its own, every ledger a producer's name for ever."""

from __future__ import annotations

import pytest

from gateway.names import TopicName
from gateway.replication.names import REPAIR_LANE, producer_name
from gateway.replication.settings import ReplicationSettings, fill_template, keeps_topics_apart

NAME = TopicName.parse("persistent://plant/hall7/boiler.temp-partition-2")


def test_template_is_filled_from_the_topic() -> None:
    """All four placeholders; the partition stays in the topic's own name."""
    template = "persistent://{tenant}/{namespace}/{gateway.id}.{topic}"
    assert fill_template(template, NAME, "hall-7") == "persistent://plant/hall7/hall-7.boiler.temp-partition-2"


def test_without_a_template_the_name_stays() -> None:
    settings = ReplicationSettings("cloud", "hall-7", "pulsar://cloud:6650", ("plant/hall7",))
    assert settings.remote_topic(NAME) == str(NAME)


def test_template_refuses_unknown_placeholders() -> None:
    """With those that exist."""
    with pytest.raises(ValueError, match=r"\{gateway.id\}"):
        fill_template("persistent://plant/{gateway}/{topic}", NAME, "hall-7")


@pytest.mark.parametrize(
    ("template", "namespaces", "apart"),
    [
        ("", ("a/b", "c/d"), True),
        ("persistent://plant/{gateway.id}/{topic}", ("plant/hall7",), True),
        ("persistent://plant/{gateway.id}/{topic}", ("plant/hall7", "plant/hall8"), False),
        ("persistent://plant/{namespace}/{topic}", ("plant/hall7", "plant/hall8"), True),
        ("persistent://plant/{namespace}/{topic}", ("plant/hall7", "other/hall7"), False),
        ("persistent://{tenant}/{namespace}/all", ("plant/hall7",), False),
    ],
)
def test_template_is_known_to_keep_topics_apart(template: str, namespaces: tuple[str, ...], apart: bool) -> None:
    """Two ledgers in one remote topic would be fine for deduplication, but not for whoever reads it."""
    assert keeps_topics_apart(template, namespaces, "hall-7") is apart


def test_producer_name_tells_ledgers_incarnations_and_lanes_apart() -> None:
    """A remade topic counts from 0 again, and so must not meet its predecessor's ids."""
    names = {
        producer_name("hall-7", incarnation, ledger_id, lane)
        for incarnation in ("a1", "b2")
        for ledger_id in (1, 11)
        for lane in ("", REPAIR_LANE)
    }
    assert len(names) == 8
    assert "headwater/hall-7/a1/11/repair" in names
    assert not any(name.startswith("pulsar.repl") for name in names)
