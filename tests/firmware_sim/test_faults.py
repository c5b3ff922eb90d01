"""Each named fault does what its name says, and nothing else."""

from __future__ import annotations

from itertools import islice

import pytest

from firmware_sim.faults import FAULTS
from firmware_sim.reading import Reading
from firmware_sim.thermometer import START_MS, ThermometerDevice

COUNT = 20_000


def run(*faults: str) -> list[list[Reading]]:
    return list(islice(ThermometerDevice("d", "t", seed=3, faults=faults).readings(), COUNT))


@pytest.fixture(scope="module")
def truth() -> list[Reading]:
    """What the device would report if it were sound."""
    return [reading for readings in run() for reading in readings]


def spans(sent: list[list[Reading]], name: str) -> list[int]:
    """Lengths of the times during which a fault shaped readings (or, for dropouts, left none)."""
    lengths, current = [], 0
    for readings in sent:
        if (name == "dropout" and not readings) or any(name in reading.faults for reading in readings):
            current += 1
        elif current:
            lengths.append(current)
            current = 0
    return lengths


@pytest.mark.parametrize("name", FAULTS)
def test_fault_leaves_other_readings_alone(truth: list[Reading], name: str) -> None:
    """A fault changes what is reported while it lasts; the physics goes on underneath."""
    sound = 0
    for true, readings in zip(truth, run(name), strict=True):
        for reading in readings:
            if not reading.faults:
                assert (reading.time_ms, reading.celsius) == (true.time_ms, true.celsius)
                sound += 1
    assert COUNT // 2 < sound < COUNT


def test_spikes_are_single_and_far_off(truth: list[Reading]) -> None:
    """20 to 60 degrees either way."""
    offsets = [r.celsius - true.celsius for true, (r,) in zip(truth, run("spikes"), strict=True) if r.faults]
    assert len(offsets) == pytest.approx(COUNT * 0.01, rel=0.3)
    assert all(19.9 <= abs(offset) <= 60.1 for offset in offsets)
    assert min(offsets) < 0 < max(offsets)


def test_stuck_repeats_one_value() -> None:
    """For 20 to 60 readings, while time goes on."""
    sent = run("stuck")
    lengths = spans(sent, "stuck")
    assert min(lengths) >= 20
    held = [reading.celsius for (reading,) in sent if reading.faults]
    # Two spans may touch, so that a span seen from outside may hold two values.
    assert len(set(held)) <= 2 * len(lengths) < len(held) // 5
    times = [reading.time_ms for (reading,) in sent]
    assert times == sorted(set(times))


def test_dropout_sends_nothing_and_numbers_what_it_sends() -> None:
    """A dropout is a gap in time and none in the numbers: nothing was lost on the way."""
    sent = run("dropout")
    assert 5 <= min(spans(sent, "dropout")) <= 30
    readings = [reading for some in sent for reading in some]
    assert [reading.sequence for reading in readings] == list(range(len(readings)))
    assert len(readings) < COUNT


def test_clock_wrong_counts_from_1970() -> None:
    """As after a start without network; the value is sound."""
    wrong = [reading for (reading,) in run("clock_wrong") if reading.faults]
    assert wrong
    assert all(0 <= reading.time_ms <= 40_000 for reading in wrong)
    right = [reading for (reading,) in run("clock_wrong") if not reading.faults]
    assert all(reading.time_ms >= START_MS for reading in right)


def test_duplicate_sends_the_same_reading_twice() -> None:
    """Same number, same time, same value."""
    doubles = [readings for readings in run("duplicate") if len(readings) != 1]
    assert len(doubles) == pytest.approx(COUNT * 0.02, rel=0.3)
    assert all(len(readings) == 2 and readings[0] == readings[1] for readings in doubles)


def test_faults_can_be_combined() -> None:
    """All at once: everything still happens, and numbers have no gaps."""
    sent = run(*FAULTS)
    seen = {name for readings in sent for reading in readings for name in reading.faults}
    assert seen == set(FAULTS) - {"dropout"}
    numbers = [reading.sequence for readings in sent for reading in readings]
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))


def test_unknown_fault_is_refused_with_the_names_that_exist() -> None:
    """A misspelt name would otherwise test nothing."""
    with pytest.raises(ValueError, match="spikes, stuck"):
        ThermometerDevice("d", "t", faults=["spike"])
