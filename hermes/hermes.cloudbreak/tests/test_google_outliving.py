"""What of a cluster stands beside it."""

from __future__ import annotations

from typing import Any

import pytest

from hermes.cloudbreak._access import SERVICE, Type
from hermes.cloudbreak.clouds.google._outliving import (
    BALANCED,
    CLAIM,
    VOLUME,
    Part,
    find_balancers,
    find_disks,
    users_of,
)

MADE = {"pv.kubernetes.io/provisioned-by": "pd.csi.storage.gke.io"}


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": f"uid-{name}", **more}


def volume(name: str, policy: str = "Delete", **more: Any) -> dict[str, Any]:
    spec = {
        "persistentVolumeReclaimPolicy": policy,
        "csi": {"volumeHandle": f"disks/{name}"},
        **more,
    }
    return {"metadata": meta(name, annotations=MADE), "spec": spec}


def claim(name: str, of: str = "") -> dict[str, Any]:
    spec = {"volumeName": of} if of else {}
    return {"metadata": meta(name, namespace="n"), "spec": spec}


def test_only_services_of_that_type_have_balancers() -> None:
    manifests = [
        {"metadata": meta("a", namespace="n"), "spec": {"type": "ClusterIP"}},
        {"metadata": meta("b", namespace="n"), "spec": {}},
        {
            "metadata": meta("c", namespace="n", deletionTimestamp="now"),
            "spec": {"type": "LoadBalancer"},
        },
    ]
    (found,) = find_balancers(SERVICE, manifests)
    assert found == Part(SERVICE, "n", "c", "uid-c", is_going=True)
    assert str(found) == "Service n/c"
    for type_ in BALANCED[1:]:
        assert len(find_balancers(type_, manifests)) == 3


def test_disks_go_that_were_made_for_a_claim_and_are_not_to_be_kept() -> None:
    by_hand = volume("by-hand")
    del by_hand["metadata"]["annotations"]
    older = volume("older", "Retain", gcePersistentDisk={"pdName": "old"})
    del older["spec"]["csi"]
    elsewhere = volume("elsewhere", "Retain", nfs={})
    del elsewhere["spec"]["csi"]
    volumes = [volume("a"), volume("kept", "Retain"), by_hand, older]
    claims = [
        claim("one", "a"),
        claim("two", "kept"),
        claim("three", "by-hand"),
        claim("waits"),  # it may get a disk yet
    ]
    found = find_disks([*volumes, elsewhere], claims)
    assert [str(each) for each in found.volumes] == ["PersistentVolume a"]
    assert [each.name for each in found.claims] == ["one", "waits"]
    assert found.staying == (
        "disks/kept (Retain)",
        "disks/by-hand (Delete)",
        "old (Retain)",
    )


@pytest.mark.parametrize(
    "volumes",
    [
        [{"name": "v", "persistentVolumeClaim": {"claimName": "pod-v"}}],
        [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}],
    ],
)
def test_pods_are_found_by_their_claims(volumes: list) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r"}
    owners = [{**owner, "name": "x"}, {**owner, "controller": True}]
    pods = [
        {
            "metadata": meta(name, namespace=where, ownerReferences=owners),
            "spec": {"volumes": found},
        }
        for name, where, found in [
            ("pod", "n", [{"name": "e", "emptyDir": {}}, *volumes]),
            ("pod", "another", volumes),
            ("none", "n", [{"name": "e", "emptyDir": {}}]),
        ]
    ]
    claims = [Part.of(CLAIM, claim("pod-v"))]
    (found,) = users_of(claims, [*pods, {"metadata": meta("p"), "spec": {}}])
    assert (found.namespace, found.name) == ("n", "pod")
    assert found.owner == (Type("apps/v1", "ReplicaSet"), "r")


def test_what_is_in_no_namespace_has_none() -> None:
    assert Part.of(VOLUME, volume("a")).namespace == ""
