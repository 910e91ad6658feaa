"""The fake passes the suite that every cloud has to pass."""

from __future__ import annotations

import pytest

from hermes.cloudbreak.errors import Refused
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import ClusterSpec, NodePoolSpec, Spec, VMSpec
from hermes.cloudbreak.testing import (
    CloudSuite,
    FakeClock,
    FakeCloud,
    Fault,
    Killed,
)
from hermes.cloudbreak.waiting import Clock


class TestFakeCloud(CloudSuite):
    @pytest.fixture
    def clock(self) -> Clock:
        return FakeClock().clock

    @pytest.fixture
    def cloud(self, clock: Clock) -> FakeCloud:
        return FakeCloud(clock)

    @pytest.fixture
    def specs(self) -> list[Spec]:
        return [
            ClusterSpec("main"),
            NodePoolSpec("pool", cluster="main"),
            VMSpec("vm"),
        ]


def test_a_pool_needs_its_cluster() -> None:
    time = FakeClock()
    cloud = FakeCloud(time.clock)
    pool = NodePoolSpec("pool", cluster="main")
    with pytest.raises(Refused, match="main is not running"):
        cloud.create(pool, Stamp("me", "run", 1))
    cloud.add(ClusterSpec("main"))
    with pytest.raises(Refused, match="main is not running"):
        cloud.create(pool, Stamp("me", "run", 1))
    time.advance(300)
    cloud.create(pool, Stamp("me", "run", 1))
    assert [verb for verb, _ in cloud.calls] == ["create"] * 3


def test_who_was_killed_calls_nobody() -> None:
    cloud = FakeCloud(FakeClock().clock)
    cloud.faults[1] = Fault(Killed(), done=True)
    for vm in (VMSpec("one"), VMSpec("two")):
        with pytest.raises(Killed):
            cloud.create(vm, Stamp("me", "run", 1))
    assert [key.name for key in cloud.resources] == ["one"]
    cloud.revive()
    cloud.create(VMSpec("two"), Stamp("me", "run", 1))
