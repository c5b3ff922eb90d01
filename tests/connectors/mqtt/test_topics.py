"""Filters and templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.mqtt.topics import Template, TopicFilter, check_filter
from gateway.errors import ConnectorError


@pytest.mark.parametrize(
    ("text", "topic", "matches"),
    [
        ("boiler/+/temp", "boiler/3/temp", True),
        ("boiler/+/temp", "boiler//temp", True),
        ("boiler/+/temp", "boiler/3/pressure", False),
        ("boiler/+/temp", "boiler/3/temp/raw", False),
        ("boiler/+", "boiler", False),
        ("+", "finance", True),
        ("+", "/finance", False),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/player1/#", "sport/tennis/player2", False),
        ("sport/#", "sport", True),
        ("sport/#", "sports", False),
        ("#", "anything/at/all", True),
        ("#", "$SYS/broker", False),
        ("+/monitor", "$SYS/monitor", False),
        ("$SYS/#", "$SYS/broker", True),
        ("$SYS/+", "$SYS/broker", True),
        ("a/+/c/#", "a/b/c", True),
        ("a/+/c/#", "a/b", False),
        ("Accounts", "ACCOUNTS", False),
    ],
)
def test_filter_matches_as_the_specification_says(text: str, topic: str, matches: bool) -> None:
    """The examples of MQTT 3.1.1, section 4.7, and their neighbours."""
    assert TopicFilter(text).matches(topic) is matches


@pytest.mark.parametrize("text", ["", "a/#/b", "#/a", "a#", "a/b#", "a+", "+a/b", "a/++", "a\0", "x" * 65_536])
def test_filter_refuses_what_is_no_filter(text: str) -> None:
    """A wildcard is a whole level, # is the last one, and a filter has 1 to 65,535 bytes."""
    assert check_filter(text)
    with pytest.raises(ConnectorError):
        TopicFilter(text)


topics = st.lists(st.text(st.characters(exclude_characters="/+#\0$", codec="utf-8"), max_size=3), min_size=1)


@given(topics, st.data())
def test_filter_made_from_a_topic_matches_it(levels: list[str], data: st.DataObject) -> None:
    """Replacing levels by + and a tail by # still matches; a different fixed level does not."""
    topic = "/".join(levels)
    if not topic:
        return
    pattern = [level if data.draw(st.booleans()) else "+" for level in levels]
    assert TopicFilter("/".join(pattern)).matches(topic)
    cut = data.draw(st.integers(0, len(levels)))
    assert TopicFilter("/".join([*pattern[:cut], "#"])).matches(topic)
    changed = data.draw(st.integers(0, len(levels) - 1))
    assert not TopicFilter("/".join([*pattern[:changed], levels[changed] + "x", *pattern[changed + 1 :]])).matches(
        topic
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature", "temperature"),
        ("{level[1]}", "3"),
        ("{level[-1]}.{level[0]}", "temp.boiler"),
        ("{topic}", "boiler.3.temp"),
        ("plant/hall7/{topic}", "plant/hall7/boiler.3.temp"),
        ("t-{device}", "t-line.7"),
        ("{level[3]}", None),
        ("{level[-4]}", None),
    ],
)
def test_template_fills_in_from_topic_and_device(text: str, expected: str | None) -> None:
    """Slashes that are filled in become dots, the template's own stay; a level that is not there yields nothing."""
    assert Template(text, slash=".").expand("boiler/3/temp", "line/7") == expected


def test_template_of_a_key_keeps_slashes() -> None:
    """A key may contain anything."""
    assert Template("{topic}").expand("boiler/3", "d") == "boiler/3"


@pytest.mark.parametrize(
    "text", ["{", "}", "a{b", "{level}", "{level[a]}", "{level[01]}", "{}", "{topik}", "{{topic}}"]
)
def test_template_refuses_what_it_does_not_know(text: str) -> None:
    """A misspelt placeholder is an error, never a literal."""
    with pytest.raises(ConnectorError) as caught:
        Template(text)
    assert "level[" in caught.value.hint
