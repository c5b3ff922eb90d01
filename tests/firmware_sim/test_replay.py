"""Recorded readings come out as they are in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_sim.reading import Reading
from firmware_sim.replay import ReplayDevice


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_replay_reports_each_row_in_order(tmp_path: Path) -> None:
    """Times without a zone are UTC; values keep all their digits; a time may occur twice."""
    path = write(
        tmp_path / "r.csv",
        "timestamp,value\n2013-12-02 21:15:00,73.96732207\n2013-12-02 21:15:00,74\n2013-12-02T22:15:00+01:00,-1e-3\n",
    )
    device = ReplayDevice(path, name="machine", topic="plant/{device}/temp")
    time_ms = 1_386_018_900_000
    expected = [[Reading(0, time_ms, 73.96732207)], [Reading(1, time_ms, 74.0)], [Reading(2, time_ms, -0.001)]]
    assert list(device.readings()) == expected == list(device.readings())
    assert device.topic == "plant/machine/temp"
    assert expected[0][0].payload("machine") == (
        b'{"device":"machine","seq":0,"time":"2013-12-02T21:15:00.000Z","c":73.96732207}'
    )


@pytest.mark.parametrize("text", ["", "time,value\n", "2013-12-02 21:15:00,1\n"])
def test_replay_refuses_a_file_without_its_header(tmp_path: Path, text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="timestamp,value"):
        ReplayDevice(write(tmp_path / "r.csv", text))


@pytest.mark.parametrize("row", ["2013-12-02 21:15:00", "yesterday,1", "2013-12-02 21:15:00,warm", "a,b,c"])
def test_replay_names_the_line_that_it_can_not_read(tmp_path: Path, row: str) -> None:
    """The third line is wrong."""
    device = ReplayDevice(write(tmp_path / "r.csv", f"timestamp,value\n2013-12-02 21:15:00,1\n{row}\n"))
    with pytest.raises(ValueError, match=r"r\.csv:3"):
        list(device.readings())
