"""GKE's clusters and node pools, against GKE's own interface."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from _gke_rules import Trouble
from gke import find_methods
from google.cloud.container_v1 import ClusterManagerClient

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._nodes import Node
from hermes.cloudbreak.clouds.google._outliving import Outliving
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    Refused,
    ResourceFailed,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Cause, Key, Kind, State
from hermes.cloudbreak.testing import CloudSuite

ZONE = "us-central1-a"
T4 = google.create_gpu_node_pool_config(8, 1, "t4")


class TestGKE(CloudSuite):
    @pytest.fixture
    def specs(self) -> list:
        return [
            google.Cluster("suite", (ZONE,)),
            google.NodePool("pool", ("us-central1-b",), cluster="suite"),
        ]


class TestRegionalGKE(CloudSuite):
    @pytest.fixture
    def specs(self) -> list:
        return [
            google.Cluster("suite", ("us-central1",)),
            google.NodePool(
                "pool",
                ("us-central1-b",),
                cluster="suite",
                min_nodes=0,
                max_nodes=4,
                spot=True,
            ),
        ]


def test_all_methods_are_routed_and_say_if_they_are_not_here(server) -> None:
    assert len(find_methods()) == 37
    with pytest.raises(Exception, match="StartIPRotation is not here"):
        ClusterManagerClient(transport=server.transport()).start_ip_rotation(
            name="projects/test-project/locations/x/clusters/y"
        )


def test_a_manager_leaves_nothing(server, project, manager) -> None:
    with manager:
        cluster = manager.add(google.Cluster("main"))
        pool = cluster.add(google.NodePool("cpus", num_nodes=2))
        assert project.resources == ["main", "main/cpus"]
        assert cluster.endpoint.server == "https://192.0.2.1"
        assert "test-project" in repr(pool)
    assert project.resources == []
    # The pool goes with its cluster: it is not deleted by itself.
    assert "DeleteNodePool" not in server.calls


def test_parts_are_deleted_when_they_are_left(project, manager) -> None:
    with manager, manager.add(google.Cluster("main")) as cluster:
        with cluster.add(google.NodePool("cpus")):
            assert project.resources == ["main", "main/cpus"]
        assert project.resources == ["main"]
    assert project.resources == []


def test_an_error_within_leaves_nothing(project, manager) -> None:
    def work() -> None:
        with manager:
            manager.add(google.Cluster("main"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert project.resources == []


def test_a_manager_that_is_not_closed_says_so(manage) -> None:
    manager = manage()
    manager.add(google.Cluster("main"))
    with pytest.warns(ResourceWarning, match="costs money"):
        manager.__del__()
    manager.close()


def test_what_was_there_is_adopted_and_left(project, manage) -> None:
    with manage() as first:
        first.add(google.Cluster("main"))
        with manage() as second:
            with pytest.raises(AlreadyThere, match="exists_ok=True"):
                second.add(google.Cluster("main"))
            spec = google.Cluster("main", exists_ok=True)
            second.add(spec).add(google.NodePool("cpus"))
            assert project.resources == ["main", "main/cpus"]
        assert project.resources == ["main"]
    assert project.resources == []


def test_a_pool_is_what_was_asked_for(server, manager) -> None:
    spec = google.NodePool(
        "gpus",
        spot=True,
        num_nodes=2,
        min_nodes=1,
        max_nodes=5,
        disk_gb=200,
        disk_type="pd-ssd",
        service_account="robot@test-project.iam.gserviceaccount.com",
        workload_identity=True,
        gpu_driver="latest",
        max_run_seconds=7200,
        **google.create_gpu_node_pool_config(24, 2, "l4"),
    )
    client = ClusterManagerClient(transport=server.transport())
    base = f"projects/test-project/locations/{ZONE}/clusters/main"
    with manager:
        manager._cloud._nodes = lambda *_: [
            google._nodes.Node(f"gke-{n}", True, 2) for n in range(2)
        ]
        cluster = manager.add(
            google.Cluster("main", service_account="a@b", num_nodes=3)
        )
        cluster.add(spec)
        found = client.get_node_pool(name=f"{base}/nodePools/gpus")
        whole = client.get_cluster(name=base)
    config = found.config
    assert (config.machine_type, config.spot) == ("g2-standard-24", True)
    assert (config.disk_size_gb, config.disk_type) == (200, "pd-ssd")
    assert config.service_account == spec.service_account
    assert config.max_run_duration.total_seconds() == 7200
    assert config.workload_metadata_config.mode.name == "GKE_METADATA"
    (gpus,) = config.accelerators
    assert (gpus.accelerator_type, gpus.accelerator_count) == ("nvidia-l4", 2)
    driver = gpus.gpu_driver_installation_config.gpu_driver_version
    assert driver.name == "LATEST"
    scaling = found.autoscaling
    assert (scaling.min_node_count, scaling.max_node_count) == (1, 5)
    assert Stamp.read(config.resource_labels) == manager.stamp
    assert Stamp.read(config.labels) == manager.stamp
    assert Stamp.read(whole.resource_labels) == manager.stamp
    pool = "test-project.svc.id.goog"
    assert whole.workload_identity_config.workload_pool == pool
    assert whole.node_pools[0].initial_node_count == 3


def test_machines_end_with_the_lifetime_that_is_left_unless_they_say_when(
    server, clock, manage
) -> None:
    client = ClusterManagerClient(transport=server.transport())
    base = f"projects/test-project/locations/{ZONE}/clusters/main"

    def limits() -> dict[str, float | None]:
        return {
            each.name: (
                each.config.max_run_duration.total_seconds()
                if "max_run_duration" in each.config
                else None
            )
            for each in client.get_cluster(name=base).node_pools
        }

    with manage(lifetime=6 * 3600) as manager:
        cluster = manager.add(google.Cluster("main"))
        assert limits() == {"default-pool": 6 * 3600}
        clock.sleep(3600)  # and it took some time to come
        left = int(manager.stamp.deadline - clock.today())
        cluster.add(google.NodePool("cpus"))
        cluster.add(google.NodePool("short", max_run_seconds=600))
        cluster.add(google.NodePool("long", max_run_seconds=7 * 86400))
        cluster.add(google.NodePool("ever", max_run_seconds=math.inf))
        found = limits()
        assert left - 60 < found.pop("cpus") <= left < 5 * 3600
        del found["default-pool"]
        assert found == {"short": 600, "long": 7 * 86400, "ever": None}


@pytest.mark.parametrize(
    ("lifetime", "limit"), [(1, 30), (200 * 86400, 120 * 86400)]
)
def test_a_lifetime_becomes_a_limit_that_google_accepts(
    server, manage, lifetime, limit
) -> None:
    client = ClusterManagerClient(transport=server.transport())
    base = f"projects/test-project/locations/{ZONE}/clusters/main"
    with manage(lifetime=lifetime) as manager:
        manager.add(google.Cluster("main"))
        (pool,) = client.get_cluster(name=base).node_pools
        assert pool.config.max_run_duration.total_seconds() == limit


def test_another_limit_is_another_pool(manage) -> None:
    first = manage(run="night")
    ever = google.NodePool("ever", max_run_seconds=math.inf)
    cluster = first.add(google.Cluster("main"))
    for each in (google.NodePool("cpus"), ever):
        cluster.add(each)
    be_killed(first)
    with manage(run="night", lifetime=3600) as second:
        cluster = second.add(google.Cluster("main"))
        for each in (google.NodePool("cpus"), ever):
            cluster.add(each)  # what is there has its own lifetime
        with pytest.raises(AlreadyThere, match="max_run_seconds None -> 60"):
            cluster.add(google.NodePool("cpus", max_run_seconds=60))


def test_pools_created_at_once_wait_for_one_another(
    project, cloud, clock
) -> None:
    stamp = Stamp("me", "run", int(clock.today()) + 3600)
    names = ("a", "b", "c")
    specs = [
        google.Cluster("main", (ZONE,)),
        *(google.NodePool(n, (ZONE,), cluster="main") for n in names),
    ]
    reconciler = Reconciler(cloud, stamp, clock=clock)
    reconciler.bring_up(specs, 3600)
    assert len(project.resources) == 4
    reconciler.take_down(reconciler.keys)
    assert project.resources == []


def test_threads_share_a_manager(project, manager) -> None:
    names = [f"pool-{number}" for number in range(6)]
    with manager:
        cluster = manager.add(google.Cluster("main"))
        with ThreadPoolExecutor(6) as threads:
            added = threads.map(
                lambda name: cluster.add(google.NodePool(name)), names
            )
            assert [each.name for each in added] == names
        assert len(project.resources) == 7
    assert project.resources == []
    with pytest.raises(InvalidSpec, match="main: this manager was closed"):
        manager.add(google.Cluster("main"))


def test_what_would_outlive_a_cluster_goes_before_it(
    server, project, manager, caplog
) -> None:
    """They are no part of it, and would outlive it."""
    left = ["Service default/web", "PersistentVolume pvc-1"]
    asked: list[str] = []

    def remove(endpoint) -> Outliving:
        assert project.resources  # while it is there
        asked.append(endpoint.server)
        return Outliving(left[: max(0, 3 - len(asked))], ["mine (Retain)"])

    manager._cloud._emptying._remove = remove
    told: list[str] = []
    manager._reconciler._report = lambda w: told.extend(w.values())
    with manager:
        manager.add(google.Cluster("main"))
    assert project.resources == []
    assert len(asked) == 3
    assert any(f"goes first: {', '.join(left)}" in t for t in told)
    assert caplog.text.count("leaves disks that are not to be") == 1
    assert "be deleted with it: mine (Retain)" in caplog.text
    assert server.calls.count("DeleteCluster") == 1


@pytest.mark.parametrize("seconds", [600, 120])
def test_what_does_not_go_keeps_its_cluster_for_a_while_only(
    seconds, project, clock, manager, caplog
) -> None:
    """Machines cost more."""

    def remove(_endpoint) -> Outliving:
        if seconds == 120:
            raise CloudUnavailable("no answer")
        return Outliving([f"Service default/{n}" for n in range(9)])

    manager._cloud._emptying._remove = remove
    manager.add(google.Cluster("main"))
    begun = clock.now()
    manager.close()
    assert seconds <= clock.now() - begun < seconds + 200
    assert project.resources == []
    assert "is deleted all the same" in caplog.text
    assert "forwarding-rules list" in caplog.text
    assert ("Service default/4, and 4 more" in caplog.text) == (seconds == 600)


def test_who_has_answered_is_out_of_reach_only_later(
    project, clock, manager, caplog
) -> None:
    begun = clock.now()

    def remove(_endpoint) -> Outliving:
        late = clock.now() - begun
        if 200 < late < 300:
            raise CloudUnavailable("no answer")
        return Outliving(["Service default/web"] if late < 400 else [])

    manager._cloud._emptying._remove = remove
    with manager:
        manager.add(google.Cluster("main"))
        begun = clock.now()
    assert clock.now() - begun >= 400
    assert "all the same" not in caplog.text
    assert project.resources == []


def test_what_is_in_an_adopted_cluster_stays(project, manage) -> None:
    asked: list[object] = []
    with manage() as first:
        first.add(google.Cluster("main"))
        second = manage()
        second._cloud._emptying._remove = asked.append
        with second:
            second.add(google.Cluster("main", exists_ok=True))
        assert project.resources == ["main"]
        assert asked == []


def be_killed(manager: google.ClusterManager) -> None:
    """Leave what there is, as a program does that is killed."""
    manager._cloud.close()
    manager._is_closed = True


def test_another_program_of_the_run_changes_how_many_machines_there_are(
    server, project, manage
) -> None:
    client = ClusterManagerClient(transport=server.transport())
    base = f"projects/test-project/locations/{ZONE}/clusters/main"

    def run(**options) -> None:
        manager = manage(run="night")
        try:
            cluster = manager.add(google.Cluster("main", num_nodes=2))
            cluster.add(google.NodePool("cpus", **options))
        finally:
            be_killed(manager)

    def pool():
        return client.get_node_pool(name=f"{base}/nodePools/cpus")

    run(num_nodes=2)
    run(num_nodes=4)
    assert server.calls.count("CreateNodePool") == 1
    assert pool().initial_node_count == 4
    assert server.calls.count("SetNodePoolSize") == 1
    run(num_nodes=4, min_nodes=1, max_nodes=8)
    run(num_nodes=3, min_nodes=1, max_nodes=9)
    assert server.calls.count("SetNodePoolSize") == 1  # GKE decides
    scaling = pool().autoscaling
    assert (scaling.min_node_count, scaling.max_node_count) == (1, 9)
    run(num_nodes=3)  # two changes, one after the other
    assert not pool().autoscaling.enabled
    assert pool().initial_node_count == 3
    with pytest.raises(AlreadyThere, match="machine_type e2-standard-4 -> n"):
        run(num_nodes=9, machine_type="n1-standard-8")
    assert pool().initial_node_count == 3
    with manage(run="night") as last:
        last.add(google.Cluster("main", num_nodes=3))
        # What is not asked for yet may be asked for next.
        assert project.resources == ["main", "main/cpus"]
        found = client.get_cluster(name=base).node_pools[0]
        assert (found.name, found.initial_node_count) == ("default-pool", 3)
    assert project.resources == []


def test_a_change_that_fails_says_why_and_deletes_nothing(
    project, manage
) -> None:
    manager = manage(run="night")
    pool = google.NodePool("cpus")
    manager.add(google.Cluster("main")).add(pool)
    be_killed(manager)
    text = "Insufficient regional quota to satisfy request: resource 'CPUS'"
    project.troubles["cpus"] = Trouble("GCE_QUOTA_EXCEEDED", text)
    again = manage(run="night")
    cluster = again.add(google.Cluster("main"))
    with pytest.raises(ResourceFailed, match="the quota CPUS is too small"):
        cluster.add(google.NodePool("cpus", num_nodes=4))
    assert project.resources == ["main", "main/cpus"]
    del project.troubles["cpus"]
    cluster.add(google.NodePool("cpus", num_nodes=4))
    again.close()
    assert project.resources == []


def test_a_broken_cluster_says_why(project, manager) -> None:
    project.troubles["main"] = Trouble("UNKNOWN", "the network is odd")
    with manager, pytest.raises(ResourceFailed, match="the network is odd"):
        manager.add(google.Cluster("main"))
    assert project.resources == []


def test_a_pool_without_its_driver_is_not_ready(project, manage) -> None:
    lack = (
        r"node gke-0: nvidia.com/gpu is not allocatable \(0 of 1\): its "
        "driver has not come"
    )
    with manage() as manager:
        manager._cloud._nodes = lambda *_: [google._nodes.Node("gke-0", True)]
        cluster = manager.add(google.Cluster("main"))
        with pytest.raises(WaitTimeout, match=lack):
            cluster.add(google.NodePool("gpus", **T4))
        assert project.resources == ["main"]


@pytest.mark.parametrize("is_adopted", [True, False])
def test_a_pool_that_was_there_needs_its_driver_too(
    project, manage, is_adopted: bool
) -> None:
    nodes = [Node("gke-0", True)]
    first = manage(run="night")
    first._cloud._nodes = None  # it is killed before the driver comes
    first.add(google.Cluster("main")).add(google.NodePool("gpus", **T4))
    be_killed(first)
    with manage(run="day" if is_adopted else "night") as again:
        again._cloud._nodes = lambda *_: nodes
        cluster = again.add(google.Cluster("main", exists_ok=is_adopted))
        pool = google.NodePool("gpus", exists_ok=is_adopted, **T4)
        with pytest.raises(WaitTimeout, match="its driver has not come"):
            cluster.add(pool, timeout=60)
        assert project.resources == ["main", "main/gpus"]
        nodes[0] = Node("gke-0", True, 1)
        cluster.add(pool, timeout=60)
    assert project.resources == ["main", "main/gpus"] * is_adopted


def test_kubernetes_that_does_not_answer_is_waited_for(
    project, manage
) -> None:
    def silent(*_):
        raise CloudUnavailable("connection refused")

    with manage(timeout=300) as manager:
        manager._cloud._nodes = silent
        cluster = manager.add(google.Cluster("main"))
        with pytest.raises(WaitTimeout, match="cannot be seen: connection re"):
            cluster.add(google.NodePool("gpus", **T4))
    assert project.resources == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (google.Cluster("main", ("us-west9-a",)), "locations/us-west9-a"),
        (google.Cluster("main", machine_type="z9-large"), "z9-large"),
    ],
)
def test_what_gke_refuses_is_refused(project, manager, spec, message) -> None:
    with manager, pytest.raises(Refused, match=message):
        manager.add(spec)
    assert project.resources == []


def test_another_project_is_refused(server, clock) -> None:
    manager = google.ClusterManager(
        ZONE, "not-mine", clock=clock, transport=server.transport()
    )
    with pytest.raises(Refused, match=r"container\.clusters\.list"):
        manager.add(google.Cluster("main"))
    manager._cloud.close()


def test_a_name_taken_elsewhere_is_not_ours(project, manage) -> None:
    with manage("us-east4-a") as first:
        first.add(google.Cluster("main"))
        with (
            manage() as second,
            pytest.raises(Refused, match="is in us-east4-a, and not in us-c"),
        ):
            second.add(google.Cluster("main", exists_ok=True))
        assert project.resources == ["main"]


def test_two_of_one_name_are_not_deleted_by_a_guess(server, cloud) -> None:
    client = ClusterManagerClient(transport=server.transport())
    for place in (ZONE, "us-east4-b"):
        client.create_cluster(
            parent=f"projects/test-project/locations/{place}",
            cluster={"name": "main", "initial_node_count": 1},
        )
    with pytest.raises(Refused, match=f"in {ZONE} and us-east4-b"):
        cloud.delete(Key(Kind.CLUSTER, "main"))


def test_zones_that_cannot_be_seen_into_are_not_empty(
    project, clock, cloud, manager
) -> None:
    manager.add(google.Cluster("main"))
    # Of a run that nobody else has, nothing is elsewhere.
    project.missing_zones = ["us-east4-b"]
    assert [each.key.name for each in manager._cloud.observe()] == ["main"]
    with pytest.raises(CloudUnavailable, match="cannot see into us-east4-b"):
        list(cloud.observe())
    project.missing_zones = [ZONE]
    for each in (manager._cloud, cloud):  # who created it, and who did not
        with pytest.raises(CloudUnavailable, match=f"cannot see into {ZONE}"):
            list(each.observe())
    with pytest.raises(CloudUnavailable, match=f"cannot see into {ZONE}"):
        reap(cloud, older_than=-1, clock=clock)
    project.missing_zones = []
    manager.close()


def test_only_googles_own_descriptions_are_taken(cloud, clock) -> None:
    from hermes.cloudbreak.specs import ClusterSpec, NodePoolSpec

    stamp = Stamp("me", "run", int(clock.today()))
    with pytest.raises(Refused, match=r"GKE has google\.Cluster"):
        cloud.create(ClusterSpec("main", (ZONE,)), stamp)
    with pytest.raises(InvalidSpec, match="give zones or regions"):
        cloud.create(google.Cluster("main"), stamp)
    with pytest.raises(NotThere, match="no cluster main"):
        cloud.create(google.NodePool("pool", cluster="main"), stamp)
    with pytest.raises(Refused, match=r"GKE has google\.Cluster"):
        cloud.create(NodePoolSpec("pool", cluster="main"), stamp)


@pytest.mark.parametrize(
    ("cluster", "pool", "message"),
    [
        ("us-central1", {}, "has no zone: its cluster is in the region"),
        (ZONE, {"zones": ("us-east4-a",)}, "is not in us-central1"),
        (ZONE, {"cluster": "other"}, "add it to that one"),
    ],
)
def test_a_pool_is_in_its_clusters_region(
    cluster, pool, message, manage
) -> None:
    with manage(cluster) as manager:
        main = manager.add(google.Cluster("main"))
        with pytest.raises(InvalidSpec, match=message):
            main.add(google.NodePool("pool", **pool))


def test_a_cluster_needs_a_place(manage) -> None:
    with (
        manage("") as manager,
        pytest.raises(InvalidSpec, match="give zones=, or zone="),
    ):
        manager.add(google.Cluster("main"))


def test_what_others_have_is_never_reaped(
    server, project, clock, cloud
) -> None:
    client = ClusterManagerClient(transport=server.transport())
    client.create_cluster(
        parent=f"projects/test-project/locations/{ZONE}",
        cluster={"name": "theirs", "initial_node_count": 1},
    )
    stamp = Stamp("me", "run", int(clock.today()) + 3600)
    cloud.create(google.Cluster("ours", ("us-east4-a",)), stamp)
    clock.sleep(100)
    assert reap(cloud, clock=clock) == []
    clock.sleep(3600)
    assert reap(cloud, clock=clock) == [Key(Kind.CLUSTER, "ours")]
    assert project.resources == ["theirs"]
    (found,) = [cloud.find(Key(Kind.CLUSTER, "theirs"))]
    assert (found.state, found.cause) == (State.READY, Cause.OTHER)


def test_nothing_is_said_of_tokens(manager, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    with manager:
        cluster = manager.add(google.Cluster("main"))
        shown = repr((manager, cluster, cluster.endpoint, manager._cloud))
    assert "token" not in shown
    assert "token" not in caplog.text
