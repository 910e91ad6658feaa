"""Pure: what is in a cluster and would outlive it, because it stands beside.

Load balancers belong to objects that ask for them, and disks to volumes. Both
go with these objects, by the cluster's own controllers; and a claim stays as
long as a pod has its volume, and so does its disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hermes.cloudbreak._access import SERVICE, Type
from hermes.cloudbreak._answers import Manifest
from hermes.cloudbreak.clouds.google._nodes import Endpoint

__all__ = (
    "Disks",
    "Outliving",
    "Part",
    "Remover",
    "find_balancers",
    "find_disks",
    "users_of",
)

CLAIM = Type("v1", "PersistentVolumeClaim")
VOLUME = Type("v1", "PersistentVolume")
# What asks for load balancers; not every cluster has all of these.
BALANCED = (
    SERVICE,
    Type("networking.k8s.io/v1", "Ingress"),
    Type("gateway.networking.k8s.io/v1", "Gateway"),
)
# On volumes that were made for a claim.
_PROVISIONED = "pv.kubernetes.io/provisioned-by"


@dataclass(frozen=True)
class Outliving:
    """What of a cluster is still beside it.

    Attributes:
        going: What was asked to go, and has not gone yet.
        staying: Disks that somebody has said to keep.
    """

    going: Sequence[str] = ()
    staying: Sequence[str] = ()


class Remover(Protocol):
    """Has what would outlive a cluster deleted; may raise `CloudError`."""

    def __call__(self, endpoint: Endpoint) -> Outliving:
        """Ask for its end, and do not wait; tell what is still there."""


@dataclass(frozen=True)
class Part:
    """An object in a cluster.

    Attributes:
        type_: Its kind.
        namespace: Where it is; "" if it is in none.
        name: Its name.
        uid: Which of that name.
        is_going: Whether it is being deleted.
        owner: Type and name of what would create it anew, if anything.
    """

    type_: Type
    namespace: str
    name: str
    uid: str
    is_going: bool = False
    owner: tuple[Type, str] | None = None

    @classmethod
    def of(cls, type_: Type, manifest: Manifest) -> Part:
        """Read one."""
        meta = manifest["metadata"]
        owners = (
            (Type(each["apiVersion"], each["kind"]), each["name"])
            for each in meta.get("ownerReferences") or ()
            if each.get("controller")
        )
        return cls(
            type_,
            meta.get("namespace", ""),
            meta["name"],
            meta["uid"],
            "deletionTimestamp" in meta,
            next(owners, None),
        )

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.type_.kind} {where}{self.name}"


@dataclass(frozen=True)
class Disks:
    """What becomes of a cluster's disks.

    Attributes:
        volumes: Those that go, each with its disk.
        claims: By whose deletion they do, and claims that have none yet.
        staying: Names of the disks that stay.
    """

    volumes: tuple[Part, ...]
    claims: tuple[Part, ...]
    staying: tuple[str, ...]


def find_balancers(type_: Type, manifests: Iterable[Manifest]) -> list[Part]:
    """Find what has load balancers, among objects of one of `BALANCED`."""
    return [
        Part.of(type_, each)
        for each in manifests
        if type_ != SERVICE or each["spec"].get("type") == "LoadBalancer"
    ]


def find_disks(
    volumes: Iterable[Manifest], claims: Iterable[Manifest]
) -> Disks:
    """Tell which disks go, and which stay.

    Those go that were made for a claim, and are to be deleted with it.
    """
    going, staying = [], []
    for each in volumes:
        if _is_made(each) and _policy(each) == "Delete":
            going.append(Part.of(VOLUME, each))
        elif disk := _disk_of(each):
            staying.append(f"{disk} ({_policy(each)})")
    names = {"", *(each.name for each in going)}
    doomed = (
        Part.of(CLAIM, each)
        for each in claims
        if each["spec"].get("volumeName", "") in names
    )
    return Disks(tuple(going), tuple(doomed), tuple(staying))


def users_of(
    claims: Iterable[Part], pods: Iterable[Manifest]
) -> Iterator[Part]:
    """Find the pods that have one of some claims."""
    wanted = {(each.namespace, each.name) for each in claims}
    for each in pods:
        found = Part.of(Type("v1", "Pod"), each)
        if any((found.namespace, n) in wanted for n in _claims_of(each)):
            yield found


def _claims_of(pod: Manifest) -> Iterator[str]:
    for each in pod["spec"].get("volumes") or ():
        if claim := each.get("persistentVolumeClaim"):
            yield claim["claimName"]
        elif "ephemeral" in each:
            yield f"{pod['metadata']['name']}-{each['name']}"


def _is_made(volume: Manifest) -> bool:
    return _PROVISIONED in (volume["metadata"].get("annotations") or {})


def _policy(volume: Manifest) -> str:
    return str(volume["spec"].get("persistentVolumeReclaimPolicy", "Retain"))


def _disk_of(volume: Manifest) -> str:
    """Name the disk of a volume; "" if it is on none of Google's."""
    spec = volume["spec"]
    newer, older = spec.get("csi") or {}, spec.get("gcePersistentDisk") or {}
    return str(newer.get("volumeHandle") or older.get("pdName") or "")
