"""One broker for the module: this gateway, or (HEADWATER_COMPAT=pulsar) Apache Pulsar, which judges the tests
themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import official
from tests.support.gateway import GatewayRig
from tests.support.pulsar import PulsarRig

PARTITIONED = "public/default/partitioned"
JUDGED = os.environ.get("HEADWATER_COMPAT", "headwater")
"""Whose broker the tests of this folder run against. Those that kill the gateway always take the gateway."""


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service URL of the broker under test."""
    folder = tmp_path_factory.mktemp("compat")
    if JUDGED == "pulsar":
        with PulsarRig(folder) as pulsar_rig:
            pulsar_rig.rest("PUT", f"/persistent/{PARTITIONED}/partitions", 3)
            yield pulsar_rig.service_url
        return
    with GatewayRig(folder, topics={PARTITIONED: {"partitions": 3}}) as rig:
        yield rig.service_url


@pytest.fixture
def client(service_url: str) -> Iterator[Any]:
    """An official client of it."""
    with official.client(service_url) as opened:
        yield opened


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return f"public/default/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayRig]:
    """A gateway of the test's own, to be killed."""
    with GatewayRig(tmp_path / "gateway") as rig:
        yield rig
