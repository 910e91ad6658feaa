"""GKE joined to a real Kubernetes control plane, with hollow GPU nodes."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from _gke_rules import Project
from gke import Server
from one_program import deploy_and_stream, tritons

from hermes.cloudbreak._access import NODE, SERVICE
from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.errors import CloudUnavailable, NotThere
from hermes.cloudbreak.waiting import Clock

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

ZONE = "us-central1-a"
POOL = "cloud.google.com/gke-nodepool"
GPU = "nvidia.com/gpu"
CLEANUP = "service.kubernetes.io/load-balancer-cleanup"


class Hollow:
    """Clusters are control planes, and their pools have hollow nodes.

    Attributes:
        planes: Those that run.
        has_driver: Whether nodes come to have the GPUs of their machine.
    """

    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self.planes: dict = {}
        self.has_driver = True

    def start_cluster(self, name: str) -> tuple[str, str]:
        plane = self.planes[name] = self._start()
        ca = base64.b64encode(plane.ca.encode()).decode()
        return plane.server.removeprefix("https://"), ca

    def start_pool(self, cluster: str, pool) -> None:
        if pool.name == "default-pool":
            return  # what Kubernetes runs for itself is not in containers here
        count = sum(a.accelerator_count for a in pool.config.accelerators)
        for number in range(pool.initial_node_count):
            self.planes[cluster].add_node(
                f"gke-{cluster}-{pool.name}-{number}",
                gpus=count if self.has_driver else 0,
                labels={**dict(pool.config.labels), POOL: pool.name},
                taints=(f"{GPU}=present:NoSchedule",) if count else (),
                wait=False,
            )

    def install_driver(self, cluster: str) -> None:
        plane = self.planes[cluster]
        gpus = {GPU: "2"}  # a kubelet would take its time to say the second
        change = {"status": {"capacity": gpus, "allocatable": gpus}}
        for node in plane.access.list(NODE, POOL):
            name = node["metadata"]["name"]
            plane.access.patch(NODE, name, change, part="status")

    def resize_pool(self, cluster: str, pool) -> None:
        raise NotImplementedError  # by no test

    def stop_pool(self, cluster: str, pool: str) -> None:
        access = self.planes[cluster].access
        for node in access.list(NODE, f"{POOL}={pool}"):
            self.planes[cluster].remove_node(node["metadata"]["name"])

    def stop_cluster(self, name: str) -> None:
        self.planes.pop(name).close()

    def close(self) -> None:
        for name in list(self.planes):
            self.stop_cluster(name)


class Serving(Hollow):
    """Their nodes run real Tritons."""

    def start_pool(self, cluster: str, pool) -> None:
        if pool.name == "default-pool":
            return
        count = sum(a.accelerator_count for a in pool.config.accelerators)
        labels = {**dict(pool.config.labels), POOL: pool.name}
        self.planes[cluster].add_kubelets(
            *(
                f"gke-{cluster}-{pool.name}-{number}"
                for number in range(pool.initial_node_count)
            ),
            gpus=count,
            serve=True,
            labels=",".join(f"{k}={v}" for k, v in labels.items()),
        )

    def stop_pool(self, cluster: str, pool: str) -> None:
        plane = self.planes[cluster]
        for node in plane.access.list(NODE, f"{POOL}={pool}"):
            plane.remove_kubelet(node["metadata"]["name"])


@pytest.fixture
def hollow(request, start_control_plane) -> Iterator[Hollow]:
    made = getattr(request, "param", Hollow)(start_control_plane)
    yield made
    made.close()


@pytest.fixture
def project(hollow) -> Project:
    return Project(seconds=0.1, machines=hollow)


@pytest.fixture
def manage_hollow(server: Server, hollow) -> Callable:
    def make(report: Callable) -> google.ClusterManager:
        made = google.ClusterManager(
            ZONE,
            "test-project",
            clock=Clock(sleep=lambda seconds: time.sleep(seconds / 5)),
            timeout=60,
            transport=server.transport(),
            report=report,
        )
        # What Google's own tokens would be good for.
        made._cloud._token = lambda: next(iter(hollow.planes.values())).token
        return made

    return make


def test_a_pool_is_ready_when_the_driver_has_come_to_all_its_nodes(
    project, manage_hollow, hollow
) -> None:
    config = google.create_gpu_node_pool_config(8, 2, "t4")
    hollow.has_driver = False
    told = []

    def hear(waited) -> None:
        told.extend(waited.values())
        if any(lack in each for each in waited.values()):
            hollow.install_driver("main")
        if any("first: Service default/web" in e for e in waited.values()):
            # Do what Google's controller does when the balancer is gone.
            change = {"metadata": {"finalizers": None}}
            # It has gone meanwhile, or was changed: then we hear of it again.
            with contextlib.suppress(NotThere, CloudUnavailable):
                hollow.planes["main"].access.patch(SERVICE, "web", change)

    lack = "gke-main-gpus-1: nvidia.com/gpu is not allocatable (0 of 2)"
    with manage_hollow(hear) as manager:
        cluster = manager.add(google.Cluster("main"))
        cluster.add(google.NodePool("gpus", num_nodes=2, **config))
        with contextlib.closing(cluster.connect()) as access:
            nodes = access.list(NODE, f"{POOL}=gpus,hermes-run")
            found = [n["status"]["allocatable"][GPU] for n in nodes]
            assert found == ["2", "2"]
            access.create(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "web", "finalizers": [CLEANUP]},
                    "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
                }
            )
    assert any(lack in each for each in told)
    assert any("goes first: Service default/web" in each for each in told)
    assert project.resources == []
    assert hollow.planes == {}


@pytest.mark.triton
@pytest.mark.parametrize("hollow", [Serving], indirect=True)
def test_a_program_for_any_cluster_runs_on_gke(
    project, manage_hollow, hollow, bucket
) -> None:
    """The same as in test_triton_service.py; and everything is gone after."""
    repository, env = bucket
    told: list[str] = []

    def hear(waited) -> None:
        told.extend(f"{key} {state}" for key, state in waited.items())

    config = google.create_gpu_node_pool_config(4, 1, "t4")
    with manage_hollow(hear) as manager:
        cluster = manager.add(google.Cluster("main"))
        cluster.add(google.NodePool("gpus", num_nodes=2, **config))
        with contextlib.closing(cluster.connect()) as access:
            deploy_and_stream(cluster, access, repository, env=env)
        # Another one, which nobody closes.
        cluster.deploy_triton(
            repository, "left", env=env, service="port-forward", timeout=90
        )
    assert project.resources == []
    assert hollow.planes == {}
    assert not tritons(f"--model-repository={repository}")
    # Its balancers would outlive the cluster. Of what is ready, only what has
    # to go is told.
    order = [each for each in told if each.endswith(" ready")]
    assert order.index("deployment left ready") < order.index(
        "cluster main ready"
    )
