"""What GKE does with clusters and node pools: its rules and its manners."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from _gke_checks import (
    ZONES,
    Error,
    check_cluster,
    check_pool,
    places,
    region_of,
)
from _gke_machines import Machines, NoMachines
from google.cloud.container_v1 import types

VERSION = "1.33.5-gke.1080000"
BUSY = "CLUSTER_ALREADY_HAS_OPERATION"

_Status, _Kind = types.Operation.Status, types.Operation.Type
_Cluster, _Pool = types.Cluster.Status, types.NodePool.Status


@dataclass(frozen=True)
class Trouble:
    """How something breaks while it is created.

    Attributes:
        code: ``GCE_STOCKOUT`` or ``GCE_QUOTA_EXCEEDED``.
        text: What the operation says.
        vanishes: Whether nothing but the failed operation is left.
        is_silent: Whether the resource itself does not say why.
    """

    code: str
    text: str
    vanishes: bool = False
    is_silent: bool = False


@dataclass
class _Running:
    """An operation on its way."""

    message: types.Operation
    until: float
    work: Callable[[], None] = field(repr=False)


class Project:
    """What there is in one project.

    Args:
        name: The project.
        seconds: How long an operation takes.
        today: The time, in seconds since 1970.
        machines: Where clusters really are.

    Attributes:
        troubles: What breaks: by the name of a resource, or a name and zone.
        missing_zones: Zones that lists cannot see into.
    """

    def __init__(
        self,
        name: str = "test-project",
        *,
        seconds: float = 60.0,
        today: Callable[[], float] = time.time,
        machines: Machines | None = None,
    ) -> None:
        self.name = name
        self.troubles: dict[Any, Trouble] = {}
        self.missing_zones: list[str] = []
        self._seconds, self._today = seconds, today
        self._machines = machines or NoMachines()
        self._clusters: dict[tuple[str, str], types.Cluster] = {}
        self._operations: dict[str, types.Operation] = {}
        self._running: list[_Running] = []

    @property
    def resources(self) -> list[str]:
        """All there is: clusters, and their pools but the default one."""
        self._tick()
        found = [each.name for each in self._clusters.values()]
        return found + [
            f"{each.name}/{pool.name}"
            for each in self._clusters.values()
            for pool in each.node_pools
            if pool.name != "default-pool"
        ]

    # The methods, as GKE's client names them.

    def list_clusters(self, request: Any) -> Any:
        """List those in a location, or in all."""
        location = self._location(request.parent, anywhere=True)
        return types.ListClustersResponse(
            clusters=[
                each
                for (place, _), each in self._clusters.items()
                if location in {"-", place}
                and not any(z.startswith(place) for z in self.missing_zones)
            ],
            missing_zones=self.missing_zones,
        )

    def get_cluster(self, request: Any) -> Any:
        """Give one."""
        return self._find(request.name)

    def create_cluster(self, request: Any) -> Any:
        """Begin to create one."""
        location = self._location(request.parent)
        cluster = types.Cluster(request.cluster)
        check_cluster(cluster)
        name = f"projects/{self.name}/zones/{location}/clusters/{cluster.name}"
        if (location, cluster.name) in self._clusters:
            raise Error("ALREADY_EXISTS", f"Already exists: {name}.")
        self._fill(cluster, location)
        self._clusters[location, cluster.name] = cluster
        return self._begin(
            _Kind.CREATE_CLUSTER,
            location,
            name,
            lambda op: self._finish_cluster(op, cluster),
        )

    def delete_cluster(self, request: Any) -> Any:
        """Begin to delete one, and all that is in it."""
        cluster = self._find(request.name)
        self._check_idle(cluster)
        cluster.status = _Cluster.STOPPING
        for pool in cluster.node_pools:
            pool.status = _Pool.STOPPING

        def finish(_: types.Operation) -> None:
            for pool in cluster.node_pools:
                self._machines.stop_pool(cluster.name, pool.name)
            self._machines.stop_cluster(cluster.name)
            self._clusters.pop((cluster.location, cluster.name), None)

        return self._begin(
            _Kind.DELETE_CLUSTER, cluster.location, request.name, finish
        )

    def list_node_pools(self, request: Any) -> Any:
        """List those of a cluster."""
        cluster = self._find(request.parent)
        return types.ListNodePoolsResponse(node_pools=cluster.node_pools)

    def get_node_pool(self, request: Any) -> Any:
        """Give one."""
        return self._find_pool(request.name)[1]

    def create_node_pool(self, request: Any) -> Any:
        """Begin to create one."""
        cluster = self._find(request.parent)
        pool = types.NodePool(request.node_pool)
        check_pool(cluster, pool)
        name = f"{request.parent}/nodePools/{pool.name}"
        if any(each.name == pool.name for each in cluster.node_pools):
            raise Error("ALREADY_EXISTS", f"Already exists: {name}.")
        self._check_idle(cluster)
        cluster.status = _Cluster.RECONCILING
        pool.status = _Pool.PROVISIONING
        pool.version = VERSION
        pool.locations = pool.locations or cluster.locations
        cluster.node_pools.append(pool)
        return self._begin(
            _Kind.CREATE_NODE_POOL,
            cluster.location,
            name,
            lambda op: self._finish_pool(op, cluster, pool.name),
        )

    def delete_node_pool(self, request: Any) -> Any:
        """Begin to delete one."""
        cluster, pool = self._find_pool(request.name)
        self._check_idle(cluster)
        cluster.status = _Cluster.RECONCILING
        pool.status = _Pool.STOPPING

        def finish(_: types.Operation) -> None:
            self._machines.stop_pool(cluster.name, pool.name)
            self._remove_pool(cluster, pool.name)
            cluster.status = _Cluster.RUNNING

        return self._begin(
            _Kind.DELETE_NODE_POOL, cluster.location, request.name, finish
        )

    def set_node_pool_size(self, request: Any) -> Any:
        """Begin to have more machines, or fewer."""

        def change(pool: types.NodePool) -> None:
            pool.initial_node_count = request.node_count

        return self._change(_Kind.SET_NODE_POOL_SIZE, request.name, change)

    def set_node_pool_autoscaling(self, request: Any) -> Any:
        """Begin to scale a pool by itself, or not any more."""

        def change(pool: types.NodePool) -> None:
            pool.autoscaling = request.autoscaling

        kind = _Kind.SET_NODE_POOL_MANAGEMENT  # as it has no kind of its own
        return self._change(kind, request.name, change)

    def _change(
        self, kind: Any, name: str, change: Callable[[types.NodePool], None]
    ) -> Any:
        cluster, pool = self._find_pool(name)
        self._check_idle(cluster)
        cluster.status = _Cluster.RECONCILING
        pool.status = _Pool.RECONCILING

        def finish(operation: types.Operation) -> None:
            cluster.status, pool.status = _Cluster.RUNNING, _Pool.RUNNING
            trouble = self.troubles.get(pool.name)
            if trouble is not None:
                self._fail(operation, trouble, pool, _Pool.RUNNING)
                return
            change(pool)
            self._machines.resize_pool(cluster.name, pool)

        return self._begin(kind, cluster.location, name, finish)

    def list_operations(self, request: Any) -> Any:
        """List those of a location."""
        location = self._location(request.parent, anywhere=True)
        return types.ListOperationsResponse(
            operations=[
                each
                for each in self._operations.values()
                if location in {"-", each.location}
            ]
        )

    def get_operation(self, request: Any) -> Any:
        """Give one."""
        self._tick()
        found = self._operations.get(request.name.rpartition("/")[2])
        if found is None or found.location != request.name.split("/")[3]:
            raise Error("NOT_FOUND", f"Not found: {request.name}.")
        return found

    # What becomes of things.

    def _begin(
        self,
        kind: Any,
        location: str,
        target: str,
        finish: Callable[[types.Operation], None],
    ) -> types.Operation:
        today = self._today()
        name = f"operation-{int(today * 1e3)}-{uuid.uuid4()}"
        message = types.Operation(
            name=name,
            operation_type=kind,
            location=location,
            zone=location,
            status=_Status.RUNNING,
            start_time=_time(today),
            target_link=f"https://container.googleapis.com/v1/{target}",
            self_link=(
                f"https://container.googleapis.com/v1/projects/{self.name}"
                f"/zones/{location}/operations/{name}"
            ),
        )
        self._operations[name] = message
        self._running.append(
            _Running(message, today + self._seconds, lambda: finish(message))
        )
        return message

    def _tick(self) -> None:
        for each in [r for r in self._running if r.until <= self._today()]:
            self._running.remove(each)
            each.work()
            each.message.status = _Status.DONE
            each.message.end_time = _time(self._today())

    def _finish_cluster(
        self, operation: types.Operation, cluster: types.Cluster
    ) -> None:
        trouble = self.troubles.get(cluster.name) or self.troubles.get(
            (cluster.name, cluster.location)
        )
        if trouble is not None:
            self._fail(operation, trouble, cluster, _Cluster.ERROR)
            if trouble.vanishes:
                del self._clusters[cluster.location, cluster.name]
            return
        found = self._machines.start_cluster(cluster.name)
        cluster.endpoint, cluster.master_auth.cluster_ca_certificate = found
        cluster.status = _Cluster.RUNNING
        for pool in cluster.node_pools:
            self._machines.start_pool(cluster.name, pool)
            pool.status = _Pool.RUNNING

    def _finish_pool(
        self, operation: types.Operation, cluster: types.Cluster, name: str
    ) -> None:
        cluster.status = _Cluster.RUNNING
        pool = next(p for p in cluster.node_pools if p.name == name)
        zone = next(iter(pool.locations), "")
        trouble = self.troubles.get(name) or self.troubles.get((name, zone))
        if trouble is None:
            self._machines.start_pool(cluster.name, pool)
            pool.status = _Pool.RUNNING
            return
        self._fail(operation, trouble, pool, _Pool.ERROR)
        if trouble.vanishes:
            self._remove_pool(cluster, name)

    def _fail(
        self,
        operation: types.Operation,
        trouble: Trouble,
        resource: Any,
        status: Any,
    ) -> None:
        condition = types.StatusCondition(
            code=trouble.code, message=trouble.text
        )
        operation.error = {"code": 8, "message": trouble.text}
        operation.status_message = trouble.text
        operation.nodepool_conditions = [condition]
        resource.status = status
        if not trouble.is_silent:
            resource.status_message = trouble.text
            resource.conditions = [condition]

    def _remove_pool(self, cluster: types.Cluster, name: str) -> None:
        kept = [each for each in cluster.node_pools if each.name != name]
        cluster.node_pools = kept

    def _location(self, parent: str, *, anywhere: bool = False) -> str:
        self._tick()
        parts = parent.split("/")
        if len(parts) < 4 or parts[1] != self.name:
            raise Error(
                "PERMISSION_DENIED",
                'Required "container.clusters.list" permission(s) for '
                f'"{"/".join(parts[:2])}".',
            )
        if parts[3] in places() or (anywhere and parts[3] == "-"):
            return parts[3]
        raise Error(
            "PERMISSION_DENIED",
            f"Permission denied on 'locations/{parts[3]}' (or it may not "
            "exist).",
        )

    def _find(self, name: str) -> types.Cluster:
        location = self._location(name)
        found = self._clusters.get((location, name.split("/")[5]))
        if found is None:
            raise Error("NOT_FOUND", f"Not found: {name}.")
        return found

    def _find_pool(self, name: str) -> tuple[types.Cluster, types.NodePool]:
        cluster = self._find(name)
        for pool in cluster.node_pools:
            if pool.name == name.split("/")[7]:
                return cluster, pool
        raise Error("NOT_FOUND", f"Not found: {name}.")

    def _check_idle(self, cluster: types.Cluster) -> None:
        end = f"/{cluster.location}/clusters/{cluster.name}"
        for each in self._running:
            target = each.message.target_link.partition("/nodePools/")[0]
            if target.endswith(end):
                raise Error(
                    "FAILED_PRECONDITION",
                    "Cluster is running incompatible operation "
                    f"{each.message.name}.",
                    BUSY,
                )

    def _fill(self, cluster: types.Cluster, location: str) -> None:
        cluster.status = _Cluster.PROVISIONING
        cluster.location = cluster.zone = location
        cluster.create_time = _time(self._today())
        cluster.self_link = (
            f"https://container.googleapis.com/v1/projects/{self.name}/zones/"
            f"{location}/clusters/{cluster.name}"
        )
        cluster.initial_cluster_version = VERSION
        cluster.current_master_version = VERSION
        cluster.current_node_version = VERSION
        if not cluster.locations:
            inside = [z for z in ZONES if region_of(z) == location]
            cluster.locations = inside or [location]
        if not cluster.node_pools:
            cluster.node_pools = [
                types.NodePool(
                    name="default-pool",
                    config=cluster.node_config,
                    initial_node_count=cluster.initial_node_count,
                )
            ]
        for pool in cluster.node_pools:
            pool.status, pool.version = _Pool.PROVISIONING, VERSION
            pool.locations = pool.locations or cluster.locations


def _time(today: float) -> str:
    return dt.datetime.fromtimestamp(today, dt.UTC).isoformat()
