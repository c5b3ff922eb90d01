"""Apache Pulsar as the cloud. Where it can't be had, every test here says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pulsar import PulsarMissing, PulsarRig


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulsarRig]:
    """A running Pulsar that forgets idle producers after a minute."""
    with start_pulsar(tmp_path_factory.mktemp("pulsar"), inactivity_minutes=1) as rig:
        yield rig


def start_pulsar(folder: Path, *, inactivity_minutes: int = 360, secure: bool = False) -> PulsarRig:
    """A Pulsar with the edge's namespace, not yet started; the test is skipped where there is none."""
    try:
        return PulsarRig(folder, inactivity_minutes=inactivity_minutes, secure=secure)
    except PulsarMissing as error:
        pytest.skip(f"replication to Apache Pulsar is not tested: {error}")
