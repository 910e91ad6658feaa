"""What the tests of GKE share: its own interface, with a clock of theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.testing import FakeClock
from hermes.cloudbreak.waiting import Clock

sys.path.insert(0, str(Path(__file__).parents[4] / "scripts" / "testing"))

from _gke_rules import Project
from gke import Server

ZONE = "us-central1-a"


@pytest.fixture
def clock() -> Clock:
    return FakeClock().clock


@pytest.fixture
def project(clock: Clock) -> Project:
    return Project(today=clock.today)


@pytest.fixture
def server(project: Project) -> Iterator[Server]:
    made = Server(project)
    yield made
    made.close()


@pytest.fixture
def cloud(server: Server, clock: Clock) -> Iterator[google.GKECloud]:
    with google.GKECloud(
        "test-project", transport=server.transport(), today=clock.today
    ) as made:
        yield made


@pytest.fixture
def manage(
    server: Server, clock: Clock
) -> Callable[..., google.ClusterManager]:
    """Make managers."""

    def make(zone: str = ZONE, **options) -> google.ClusterManager:
        return google.ClusterManager(
            zone,
            "test-project",
            owner="me",
            clock=clock,
            transport=server.transport(),
            **options,
        )

    return make


@pytest.fixture
def manager(manage: Callable[..., google.ClusterManager]):
    return manage()
