"""What goes wrong with sensors, each under a name. Pure: the same seed, the same faults at the same readings.

| name | what is reported |
|---|---|
| spikes | single values 20 to 60 degrees off |
| stuck | the same value for 20 to 60 readings |
| dropout | nothing for 5 to 30 readings |
| clock_wrong | for 10 to 40 readings a time that counts from 1970, as after a start without network |
| duplicate | the same reading twice |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

from firmware_sim.reading import Reading


class Fault(ABC):
    """One way to fail: begins by chance and lasts for some readings."""

    name: ClassVar[str]
    probability: ClassVar[float]
    """Of beginning at a reading while it is not under way."""
    duration: ClassVar[tuple[int, int]] = (1, 1)
    """Least and greatest number of readings that it lasts."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._left = 0

    def apply(self, reading: Reading) -> list[Reading]:
        """What is sent instead of a reading."""
        if self._left == 0:
            if self._random.random() >= self.probability:
                return [reading]
            self._left = self._random.randint(*self.duration)
            self.begin(reading)
        self._left -= 1
        return self.change(replace(reading, faults=(*reading.faults, self.name)))

    def begin(self, reading: Reading) -> None:  # noqa: B027 - most faults need nothing of it
        """Note what is needed of the reading at which the fault begins."""

    @abstractmethod
    def change(self, reading: Reading) -> list[Reading]:
        """What is sent instead of a reading, while the fault is under way."""


class Spikes(Fault):
    name = "spikes"
    probability = 0.01

    def change(self, reading: Reading) -> list[Reading]:
        offset = self._random.choice((-1, 1)) * self._random.uniform(20.0, 60.0)
        return [replace(reading, celsius=round(reading.celsius + offset, 2))]


class Stuck(Fault):
    name = "stuck"
    probability = 0.005
    duration = (20, 60)
    _celsius = 0.0

    def begin(self, reading: Reading) -> None:
        self._celsius = reading.celsius

    def change(self, reading: Reading) -> list[Reading]:
        return [replace(reading, celsius=self._celsius)]


class Dropout(Fault):
    name = "dropout"
    probability = 0.005
    duration = (5, 30)

    def change(self, reading: Reading) -> list[Reading]:
        return []


class ClockWrong(Fault):
    name = "clock_wrong"
    probability = 0.005
    duration = (10, 40)
    _start_ms = 0

    def begin(self, reading: Reading) -> None:
        self._start_ms = reading.time_ms

    def change(self, reading: Reading) -> list[Reading]:
        return [replace(reading, time_ms=reading.time_ms - self._start_ms)]


class Duplicate(Fault):
    name = "duplicate"
    probability = 0.02

    def change(self, reading: Reading) -> list[Reading]:
        return [reading, reading]


# In the order in which they act: a value is made wrong before its time is, and what is dropped is not doubled.
_CLASSES: tuple[type[Fault], ...] = (Spikes, Stuck, ClockWrong, Dropout, Duplicate)
FAULTS = tuple(kind.name for kind in _CLASSES)
"""All names."""


def make_faults(names: Iterable[str], seed: str) -> list[Fault]:
    """The faults of these names, each with a generator of its own. Raises: ValueError for an unknown name."""
    wanted = set(names)
    if unknown := wanted.difference(FAULTS):
        raise ValueError(f"unknown fault '{sorted(unknown)[0]}': choose from {', '.join(FAULTS)}")
    return [kind(Random(f"{seed}/{kind.name}")) for kind in _CLASSES if kind.name in wanted]


def apply_faults(readings: Iterable[Reading], faults: Sequence[Fault]) -> Iterator[list[Reading]]:
    """What is sent for each reading; what is sent is numbered anew, duplicates alike."""
    sequence = 0
    for reading in readings:
        sent = [reading]
        for fault in faults:
            sent = [changed for one in sent for changed in fault.apply(one)]
        yield [replace(one, sequence=sequence) for one in sent]
        sequence += bool(sent)
