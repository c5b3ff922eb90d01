"""MQTT topics: the filters that sensors subscribe with, and templates that make a log topic and a key of an MQTT topic.

Pure. It never opens a topic and never looks into a payload.

    subscribe: boiler/+/temp        + is one level, # the rest; $SYS/… is never matched by a wildcard
    topic:     temperature          {topic} {level[N]} {device} are replaced; N counts from 0, from the end if negative
    key:       "{level[1]}"

In `topic:` a slash that a placeholder brings in becomes a dot, because a log topic's own name can't contain one; the
slashes of the template itself separate tenant, namespace and name.

Source: MQTT 3.1.1, section 4.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.errors import ConnectorError

TOPIC_LENGTH_MAX = 65_535
"""UTF-8 bytes of an MQTT topic or filter. Source: MQTT 3.1.1, section 1.5.3."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_LEVEL = re.compile(r"level\[(0|-?[1-9][0-9]{0,4})\]")


def check_filter(text: str) -> str:
    """Say what is wrong with an MQTT topic filter; empty if nothing is."""
    if not text:
        return "a topic filter can't be empty"
    if "\0" in text or len(text.encode("utf-8", "surrogatepass")) > TOPIC_LENGTH_MAX:
        return "a topic filter can't contain U+0000 and has at most 65,535 bytes"
    levels = text.split("/")
    for index, level in enumerate(levels):
        if level == "#" and index < len(levels) - 1:
            return f"'#' stands for all remaining levels and must be the last one in '{text[:80]}'"
        if level not in ("#", "+") and ("#" in level or "+" in level):
            return f"'+' and '#' must be a whole level in '{text[:80]}'"
    return ""


class TopicFilter:
    """One compiled topic filter."""

    def __init__(self, text: str) -> None:
        """Compile. Raises: ConnectorError."""
        if reason := check_filter(text):
            raise ConnectorError(reason, hint="write a filter such as boiler/+/temp or hall/#")
        self.text = text
        levels = text.split("/")
        self._rest = levels[-1] == "#"
        self._levels = tuple(levels[:-1] if self._rest else levels)
        # An implementation's own topics ($SYS) are not sensors' topics: MQTT-4.7.2-1.
        self._hides_dollar = levels[0] in ("#", "+")

    def matches(self, topic: str) -> bool:
        """Tell whether a topic name (no wildcards) is one that this filter subscribes to."""
        if self._hides_dollar and topic.startswith("$"):
            return False
        levels = topic.split("/")
        wanted = self._levels
        # `a/#` includes its parent `a`: MQTT 3.1.1, section 4.7.1.2.
        if len(levels) != len(wanted) and not (self._rest and len(levels) > len(wanted)):
            return False
        return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


class Template:
    """A text with placeholders that are filled from an MQTT topic and the device that publishes to it."""

    def __init__(self, text: str, *, slash: str = "/") -> None:
        """Compile; `slash` replaces the slashes of what is filled in. Raises: ConnectorError."""
        self.text = text
        self._pieces: list[str | Callable[[str, str], str]] = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            self._literal(text[end : match.start()])
            self._pieces.append(_placeholder(match[1], text, slash))
            end = match.end()
        self._literal(text[end:])

    def _literal(self, piece: str) -> None:
        if "{" in piece or "}" in piece:
            raise ConnectorError(f"'{self.text}' has an unpaired brace", hint=_HINT)
        if piece:
            self._pieces.append(piece)

    @property
    def constant(self) -> bool:
        """Whether nothing is filled in."""
        return all(isinstance(piece, str) for piece in self._pieces)

    def expand(self, topic: str, device: str) -> str | None:
        """Fill in. None: the topic lacks a level that is asked for."""
        try:
            return "".join(piece if isinstance(piece, str) else piece(topic, device) for piece in self._pieces)
        except IndexError:
            return None


_HINT = "placeholders are {topic}, {device} and {level[0]}, {level[1]}, … (from the end: {level[-1]})"


def _placeholder(name: str, text: str, slash: str) -> Callable[[str, str], str]:
    if name == "topic":
        return lambda topic, device: topic.replace("/", slash)
    if name == "device":
        return lambda topic, device: device.replace("/", slash)
    match = _LEVEL.fullmatch(name)
    if match is None:
        raise ConnectorError(f"'{text}' has the unknown placeholder {{{name}}}", hint=_HINT)
    index = int(match[1])
    return lambda topic, device: topic.split("/")[index]
