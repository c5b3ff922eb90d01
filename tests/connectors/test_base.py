"""Connectors are found by the names under which they are registered."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from connectors.base import ENTRY_POINT_GROUP, Connector, SourceReport

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
REGISTERED = PROJECT["project"]["entry-points"][ENTRY_POINT_GROUP]


@pytest.mark.parametrize("name", REGISTERED)
def test_connector_is_registered_under_its_kind(name: str) -> None:
    """The entry point's name is what a user writes as `type`, and its model accepts exactly that type."""
    connector = EntryPoint(name, REGISTERED[name], ENTRY_POINT_GROUP).load()
    assert isinstance(connector, Connector)
    assert connector.kind == name
    schema = connector.settings_model().model_json_schema()
    assert schema["properties"]["type"]["const"] == name
    assert schema["additionalProperties"] is False


def test_report_makes_a_sensors_counts_once() -> None:
    """Whoever asks for a sensor gets the same object."""
    report = SourceReport()
    assert report.sensor("a") is report.sensor("a")
    assert list(report.sensors) == ["a"]
