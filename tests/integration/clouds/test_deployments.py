"""Deployments on a real Kubernetes control plane with hollow GPU nodes."""

from __future__ import annotations

import uuid

import pytest

from hermes.cloudbreak._deployments import Deployments
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.testing import CloudSuite
from hermes.cloudbreak.waiting import Clock

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def cloud(access) -> Deployments:
    return Deployments(access)


@pytest.fixture
def spec() -> TritonSpec:
    name = f"t{uuid.uuid4().hex[:6]}"
    return TritonSpec(name, "gs://bucket/models", replicas=2)


class TestDeployments(CloudSuite):
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def specs(self, spec) -> list[TritonSpec]:
        return [spec]
