"""Errors of GKE: bursts, lost answers, and what stays."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from gke import Fault, Server

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._outliving import Outliving
from hermes.cloudbreak.errors import (
    CloudUnavailable,
    Refused,
    StillThere,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.specs import Key, Kind
from hermes.cloudbreak.waiting import Clock

ZONE = "us-central1-a"
T4 = google.create_gpu_node_pool_config(8, 1, "t4")


BURSTS = {
    "UNAUTHENTICATED": 3,
    "ABORTED": 5,
    "RESOURCE_EXHAUSTED": 5,
    "UNAVAILABLE": 5,
    "INTERNAL": 5,
    "DEADLINE_EXCEEDED": 5,
}


@pytest.mark.parametrize("done", [False, True], ids=["refused", "lost"])
@pytest.mark.parametrize("code", BURSTS)
def test_bursts_of_errors_are_outlasted(
    server, project, manager, code, done
) -> None:
    with manager:
        for first in (1, 8, 16):
            for number in range(first, first + BURSTS[code]):
                server.faults[number] = Fault(code, done)
        cluster = manager.add(google.Cluster("main"))
        cluster.add(google.NodePool("cpus"))
        assert project.resources == ["main", "main/cpus"]
        number = len(server.calls)
        for each in range(number + 1, number + 1 + BURSTS[code]):
            server.faults[each] = Fault(code, done)
    assert project.resources == []


@pytest.mark.parametrize("code", ["UNAVAILABLE", "PERMISSION_DENIED"])
@pytest.mark.parametrize("done", [False, True], ids=["refused", "lost"])
def test_no_single_failure_leaks(
    server, project, clock, code, done, manage
) -> None:
    number = 0
    while True:
        number += 1
        server.calls.clear()
        server.faults = {number: Fault(code, done)}
        try:
            with manage() as manager:
                cluster = manager.add(google.Cluster("main"))
                cluster.add(google.NodePool("cpus"))
        except (Refused, StillThere):
            assert code == "PERMISSION_DENIED"
        stamp = manager.stamp
        if project.resources:  # it was refused while nothing more was known
            assert done
            time_is_up(clock, stamp)
            with cloud_of(server, clock) as cloud:
                reap(cloud, clock=clock)
        assert project.resources == [], number
        if number > len(server.calls):
            break
    assert number > 10


def time_is_up(clock: Clock, stamp: Stamp) -> None:
    clock.sleep(max(0, stamp.deadline - clock.today()) + 1)


def cloud_of(server: Server, clock: Clock) -> google.GKECloud:
    return google.GKECloud(
        "test-project",
        transport=server.transport(),
        today=clock.today,
        remover=lambda _: Outliving(),
    )


def test_a_token_that_stays_refused_is_the_keys_fault(server, manager) -> None:
    for method in ("ListClusters", "CreateCluster"):
        server.faults[method] = Fault("UNAUTHENTICATED", text="bad token")
    with pytest.raises(
        Refused, match=r"refuses these credentials \(bad token"
    ):
        manager.add(google.Cluster("main"))
    server.faults.clear()
    manager.close()


def test_a_token_that_ended_is_one_refusal_however_many_have_it(
    server, cloud
) -> None:
    together = threading.Barrier(8)
    do = server.do

    def meet(*call: object) -> object:
        together.wait(10)  # all have sent the old token by now
        return do(*call)

    server.do = meet
    server.faults = dict.fromkeys(range(1, 9), Fault("UNAUTHENTICATED"))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cloud.observe) for _ in range(8)]
        found = [type(each.exception()) for each in asked]
    assert found == [CloudUnavailable] * 8
    server.do = do
    assert list(cloud.observe()) == []


def test_a_precondition_that_stays_is_refused(server, manager) -> None:
    server.faults["CreateCluster"] = Fault(
        "FAILED_PRECONDITION", text="no network", reason="NO_NETWORK"
    )
    with manager, pytest.raises(Refused, match="no network"):
        manager.add(google.Cluster("main"))


def test_what_cannot_be_deleted_is_named(server, project, manage) -> None:
    manager = manage(deletion_timeout=600)
    manager.add(google.Cluster("main"))
    server.faults["DeleteCluster"] = Fault("PERMISSION_DENIED", text="locked")
    with pytest.raises(StillThere, match=r"cluster main \(ready; locked\)"):
        manager._reconciler.take_down([Key(Kind.CLUSTER, "main")])
    server.faults.clear()
    manager.close()
    assert project.resources == []
