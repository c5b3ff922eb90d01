"""Readings that a real device recorded, sent again: a CSV with the header `timestamp,value`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from firmware_sim.reading import EPOCH, Reading


class ReplayDevice:
    """A device that reports what a file holds, row by row, in the file's order and with its times."""

    def __init__(self, path: Path, *, name: str = "replay", topic: str = "replay/{device}/temp") -> None:
        """Raises: OSError, and ValueError if the file does not begin with the header."""
        self.name = name
        self.topic = topic.replace("{device}", name)
        self._path = path
        next(iter(self.readings()), None)

    def readings(self) -> Iterator[list[Reading]]:
        """Raises: ValueError with the line that can't be read."""
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows, None) != ["timestamp", "value"]:
                raise ValueError(f"{self._path} does not begin with the line 'timestamp,value'")
            for sequence, row in enumerate(rows):
                try:
                    timestamp, value = row
                    reading = Reading(sequence, _milliseconds(timestamp), float(value))
                except ValueError as error:
                    raise ValueError(f"{self._path}:{rows.line_num}: not a timestamp and a number: {row}") from error
                yield [reading]


def _milliseconds(timestamp: str) -> int:
    time = datetime.fromisoformat(timestamp)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round((time - EPOCH).total_seconds() * 1000)
