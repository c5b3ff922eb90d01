"""The simulated physics has the properties of the real one."""

from __future__ import annotations

import json
import math
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.reading import Reading
from firmware_sim.thermometer import DAY_S, Room, Thermometer, ThermometerDevice

temperatures = st.floats(-50, 150)
seconds = st.floats(0.001, 10_000)


def values(device: ThermometerDevice, count: int) -> list[Reading]:
    return [reading for readings in islice(device.readings(), count) for reading in readings]


def test_body_does_63_percent_of_a_step_in_one_time_constant() -> None:
    """The definition of the time constant."""
    room = Room(gain_celsius=100.0, time_constant_s=300.0)
    assert room.step(20.0, heating=True, ambient=20.0, step_s=300.0) == pytest.approx(20 + 100 * (1 - 1 / math.e))


@given(temperatures, st.booleans(), temperatures, seconds, seconds)
def test_body_does_not_care_how_time_is_cut(
    celsius: float, heating: bool, ambient: float, first_s: float, second_s: float
) -> None:
    """Two steps equal one of their sum: the interval between readings changes nothing but their number."""
    room = Room()
    halfway = room.step(celsius, heating=heating, ambient=ambient, step_s=first_s)
    twice = room.step(halfway, heating=heating, ambient=ambient, step_s=second_s)
    assert twice == pytest.approx(
        room.step(celsius, heating=heating, ambient=ambient, step_s=first_s + second_s), abs=1e-6
    )


@given(temperatures, st.booleans(), temperatures, seconds)
def test_body_approaches_its_target_and_never_passes_it(
    celsius: float, heating: bool, ambient: float, step_s: float
) -> None:
    """Heat flows one way: first-order systems don't overshoot."""
    room = Room()
    target = ambient + (room.gain_celsius if heating else 0.0)
    after = room.step(celsius, heating=heating, ambient=ambient, step_s=step_s)
    assert min(celsius, target) - 1e-9 <= after <= max(celsius, target) + 1e-9


def test_ambient_is_warmest_in_the_afternoon_and_repeats_daily() -> None:
    """A day has one warmest and one coldest hour, twelve hours apart."""
    room = Room(ambient_celsius=10.0, ambient_swing_celsius=5.0)
    assert room.ambient(15 * 3600) == pytest.approx(15.0)
    assert room.ambient(3 * 3600) == pytest.approx(5.0)
    assert room.ambient(3 * 3600 + 100 * DAY_S) == pytest.approx(5.0)


def test_thermostat_keeps_the_body_near_its_set_point() -> None:
    """After warming up the temperature swings between the two limits, past them by one step at most, for two days."""
    room = Room()
    thermometer = Thermometer(room, Random(1), noise_celsius=0.0)
    for _ in range(3_600):
        thermometer.advance(1.0)
    seen = []
    switches = 0
    for _ in range(2 * int(DAY_S)):
        heating = thermometer.heating
        thermometer.advance(1.0)
        switches += thermometer.heating != heating
        seen.append(thermometer.celsius)
    assert room.setpoint_celsius - room.hysteresis_celsius - 0.2 < min(seen) < room.setpoint_celsius
    assert room.setpoint_celsius < max(seen) < room.setpoint_celsius + room.hysteresis_celsius + 0.2
    assert switches > 100


def test_sensor_noise_has_the_spread_that_is_asked_for() -> None:
    """The noise is around the true value, and as wide as it should be."""
    thermometer = Thermometer(Room(), Random(7), noise_celsius=0.5)
    errors = [thermometer.measure() - thermometer.celsius for _ in range(5_000)]
    mean = sum(errors) / len(errors)
    assert abs(mean) < 0.03
    assert math.sqrt(sum((error - mean) ** 2 for error in errors) / len(errors)) == pytest.approx(0.5, rel=0.05)


def test_device_is_the_same_for_the_same_seed_only() -> None:
    """Runs can be repeated; devices of one seed still differ by their names."""
    device = ThermometerDevice("a", "t", seed=1, faults=["spikes", "dropout"])
    again = ThermometerDevice("a", "t", seed=1, faults=["spikes", "dropout"])
    assert values(device, 2_000) == values(again, 2_000) == values(device, 2_000)
    assert values(device, 100) != values(ThermometerDevice("a", "t", seed=2, faults=["spikes", "dropout"]), 100)
    assert values(device, 100) != values(ThermometerDevice("b", "t", seed=1, faults=["spikes", "dropout"]), 100)


def test_device_numbers_and_times_its_readings() -> None:
    """Without faults there is one reading for each interval, numbered from 0, timed from the start."""
    readings = values(ThermometerDevice("a", "t", step_s=0.25, start_ms=1_000), 9)
    assert [reading.sequence for reading in readings] == list(range(9))
    assert [reading.time_ms for reading in readings] == [1_000 + 250 * index for index in range(9)]


def test_reading_is_one_line_of_json() -> None:
    """What a device sends can be read by anyone, and kept as a line of a file."""
    payload = Reading(7, 1_767_225_600_250, 71.5).payload('a"b\n')
    assert b"\n" not in payload
    assert json.loads(payload) == {"device": 'a"b\n', "seq": 7, "time": "2026-01-01T00:00:00.250Z", "c": 71.5}


def test_device_refuses_a_step_of_nothing() -> None:
    """Time has to pass."""
    with pytest.raises(ValueError, match="greater than 0"):
        ThermometerDevice("a", "t", step_s=0)
