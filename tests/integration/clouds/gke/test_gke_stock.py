"""Quotas and stock-outs, as GKE tells of them."""

from __future__ import annotations

import pytest
from _gke_rules import Trouble
from gke import Fault
from google.cloud.container_v1 import ClusterManagerClient

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.errors import (
    QuotaExceeded,
    ResourceFailed,
)

ZONE = "us-central1-a"
T4 = google.create_gpu_node_pool_config(8, 1, "t4")
STOCK_OUT = Trouble(
    "GCE_STOCKOUT",
    "Google Compute Engine: Not all instances running in IGM after 14.7s. "
    "Expected 1, running 0, transitioning 1. Current errors: [GCE_STOCKOUT]: "
    "Instance 'gke-x' creation failed: there are not enough resources.",
)
QUOTA = Trouble(
    "GCE_QUOTA_EXCEEDED",
    "Google Compute Engine: Quota 'NVIDIA_T4_GPUS' exceeded. Limit: 0.0 in "
    "region us-central1.",
)


def usable(_, pool):  # what Kubernetes says; see test_gke_kubernetes.py
    return [google._nodes.Node(f"gke-{pool}-0", True, 1)]


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("vanishes", [False, True])
@pytest.mark.parametrize("cluster_zone", [ZONE, "us-central1"])
def test_a_pool_moves_to_where_machines_are(
    server, project, is_silent, vanishes, cluster_zone, manage
) -> None:
    project.troubles["gpus", ZONE] = Trouble(
        STOCK_OUT.code, STOCK_OUT.text, vanishes, is_silent
    )
    with manage(cluster_zone) as manager:
        manager._cloud._nodes = usable
        cluster = manager.add(google.Cluster("main"))
        zones = (ZONE, "us-central1-b")
        cluster.add(google.NodePool("gpus", zones, **T4))
        (found,) = find_pools(server, cluster_zone)
        assert list(found.locations) == ["us-central1-b"]
    assert project.resources == []


def find_pools(server, place) -> list:
    client = ClusterManagerClient(transport=server.transport())
    base = f"projects/test-project/locations/{place}/clusters/main"
    listed = client.list_node_pools(parent=base).node_pools
    return [each for each in listed if each.name != "default-pool"]


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("vanishes", [False, True])
def test_when_none_is_left_anywhere_it_says_what_and_where(
    project, manager, is_silent, vanishes
) -> None:
    project.troubles["gpus"] = Trouble(
        STOCK_OUT.code, STOCK_OUT.text, vanishes, is_silent
    )
    wanted = "n1-standard-8 with 1 nvidia-tesla-t4 in us-central1-c"
    with manager:
        cluster = manager.add(google.Cluster("main"))
        zones = (ZONE, "us-central1-b", "us-central1-c")
        with pytest.raises(ResourceFailed, match=f"none left of {wanted}"):
            cluster.add(google.NodePool("gpus", zones, **T4))
        assert project.resources == ["main"]
    assert project.resources == []


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("vanishes", [False, True])
def test_a_quota_is_named_and_not_looked_for_elsewhere(
    server, project, manager, is_silent, vanishes
) -> None:
    project.troubles["gpus"] = Trouble(
        QUOTA.code, QUOTA.text, vanishes, is_silent
    )
    with manager:
        cluster = manager.add(google.Cluster("main"))
        zones = (ZONE, "us-central1-b")
        with pytest.raises(ResourceFailed, match="quota NVIDIA_T4_GPUS is"):
            cluster.add(google.NodePool("gpus", zones, **T4))
    assert project.resources == []
    assert server.calls.count("CreateNodePool") == 1


def test_a_quota_may_be_refused_at_once(server, project, manager) -> None:
    server.faults["CreateCluster"] = Fault(
        "PERMISSION_DENIED",
        text='Insufficient regional quota to satisfy request: resource "CPUS"'
        ": request requires '12.0' and is short '4.0'.",
    )
    with manager, pytest.raises(QuotaExceeded, match="main: the quota CPUS"):
        manager.add(google.Cluster("main"))
    assert project.resources == []


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_cluster_moves_and_its_pools_go_with_it(
    server, project, manager, vanishes
) -> None:
    project.troubles["main", ZONE] = Trouble(
        STOCK_OUT.code, STOCK_OUT.text, vanishes
    )
    with manager:
        cluster = manager.add(google.Cluster("main", (ZONE, "us-east4-b")))
        assert cluster.spec.zones == ("us-east4-b",)
        cluster.add(google.NodePool("cpus"))
        (found,) = find_pools(server, "us-east4-b")
        assert list(found.locations) == ["us-east4-b"]
    assert project.resources == []


def test_what_failed_long_ago_is_not_todays_reason(
    project, manager, clock
) -> None:
    zones = (ZONE,)
    with manager:
        cluster = manager.add(google.Cluster("main"))
        for trouble, reason in (
            (STOCK_OUT, "none left of"),
            (Trouble("UNKNOWN", "a disk broke"), "a disk broke"),
        ):
            project.troubles["gpus"] = Trouble(
                trouble.code, trouble.text, is_silent=True
            )
            with pytest.raises(ResourceFailed, match=reason) as told:
                cluster.add(google.NodePool("gpus", zones, **T4))
            clock.sleep(86_400)
    assert "none left" not in str(told.value)
