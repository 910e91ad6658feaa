"""What GKE lets one choose: plain, frozen data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hermes.cloudbreak.clouds.google._machines import check_gpus
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.specs import ClusterSpec, NodePoolSpec

__all__ = (
    "Cluster",
    "Driver",
    "NodePool",
    "check_run",
    "is_zone",
    "limit_run",
)

Driver = Literal["default", "latest", "disabled"]

_REGION = r"[a-z]+-[a-z]+\d+"
_ZONE = re.compile(rf"{_REGION}-[a-z0-9]+")
_PLACE = re.compile(rf"{_REGION}(-[a-z0-9]+)?")
_DRIVERS = ("default", "latest", "disabled")
# What Google accepts as the longest run of a machine [s].
_SHORTEST_RUN, _LONGEST_RUN = 30, 120 * 86400


def is_zone(place: str) -> bool:
    """Tell a zone from a region."""
    return _ZONE.fullmatch(place) is not None


def check_run(name: str, seconds: float | None) -> None:
    """Refuse what cannot be the longest run of a machine.

    Raises:
        InvalidSpec: If Google does not accept it.
    """
    if seconds in {None, math.inf}:
        return
    if not _SHORTEST_RUN <= seconds <= _LONGEST_RUN:
        raise InvalidSpec(
            f"max_run_seconds={seconds!r} of {name}: give {_SHORTEST_RUN} to "
            f"{_LONGEST_RUN} (120 days), or None"
        )


def limit_run(seconds: float) -> int:
    """Give the nearest to it that Google accepts as a longest run [s]."""
    return int(min(max(seconds, _SHORTEST_RUN), _LONGEST_RUN))


@dataclass(frozen=True)
class Cluster(ClusterSpec):
    """A GKE cluster, with a pool of its own for what Kubernetes itself runs.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40.
        zones: Where it may be, the best first: zones, or regions for a
            cluster whose control plane is in several zones. That of its
            manager if empty.
        exists_ok: Whether one that is there already will do.
        machine_type: Machines of its own pool.
        num_nodes: How many of them; in a region, in each of its zones.
        node_zones: Zones of its own pool, where it is in a region.
        disk_gb: Size of each machine's disk [GB].
        kubernetes_version: Such as ``"1.31"``; GKE's choice if empty.
        workload_identity: Whether pods have the identity of their Kubernetes
            service account, and not that of their machine.
        service_account: Whose name its machines act in; the project's default
            one if empty.
        network: Its network; the project's default one if empty.
        subnetwork: Its part of that network.
        max_run_seconds: When Google itself ends each machine of its own pool;
            see `NodePool`.
    """

    changeable: ClassVar[frozenset[str]] = frozenset({"num_nodes"})

    machine_type: str = "e2-standard-4"
    num_nodes: int = 1
    node_zones: tuple[str, ...] = ()
    disk_gb: int = 50
    kubernetes_version: str = ""
    workload_identity: bool = True
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    max_run_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_places(self.name, self.zones, _PLACE, "zones or regions")
        _check_places(self.name, self.node_zones, _ZONE, "zones")
        _check_positive(self.name, "num_nodes", self.num_nodes)
        _check_positive(self.name, "disk_gb", self.disk_gb)
        check_run(self.name, self.max_run_seconds)

    def ends_after(self, seconds_left: float) -> int | None:
        """Tell when each machine of its own pool ends; see `NodePool`."""
        return _ends_after(self.max_run_seconds, seconds_left)


@dataclass(frozen=True)
class NodePool(NodePoolSpec):
    """A GKE node pool.

    ``NodePool("gpus", **create_gpu_node_pool_config(8, 1, "t4"))`` is one of
    GPUs. It is in one zone at a time: the first of ``zones`` that has its
    machines.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40.
        zones: Where it may be, the best first: zones of its cluster's region.
            That of its cluster if empty.
        exists_ok: Whether one that is there already will do.
        cluster: Name of its cluster; filled in by who adds it to one.
        num_nodes: How many machines, at first where it is autoscaled.
        machine_type: Their type.
        gpu_type: Google's name of their GPUs; "" for none.
        num_gpus: GPUs of each.
        spot: Whether they may be taken away at any time, for less money.
        min_nodes: Autoscaled: at least so many machines.
        max_nodes: Autoscaled: at most so many.
        gpu_driver: Which driver GKE installs: ``"default"``, ``"latest"`` or,
            for who installs one by hand, ``"disabled"``.
        disk_gb: Size of each machine's disk [GB].
        disk_type: Such as ``"pd-ssd"``; GKE's choice if empty.
        service_account: Whose name machines act in; the project's default one
            if empty.
        workload_identity: Whether to insist on it; pools of a cluster that
            has it have it anyway.
        max_run_seconds: When Google itself ends each machine, counted from
            its start, and whatever runs on it: 30 to 10368000 (120 days), or
            ``math.inf`` for never. What is left of the lifetime of who asks
            for the pool if None, within these limits.
    """

    changeable: ClassVar[frozenset[str]] = frozenset(
        {"max_nodes", "min_nodes", "num_nodes"}
    )

    machine_type: str = "e2-standard-4"
    min_nodes: int | None = None
    max_nodes: int | None = None
    gpu_driver: Driver = "default"
    disk_gb: int = 100
    disk_type: str = ""
    service_account: str = ""
    workload_identity: bool = False
    max_run_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_places(self.name, self.zones, _ZONE, "zones")
        check_gpus(self.machine_type, self.gpu_type, self.num_gpus)
        _check_positive(self.name, "disk_gb", self.disk_gb)
        if self.gpu_driver not in _DRIVERS:
            raise InvalidSpec(
                f"gpu_driver={self.gpu_driver!r} of {self.name}: give one of "
                f"{', '.join(_DRIVERS)}"
            )
        self._check_scaling()
        check_run(self.name, self.max_run_seconds)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it is like, as plain data."""
        found = dict(super().settings)
        if self.is_autoscaled:
            del found["num_nodes"]  # GKE decides
        return found

    @property
    def is_autoscaled(self) -> bool:
        """Whether GKE decides how many machines there are."""
        return self.max_nodes is not None

    def ends_after(self, seconds_left: float) -> int | None:
        """Tell when each machine ends [s], counted from its start.

        Args:
            seconds_left: Of the lifetime of who asks for it.

        Returns:
            None if it does not.
        """
        return _ends_after(self.max_run_seconds, seconds_left)

    def _check_scaling(self) -> None:
        low, high = self.min_nodes, self.max_nodes
        if low is None and high is None:
            return
        if low is None or high is None or not 0 <= low <= high or high < 1:
            raise InvalidSpec(
                f"min_nodes={low!r}, max_nodes={high!r} of {self.name}: give "
                "both, the smaller first, or none"
            )
        if not low <= self.num_nodes <= high:
            raise InvalidSpec(
                f"num_nodes={self.num_nodes!r} of {self.name}: give a number "
                f"from min_nodes={low} to max_nodes={high}"
            )


def _ends_after(chosen: float | None, seconds_left: float) -> int | None:
    if chosen == math.inf:
        return None
    return limit_run(seconds_left if chosen is None else chosen)


def _check_places(
    name: str, places: tuple[str, ...], form: re.Pattern[str], what: str
) -> None:
    for each in places:
        if not form.fullmatch(str(each)):
            raise InvalidSpec(
                f"{each!r} of {name}: give {what} such as 'us-central1-a'"
            )


def _check_positive(name: str, what: str, number: int) -> None:
    if number < 1:
        raise InvalidSpec(
            f"{what}={number!r} of {name}: give a positive number"
        )
