"""The log loses nothing that it acknowledged at any of many thousand power cuts; the harness would notice if it did.

HEADWATER_CRASH_STATES sets the number of crash states (20,000 in `make test`), HEADWATER_SEED the first seed. A failure
prints its seed: the same seed and number replay it.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

import pytest

from gateway.errors import GatewayError
from tests.crash.harness import Explorer
from tests.crash.mutants import MUTANTS, Mutant

STATES = int(os.environ.get("HEADWATER_CRASH_STATES", "20000"))
PARTS = 4
SEED = int(os.environ.get("HEADWATER_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
MUTANT_STATES_MAX = 10_000
MUTANT_SEEDS = 6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Torn tails are what these tests are about: thousands of them are not worth a line each."""
    logger = logging.getLogger("gateway.log")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("part", range(PARTS))
def test_log_keeps_what_it_acknowledged(part: int) -> None:
    """Recovered groups are the acknowledged ones in order, at most followed by the one in flight, byte for byte."""
    seed = SEED + part
    explorer = Explorer(seed, STATES // PARTS)
    try:
        explorer.explore()
    except BaseException:
        print(f"seed {seed}, {explorer.states} crash states: replay with HEADWATER_SEED={SEED}")
        raise
    print(
        f"seed {seed}: {explorer.states} crash states, {explorer.recovery_crashes} of them during recovery,"
        f" {explorer.runs} process lives, {explorer.faults} device errors, {explorer.forgeries} forged groups,"
        f" views compared at {explorer.views}"
    )
    assert explorer.states >= STATES // PARTS
    assert explorer.recovery_crashes
    assert explorer.faults
    assert explorer.forgeries
    assert explorer.views


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_harness_catches(mutant: Mutant) -> None:
    """A log with this mistake fails within a few thousand states."""
    for seed in range(MUTANT_SEEDS):
        explorer = Explorer(seed, MUTANT_STATES_MAX, mutant.mutation)
        with mutant.applied():
            try:
                explorer.explore()
            except (AssertionError, GatewayError, OSError):
                return
    pytest.fail(f"{mutant.name}: not noticed in {MUTANT_SEEDS * MUTANT_STATES_MAX} crash states")
