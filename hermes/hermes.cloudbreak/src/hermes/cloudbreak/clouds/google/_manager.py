"""Clusters and node pools, as users hold them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from hermes.cloudbreak._access import Access
from hermes.cloudbreak.clouds.google._accesses import Accesses, connect
from hermes.cloudbreak.clouds.google._cloud import GKECloud
from hermes.cloudbreak.clouds.google._nodes import Endpoint
from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool, is_zone
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key
from hermes.cloudbreak.triton import Deployer, TritonService
from hermes.cloudbreak.waiting import Clock, finish

__all__ = ("ClusterManager", "RunningCluster", "RunningNodePool")


class ClusterManager:
    """Creates clusters and node pools, and deletes them when it is left.

    Leaving it deletes everything that was added, whatever happened. A program
    that is killed leaves what it has: `hermes.cloudbreak.reaping.reap` deletes
    it after its ``lifetime``, on any machine.

    Threads may share it: what they ask for is done one after the other, and
    who leaves it waits for what is under way.

    Args:
        zone: Where clusters are that do not say so: a zone, or a region.
        project: Google's name of the project that pays; that of the
            credentials if empty.
        credentials: The path of a key file, an object of google-auth, or None
            for Application Default Credentials.
        owner: Who answers for it all; who runs this if None.
        run: What this run is called; something unique if None. Whoever has
            the same owner and run goes on with it: what is there already is
            changed where it can be, and the first that is left deletes all.
        lifetime: Seconds after which anybody may delete it, and Google itself
            ends its machines, whatever runs on them; see `NodePool`.
        timeout: Seconds until something that is added has to be ready.
        deletion_timeout: Seconds until it has to be gone.
        report: Called with what is waited for, whenever that has changed; it
            is logged if None.
        clock: The time.
        api_endpoint: Another address of GKE's API.
        transport: Another transport of its client.

    Attributes:
        stamp: What everything is labelled with.

    Raises:
        InvalidSpec: If a name of these cannot be.
        Refused: If there are no credentials.
    """

    def __init__(
        self,
        zone: str = "",
        project: str = "",
        *,
        credentials: Any = None,
        owner: str | None = None,
        run: str | None = None,
        lifetime: float = 24 * 3600.0,
        timeout: float = 1800.0,
        deletion_timeout: float = 1200.0,
        report: Callable[[Mapping[Key, str]], object] | None = None,
        clock: Clock | None = None,
        api_endpoint: str | None = None,
        transport: Any = None,
    ) -> None:
        clock = clock or Clock()
        self.zone = zone
        self._clock, self._report = clock, report
        self.stamp = Stamp.make(owner, run, clock.today() + lifetime)
        self._timeout = timeout
        self._accesses = Accesses()
        self._cloud = GKECloud(
            project,
            credentials=credentials,
            nodes=self._accesses,
            remover=self._accesses.remove_outliving,
            is_alone=run is None,  # nothing else is of a run that is new
            today=clock.today,
            api_endpoint=api_endpoint,
            transport=transport,
        )
        self._reconciler = Reconciler(
            self._cloud,
            self.stamp,
            clock=clock,
            report=report,
            deletion_timeout=deletion_timeout,
            prunes=False,
        )
        self._deletion_timeout = deletion_timeout
        # A cluster has one change at a time, and so has the reconciler.
        self._lock = threading.RLock()
        self._clusters: list[RunningCluster] = []
        self._is_closed = False

    def __repr__(self) -> str:
        return (
            f"<ClusterManager, project {self.project}, run {self.stamp.run}, "
            f"{len(self._reconciler.keys)} resources>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True) and self._reconciler.keys:
            warnings.warn(
                f"{self!r} was not closed, and what it created costs money",
                ResourceWarning,
                stacklevel=1,
            )

    @property
    def project(self) -> str:
        """The project that pays."""
        return self._cloud.project

    def add(
        self, spec: Cluster, *, timeout: float | None = None
    ) -> RunningCluster:
        """Create a cluster, or adopt it, and wait until it is ready.

        Args:
            spec: What it is like.
            timeout: Seconds until it has to be ready; the manager's if None.

        Raises:
            InvalidSpec: If it has no zone.
            CloudbreakError: See `Reconciler.bring_up`; nothing is left of it.
        """
        if not spec.zones:
            spec = replace(spec, zones=(self.zone,) if self.zone else ())
        if not spec.zones:
            raise InvalidSpec(
                f"{spec.key} has no zone: give zones=, or zone= to its manager"
            )
        self._bring_up(spec, timeout)
        # It may be in another of its zones by now.
        place = self._cloud.locate(spec.name)
        made = RunningCluster(self, replace(spec, zones=(place,)))
        self._clusters.append(made)
        return made

    def close(self) -> None:
        """Delete everything that was added, and wait until it is gone.

        It goes on after one Ctrl-C, and gives up after the second.

        Raises:
            StillThere: If it is not gone in time; it names what is left.
        """
        # From the last to the first, whatever goes wrong on the way.
        with contextlib.ExitStack() as stack:
            stack.callback(self._cloud.close)  # and these connections
            stack.callback(self._take_everything_down)
            for cluster in self._clusters:
                stack.callback(cluster.undeploy)

    def _take_everything_down(self) -> None:
        def take() -> None:
            with self._lock:
                self._reconciler.take_everything_down()

        try:
            finish(take)
        finally:
            self._is_closed = True

    def _bring_up(
        self, spec: Cluster | NodePool, timeout: float | None
    ) -> None:
        timeout = self._timeout if timeout is None else timeout
        with self._lock:
            if self._is_closed:
                raise InvalidSpec(f"{spec.key}: this manager was closed")
            self._reconciler.bring_up(
                [spec],
                timeout,
                lambda end: self._cloud.check(spec, self._clock, end),
            )

    def _take_down(self, key: Key) -> None:
        with self._lock:
            if not self._is_closed:
                self._reconciler.take_down([key])

    def _endpoint(self, name: str) -> Endpoint:
        return self._cloud.endpoint(name)

    def _deployer(self, access: Access) -> Deployer:
        return Deployer(
            access,
            self.stamp,
            clock=self._clock,
            report=self._report,
            deletion_timeout=self._deletion_timeout,
        )


class _Running:
    """Something that is ready; leaving it deletes it."""

    def __init__(self, manager: ClusterManager, key: Key) -> None:
        self._manager = manager
        self.key = key

    def __repr__(self) -> str:
        return f"<{self.key} in {self._manager.project}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    @property
    def name(self) -> str:
        """Its name."""
        return self.key.name

    def delete(self) -> None:
        """Delete it and all that is part of it; wait until that is gone.

        What was there before is left as it was found.

        Raises:
            StillThere: If it is not gone in time.
        """
        self._manager._take_down(self.key)


class RunningCluster(_Running):
    """A cluster that is ready. As a context manager, it deletes itself.

    Attributes:
        key: Which it is.
        spec: What was asked for, where it is.
    """

    def __init__(self, manager: ClusterManager, spec: Cluster) -> None:
        super().__init__(manager, spec.key)
        self.spec = spec
        self._deployer: Deployer | None = None

    def add(
        self, spec: NodePool, *, timeout: float | None = None
    ) -> RunningNodePool:
        """Create a node pool, or adopt it, and wait until it can be used.

        Pools of GPUs are ready when ``nvidia.com/gpu`` is allocatable on each
        of their nodes.

        Args:
            spec: What it is like.
            timeout: Seconds until it has to be ready; the manager's if None.

        Raises:
            InvalidSpec: If it is in no zone of the cluster's region.
            CloudbreakError: See `Reconciler.bring_up`; nothing is left of it.
        """
        placed = _place(spec, self.spec)
        self._manager._bring_up(placed, timeout)
        return RunningNodePool(self._manager, placed.key)

    @property
    def endpoint(self) -> Endpoint:
        """How to reach its Kubernetes: server, certificate and token."""
        return self._manager._endpoint(self.name)

    def deploy_triton(
        self, repository: str, name: str = "triton", **settings: Any
    ) -> TritonService:
        """Have Triton serve a repository, and wait until it infers.

        Args:
            repository: Where the models are, as the servers see it.
            name: What the deployment is called.
            **settings: See `Deployer.deploy_triton`.

        Raises:
            CloudbreakError: See `Deployer.deploy_triton`.
        """
        with self._manager._lock:
            if self._deployer is None:
                self._deployer = self._manager._deployer(self.connect())
            return self._deployer.deploy_triton(repository, name, **settings)

    def undeploy(self) -> None:
        """Delete what was deployed, and wait until it is gone.

        Raises:
            StillThere: If it is not gone in time.
        """
        if self._deployer is not None:
            self._deployer.close()
        self._deployer = None

    def delete(self) -> None:
        """Delete it and all that is in it; wait until that is gone.

        What was deployed goes first, and what would outlive the cluster: load
        balancers and disks.

        Raises:
            StillThere: If it is not gone in time.
        """
        try:
            self.undeploy()
        finally:
            super().delete()

    def connect(self, namespace: str = "default") -> Access:
        """Reach its Kubernetes. Close what you get."""
        return connect(self.endpoint, namespace)


class RunningNodePool(_Running):
    """A node pool that is ready. As a context manager, it deletes itself.

    Attributes:
        key: Which it is.
    """


def _place(pool: NodePool, cluster: Cluster) -> NodePool:
    """Say where a pool is, and of what."""
    zones = pool.zones or tuple(z for z in cluster.zones[:1] if is_zone(z))
    if not zones:
        raise InvalidSpec(
            f"node pool {pool.name} has no zone: its cluster is in the region "
            f"{cluster.zones[0]}, so give zones= of it, the best first"
        )
    region = _region(cluster.zones[0])
    for zone in zones:
        if _region(zone) != region:
            raise InvalidSpec(
                f"zone {zone} of node pool {pool.name} is not in {region}, "
                f"the region of its cluster {cluster.name}"
            )
    if pool.cluster not in {"", cluster.name}:
        raise InvalidSpec(
            f"node pool {pool.name} is of cluster {pool.cluster}: add it to "
            "that one"
        )
    return replace(pool, zones=zones, cluster=cluster.name)


def _region(place: str) -> str:
    return place.rpartition("-")[0] if is_zone(place) else place
