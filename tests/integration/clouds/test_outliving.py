"""What would outlive a cluster goes, on a real control plane."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from hermes.cloudbreak._access import POD, SERVICE, Access, Type
from hermes.cloudbreak.clouds.google._accesses import Accesses
from hermes.cloudbreak.clouds.google._nodes import Endpoint
from hermes.cloudbreak.clouds.google._outliving import CLAIM, VOLUME
from hermes.cloudbreak.errors import CloudUnavailable, NotThere

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("at_home")]

CLASS = Type("storage.k8s.io/v1", "StorageClass")
INGRESS = Type("networking.k8s.io/v1", "Ingress")
SET = Type("apps/v1", "StatefulSet")
DRIVER = "pd.csi.storage.gke.io"
MINE = "example.com/disk"


class Disks:
    """Google's driver of disks, as far as Kubernetes sees it.

    Attributes:
        there: Its disks.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self.there: set[str] = set()

    def work(self) -> None:
        """Make the disks that are asked for, and delete those to be."""
        for each in self._access.list(CLAIM):
            name = f"pvc-{each['metadata']['uid']}"
            if not each["spec"].get("volumeName") and name not in self.there:
                self.there.add(name)
                self.make(name, each)
        for each in self._access.list(VOLUME):
            spec, name = each["spec"], each["metadata"]["name"]
            if (
                each["status"].get("phase") == "Released"
                and spec["persistentVolumeReclaimPolicy"] == "Delete"
                and name in self.there
            ):
                self.there.remove(name)
                self.forget(name)

    def make(self, name: str, claim: dict) -> None:
        """Make one for a claim."""
        meta, storage = claim["metadata"], claim["spec"]["storageClassName"]
        policy = self._access.get(CLASS, storage)["reclaimPolicy"]
        self._access.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {
                    "name": name,
                    "annotations": {"pv.kubernetes.io/provisioned-by": DRIVER},
                    "finalizers": [MINE],
                },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "capacity": {"storage": "1Gi"},
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": meta["namespace"],
                        "name": meta["name"],
                        "uid": meta["uid"],
                    },
                    "csi": {"driver": DRIVER, "volumeHandle": f"d/{name}"},
                    "persistentVolumeReclaimPolicy": policy,
                    "storageClassName": storage,
                },
            }
        )

    def forget(self, name: str) -> None:
        """Have a volume be gone, whose disk is."""
        self._access.delete(VOLUME, name)
        release(self._access, VOLUME, name)


def release(access: Access, type_: Type, name: str) -> None:
    """Do what a controller does when what is outside is gone."""
    with contextlib.suppress(NotThere):
        change = {"metadata": {"finalizers": None}}
        access.patch(type_, name, change)


def claim(name: str, storage: str) -> dict:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": storage,
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": spec,
    }


def pod(*claims: str) -> dict:
    volumes = [
        {"name": each, "persistentVolumeClaim": {"claimName": each}}
        for each in claims
    ]
    return {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "some/image"}],
        "volumes": volumes,
    }


def workload(kind: str, name: str, spec: dict) -> dict:
    labels = {"of": name}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


@pytest.fixture
def classes(access: Access, namespace: str) -> Iterator[dict[str, str]]:
    """Classes of storage, by their policy."""
    made = {p: f"{namespace}-{p.lower()}" for p in ("Delete", "Retain")}
    for policy, name in made.items():
        access.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": name},
                "provisioner": DRIVER,
                "reclaimPolicy": policy,
            }
        )
    yield made
    for name in made.values():
        access.delete(CLASS, name)


@pytest.fixture
def remove(control_plane, namespace: str):
    """Remove what would outlive; name what is there of this test."""
    accesses = Accesses()
    plane = control_plane
    endpoint = Endpoint(plane.server, plane.ca, lambda: plane.token)

    def call() -> tuple[list[str], list[str]]:
        left = accesses.remove_outliving(endpoint)
        mine = [n for n in left.going if "/" not in n or namespace in n]
        return mine, list(left.staying)

    yield call
    accesses.close()


def test_balancers_of_services_and_ingresses_go(
    access: Access, namespace: str, remove
) -> None:
    backend = {"service": {"name": "inner", "port": {"number": 80}}}
    specs = {
        SERVICE: {"type": "LoadBalancer", "ports": [{"port": 80}]},
        INGRESS: {"defaultBackend": backend},
    }
    for type_, spec in specs.items():
        access.create(
            {
                "apiVersion": type_.api_version,
                "kind": type_.kind,
                "metadata": {"name": "web", "finalizers": [MINE]},
                "spec": spec,
            }
        )
    inner = {"apiVersion": "v1", "kind": "Service"}
    access.create(
        {
            **inner,
            "metadata": {"name": "inner"},
            "spec": {"ports": [{"port": 80}]},
        }
    )
    names = [f"{each.kind} {namespace}/web" for each in specs]
    for _ in range(2):  # it waits for their controllers
        assert remove()[0] == names
    for type_ in specs:
        assert "deletionTimestamp" in access.get(type_, "web")["metadata"]
        release(access, type_, "web")
    assert remove() == ([], [])
    assert [e["metadata"]["name"] for e in access.list(SERVICE)] == ["inner"]


def test_disks_go_with_all_that_has_them_and_others_stay(
    access: Access, namespace: str, classes: dict[str, str], remove, until
) -> None:
    disks = Disks(access)
    deleted, kept = classes["Delete"], classes["Retain"]
    for name in ("alone", "shared", "unused"):
        access.create(claim(name, deleted))
    access.create(claim("precious", kept))
    template = claim("data", deleted)
    stateful = workload("StatefulSet", "stateful", pod())
    stateful["spec"] |= {
        "serviceName": "stateful",
        "volumeClaimTemplates": [
            {"metadata": {"name": "data"}, "spec": template["spec"]}
        ],
    }
    access.create(stateful)
    access.create(workload("Deployment", "deployed", pod("shared")))
    access.create(workload("Deployment", "precious", pod("precious")))
    bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}}
    access.create({**bare, "spec": pod("alone")})

    def are_running() -> bool:
        disks.work()
        phases = [each["status"]["phase"] for each in access.list(POD)]
        return phases == ["Running"] * 4

    until(are_running, "pods with disks")
    assert len(disks.there) == 5
    told: set[str] = set()

    def is_empty() -> bool:
        disks.work()
        try:
            going, staying = remove()
        except CloudUnavailable:
            return False
        told.update(going)
        (mine,) = [each for each in staying if each[2:-9] in disks.there]
        assert mine.endswith("(Retain)")
        return not going

    until(is_empty, "disks to go")
    assert len(disks.there) == 1
    assert f"PersistentVolumeClaim {namespace}/data-stateful-0" in told
    assert {each["metadata"]["name"] for each in access.list(CLAIM)} == {
        "precious"
    }
    (pod_left,) = access.list(POD)
    assert pod_left["metadata"]["name"].startswith("precious-")
    assert access.list(SET) == []
    (left,) = disks.there
    disks.forget(left)
