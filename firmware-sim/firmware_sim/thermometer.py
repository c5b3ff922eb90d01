"""A thermometer on something that is heated: a body that loses heat to its surroundings, and a thermostat.

    dT/dt = (ambient + gain * heating - T) / time_constant

The step is the equation's exact solution for constant heating, so that the interval between two readings changes
nothing but their number. Ambient temperature follows the day; the sensor adds noise and rounds. Pure: the same seed,
the same readings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from firmware_sim.faults import apply_faults, make_faults
from firmware_sim.reading import Reading

DAY_S = 86_400.0
START_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC, where nothing else is said: readings are the same on any day."""


@dataclass(frozen=True, slots=True)
class Room:
    """The physics of what the thermometer sits on."""

    ambient_celsius: float = 18.0
    """Mean over the day."""
    ambient_swing_celsius: float = 4.0
    """Half of the difference between the warmest and the coldest hour."""
    gain_celsius: float = 90.0
    """How far above ambient full heating would bring the body in the end."""
    time_constant_s: float = 600.0
    """After this time a step is 63 % done. Greater than 0."""
    setpoint_celsius: float = 70.0
    hysteresis_celsius: float = 2.0
    """The heating goes on this much below the set point, and off this much above it."""

    def ambient(self, time_s: float) -> float:
        """Ambient temperature at a time of day: warmest at 15:00."""
        phase = 2.0 * math.pi * (time_s / DAY_S - 15.0 / 24.0)
        return self.ambient_celsius + self.ambient_swing_celsius * math.cos(phase)

    def step(self, celsius: float, *, heating: bool, ambient: float, step_s: float) -> float:
        """Temperature after `step_s` seconds of constant heating and ambient temperature."""
        target = ambient + (self.gain_celsius if heating else 0.0)
        return target + (celsius - target) * math.exp(-step_s / self.time_constant_s)

    def thermostat(self, celsius: float, *, heating: bool) -> bool:
        """Whether the heating is on from now on."""
        if celsius <= self.setpoint_celsius - self.hysteresis_celsius:
            return True
        if celsius >= self.setpoint_celsius + self.hysteresis_celsius:
            return False
        return heating


class Thermometer:
    """The body, its heating and the sensor, moved on step by step."""

    def __init__(self, room: Room, random: Random, *, noise_celsius: float = 0.05, start_s: float = 0.0) -> None:
        self.room = room
        self.time_s = start_s
        """Seconds since 1970 of the simulated world."""
        self.heating = True
        self.celsius = room.ambient(start_s)
        """What the body really has; the sensor adds its noise."""
        self._random = random
        self._noise_celsius = noise_celsius

    def advance(self, step_s: float) -> None:
        """Let time pass."""
        ambient = self.room.ambient(self.time_s)
        self.celsius = self.room.step(self.celsius, heating=self.heating, ambient=ambient, step_s=step_s)
        self.heating = self.room.thermostat(self.celsius, heating=self.heating)
        self.time_s += step_s

    def measure(self) -> float:
        """What the sensor shows: hundredths of a degree."""
        return round(self.celsius + self._random.gauss(0.0, self._noise_celsius), 2)


class ThermometerDevice:
    """A device that reports a thermometer's readings, faults included."""

    def __init__(
        self,
        name: str,
        topic: str,
        *,
        seed: int | str = 0,
        faults: Iterable[str] = (),
        step_s: float = 1.0,
        start_ms: int = START_MS,
        room: Room | None = None,
    ) -> None:
        """`step_s` is simulated time between two readings. Raises: ValueError for an unknown fault or a step of 0."""
        if not step_s > 0:
            raise ValueError("the step between two readings must be greater than 0 s")
        self.name = name
        self.topic = topic
        self._seed = f"{seed}/{name}"
        self._faults = tuple(faults)
        self._step_s = step_s
        self._start_ms = start_ms
        self._room = room or Room()
        make_faults(self._faults, self._seed)

    def readings(self) -> Iterator[list[Reading]]:
        return apply_faults(self._measurements(), make_faults(self._faults, self._seed))

    def _measurements(self) -> Iterator[Reading]:
        # The faults draw from generators of their own, so that they change what is reported and never the physics.
        thermometer = Thermometer(self._room, Random(f"{self._seed}/sensor"), start_s=self._start_ms / 1000)
        count = 0
        while True:
            time_ms = self._start_ms + round(count * self._step_s * 1000)
            yield Reading(count, time_ms, thermometer.measure())
            thermometer.advance(self._step_s)
            count += 1
