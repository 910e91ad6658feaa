"""Real Tritons as the pods of a real control plane, and a client of them.

The nodes are programs of ours, scripts/testing/_kubelet.py: the containers are
local processes with the containers' own arguments. Everything else is real.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from one_program import deploy_and_stream, of_pod

from hermes.aeriel.client import InferenceClient
from hermes.cloudbreak._access import POD
from hermes.cloudbreak.clouds.kubeconfig import Cluster
from hermes.cloudbreak.errors import ReplicasFailed
from hermes.cloudbreak.waiting import Clock

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.triton,
    pytest.mark.usefixtures("at_home"),
]

CLOCK = Clock(sleep=lambda seconds: time.sleep(seconds / 10))
SELECTOR = {"pool": "tritons"}


@pytest.fixture(scope="module")
def plane(control_plane) -> Iterator:
    control_plane.add_kubelets("tritons", serve=True, labels="pool=tritons")
    yield control_plane
    control_plane.remove_kubelet("tritons")


@pytest.fixture
def cluster(plane, namespace) -> Iterator[Cluster]:
    with Cluster(
        plane.kubeconfig, namespace=namespace, owner="me", clock=CLOCK
    ) as made:
        yield made


@pytest.mark.slow
def test_a_stream_survives_the_death_of_a_server(
    cluster, access, bucket
) -> None:
    repository, env = bucket
    deploy_and_stream(
        cluster, access, repository, env=env, node_selector=SELECTOR
    )


def restore(service) -> dict[str, list[str]]:
    """Restore models as soon as all servers are back."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return service.restore_models()
        except ReplicasFailed:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.slow
def test_models_are_loaded_by_all_servers_or_it_is_said_by_which_not(
    cluster, access, bucket
) -> None:
    """And servers come and go, under the addresses that they had."""
    repository, env = bucket
    with cluster.deploy_triton(
        repository,
        "explicit",
        env=env,
        replicas=1,
        node_selector=SELECTOR,
        service="port-forward",
        model_control="explicit",
        models=("network",),
        timeout=90,
    ) as service:
        service.scale(2, timeout=90)
        first, second = service.endpoints
        service.load_model("stream")
        for endpoint in (first, second):
            with InferenceClient(endpoint, "stream") as client:
                assert client.spec.stream is not None
        service.unload_model("stream")
        with pytest.raises(ReplicasFailed, match="2 of 2 servers of explicit"):
            service.load_model("missing")
        of_pod(access, "explicit-1").kill()
        with pytest.raises(ReplicasFailed, match="1 of 2 servers") as caught:
            service.load_model("stream")
        assert list(caught.value.failed) == ["explicit-1"]
        restored = restore(service)
        assert restored == {"explicit-1": ["stream"]}
        assert "stream" in service.models()["explicit-1"]
        assert service.restore_models() == {}  # nothing was lost since
        service.scale(1, timeout=90)
        assert service.endpoints == (first,)
        assert len(access.list(POD)) == 1
