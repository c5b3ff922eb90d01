"""Every node of a YAML file has its place; what would surprise is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.positions import DEPTH_MAX, Place, parse_document
from gateway.errors import ConfigError, ConfigMistake


def _mistakes(text: str) -> list[ConfigMistake]:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "f.yaml")
    return caught.value.mistakes


def test_parser_knows_line_and_column_of_every_key_and_value() -> None:
    """A place counts lines and columns from 1, in block and in flow style."""
    document = parse_document("a: {b: [1, two]}\nlonger:\n  - c\n  - d: 5s\n", "f.yaml")
    assert document.data == {"a": {"b": [1, "two"]}, "longer": ["c", {"d": "5s"}]}
    assert document.place(("a", "b", 1)) == Place(1, 12)
    assert document.place(("a", "b"), of_key=True) == Place(1, 5)
    assert document.place(("longer", 1, "d")) == Place(4, 8)


def test_parser_falls_back_to_the_parent_for_what_is_missing() -> None:
    """A key that is not in the file is blamed on the mapping that lacks it."""
    document = parse_document("a:\n  b: {c: 1}\n", "f.yaml")
    assert document.place(("a", "b", "missing", "deeper")) == document.place(("a", "b")) == Place(2, 6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("0123", 123),
        ("2026-11-24", "2026-11-24"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'5'", "5"),
        ('"true"', "true"),
        ("250ms", "250ms"),
        ("0x1F", "0x1F"),
        ("9" * 5_000, "9" * 5_000),
    ],
)
def test_parser_reads_scalars_as_yaml_1_2_does(text: str, value: object) -> None:
    """No word of ordinary language turns into something else, and what stands in quotes is text."""
    read = parse_document(f"a: {text}\n", "f.yaml").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_parser_refuses_a_key_that_stands_twice() -> None:
    """The second of two equal keys is refused with the line of the first, at any depth."""
    assert _mistakes("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 4\n") == [
        ConfigMistake("'c' stands here twice", "f.yaml", 5, 3, "it is set in line 3 already"),
        ConfigMistake("'a' stands here twice", "f.yaml", 6, 1, "it is set in line 1 already"),
    ]


def test_parser_refuses_aliases_at_their_place() -> None:
    """An alias could close a circle; the place named is the alias's, not the anchor's."""
    (mistake,) = _mistakes("a: &x [1]\nb: *x\n")
    assert (mistake.line, mistake.column) == (2, 4)
    assert "alias" in mistake.message


def test_parser_refuses_types_of_other_programs() -> None:
    """A tag never makes an object, and is not quietly ignored either."""
    (mistake,) = _mistakes("a: 1\nb: !!python/object/apply:os.system [x]\n")
    assert (mistake.line, mistake.column) == (2, 4)


def test_parser_survives_deep_nesting() -> None:
    """A file of brackets is refused where it gets too deep, not by exhausting the stack."""
    (mistake,) = _mistakes("a: " + "[" * 100_000)
    assert mistake.column == 3 + DEPTH_MAX
    assert "levels deep" in mistake.message


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: [1, 2\nb: 3\n", 2, 2),
        ("a: 1\n b: 2\n", 2, 3),
        ("a: {b: 1, c\n", 2, 1),
        ("a: 'open\n", 2, 1),
        ("\ta: 1\n", 1, 1),
        ("a: 1\n---\nb: 2\n", 2, 1),
        ("a: 1\nb: é\x00", 2, 5),
    ],
)
def test_parser_names_the_place_of_broken_yaml(text: str, line: int, column: int) -> None:
    """What is no YAML at all is one mistake, with the place where reading stopped."""
    (mistake,) = _mistakes(text)
    assert (mistake.line, mistake.column) == (line, column)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_parser_refuses_a_file_without_content(text: str) -> None:
    """An empty file is a mistake and not an empty configuration."""
    assert _mistakes(text)


@given(st.text(max_size=200))
def test_parser_answers_any_text_with_a_document_or_mistakes(text: str) -> None:
    """Whatever is in the file, the only exception is ConfigError."""
    with contextlib.suppress(ConfigError):
        assert parse_document(text, "f.yaml").values
