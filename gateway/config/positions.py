"""YAML with the place of everything: plain data, and where each key and value stands. Pure.

Read as YAML 1.2's core schema, because 1.1 makes surprises of ordinary words (`yes` becomes true, `1:30` becomes 90).
Two keys of one name are refused, because one would be lost silently, and aliases, because they can be a circle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.errors import ConfigError, ConfigMistake

TreePath = tuple[str | int, ...]
"""Keys and list indexes from the top of the file."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
NUMBER_LENGTH_MAX = 100
"""Longer ones nobody means as a number, and Python refuses to read thousands of digits: they stay text."""
DEPTH_MAX = 50
"""Levels of mappings and lists; the design's file has four."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the file, counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """A file's content and the places of it."""

    file: str
    data: Any = None
    values: dict[TreePath, Place] = field(default_factory=dict)
    """Where each value begins."""
    keys: dict[TreePath, Place] = field(default_factory=dict)
    """Where each key begins, by the path of its value."""

    def place(self, path: TreePath, *, of_key: bool = False) -> Place:
        """The place of a path; of the nearest one above it that stands in the file, if it does not."""
        while path:
            if of_key and path in self.keys:
                return self.keys[path]
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return self.values.get((), Place(1, 1))

    def mistake(self, path: TreePath, message: str, *, hint: str = "", of_key: bool = False) -> ConfigMistake:
        """A mistake at a path."""
        place = self.place(path, of_key=of_key)
        return ConfigMistake(message, self.file, place.line, place.column, hint)


def parse_document(text: str, file: str) -> Document:
    """Read YAML. Raises: ConfigError."""
    document = Document(file)
    try:
        if mistakes := _refused_events(text, file):
            raise ConfigError(mistakes)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise ConfigError([ConfigMistake(f"not YAML: {error.problem}", file, line, column)]) from error
    except yaml.YAMLError as error:
        # A character that YAML does not allow at all. Its position counts bytes.
        before = text.encode()[: getattr(error, "position", 0)].decode(errors="ignore")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"not YAML: {str(error).splitlines()[0]}"
        raise ConfigError([ConfigMistake(message, file, place.line, place.column)]) from error
    if node is None:
        raise ConfigError(
            [ConfigMistake("the file is empty", file, 0, 0, "the least is gateway: {id: …, data_dir: …}")]
        )
    document.data = _read(node, (), document, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return document


def _refused_events(text: str, file: str) -> list[ConfigMistake]:
    """What must not reach `compose`: circles, types of other programs, and a depth at which recursion would end."""
    mistakes = []
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        refusal = None
        if isinstance(event, yaml.AliasEvent):
            refusal = ("aliases (*name) are not read here", "write the value out")
        elif (tag := getattr(event, "tag", None)) is not None:
            refusal = (f"types ({tag}) are not read here", "write the value alone; text can stand in quotes")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            refusal = (f"nested more than {DEPTH_MAX} levels deep", "")
        if refusal is not None:
            mark: Any = event.start_mark
            mistakes.append(ConfigMistake(refusal[0], file, mark.line + 1, mark.column + 1, refusal[1]))
            if depth > DEPTH_MAX:
                break
    return mistakes


def _read(node: yaml.Node, path: TreePath, document: Document, mistakes: list[ConfigMistake]) -> Any:
    document.values[path] = _place(node)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_read(item, (*path, index), document, mistakes) for index, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key_place = _place(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            mistakes.append(ConfigMistake("a key must be a word", document.file, key_place.line, key_place.column))
            continue
        key = key_node.value
        if key in result:
            first = document.keys[(*path, key)]
            mistakes.append(
                ConfigMistake(
                    f"'{key}' stands here twice",
                    document.file,
                    key_place.line,
                    key_place.column,
                    f"it is set in line {first.line} already",
                )
            )
            continue
        document.keys[(*path, key)] = key_place
        result[key] = _read(value_node, (*path, key), document, mistakes)
    return result


def _place(node: Any) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.style in ("'", '"', "|", ">") or len(text) > NUMBER_LENGTH_MAX:
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
