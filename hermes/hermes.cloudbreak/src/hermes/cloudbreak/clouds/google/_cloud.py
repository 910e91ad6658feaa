"""Clusters and node pools of GKE, as a `Cloud`."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Self

from hermes.cloudbreak.clouds.google._asked import (
    Asked,
    Failures,
    Memory,
    say_machine,
)
from hermes.cloudbreak.clouds.google._credentials import Credentials
from hermes.cloudbreak.clouds.google._emptying import Emptying
from hermes.cloudbreak.clouds.google._gke import Wire
from hermes.cloudbreak.clouds.google._nodes import (
    Endpoint,
    NodeLister,
    find_lack,
)
from hermes.cloudbreak.clouds.google._outliving import Remover
from hermes.cloudbreak.clouds.google._places import Places
from hermes.cloudbreak.clouds.google._reading import (
    blame,
    has_failed,
    machine_of,
    observed_cluster,
    observed_pool,
)
from hermes.cloudbreak.clouds.google._requests import (
    CREATED,
    DEFAULT_POOL,
    cluster_message,
    pool_changes,
    pool_message,
)
from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool
from hermes.cloudbreak.clouds.google._words import explain
from hermes.cloudbreak.errors import (
    CloudError,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    QuotaExceeded,
    Refused,
    StockOut,
    WaitTimeout,
)
from hermes.cloudbreak.labels import OWNER, Stamp
from hermes.cloudbreak.specs import (
    Cause,
    Key,
    Kind,
    Observed,
    Spec,
    State,
)
from hermes.cloudbreak.waiting import Clock, Pauses

__all__ = ("GKECloud",)

_log = logging.getLogger(__name__)


class GKECloud:
    """GKE's clusters and node pools, as a `Cloud`.

    Names of clusters are taken for unique in a project, though GKE has them
    unique in a location: what is called like another one elsewhere is neither
    created nor deleted.

    Args:
        project: Google's name of the project; that of the credentials if "".
        credentials: The path of a key file, an object of google-auth, or None
            for what the environment has.
        nodes: Lists the machines of a pool. With it, a pool of GPUs that this
            object created is ready only when its GPUs can be used; `check`
            tells of others.
        remover: Removes what would outlive a cluster, before the cluster is
            deleted; its Kubernetes is asked if None.
        is_alone: Whether only what this object creates matters. If not, no
            list is taken for whole while GKE cannot see into some zone.
        today: The time, in seconds since 1970.
        timeout: Seconds that a call may take.
        api_endpoint: Another address of GKE's API.
        transport: Another transport of its client.

    Raises:
        Refused: If there are no credentials.
        InvalidSpec: If there is no project.
    """

    def __init__(
        self,
        project: str = "",
        *,
        credentials: Any = None,
        nodes: NodeLister | None = None,
        remover: Remover | None = None,
        is_alone: bool = False,
        today: Callable[[], float] = time.time,
        timeout: float = 30.0,
        api_endpoint: str | None = None,
        transport: Any = None,
    ) -> None:
        # A transport has credentials of its own.
        self._credentials = None if transport else Credentials(credentials)
        known = self._credentials.project if self._credentials else ""
        self.project = project or known
        if not self.project:
            raise InvalidSpec("project='': name the project to be billed")
        self._wire = Wire(self._credentials, timeout, api_endpoint, transport)
        self._places = Places(self.project, self._list_clusters)
        self._nodes = nodes
        self._is_alone = is_alone
        self._today = today
        self._memory = Memory(self.project, self._wire.call)
        self._emptying = Emptying(remover, today)

    def __repr__(self) -> str:
        return f"<GKECloud, project {self.project}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, also those of ``nodes``."""
        self._wire.close()
        self._emptying.close()
        if (close := getattr(self._nodes, "close", None)) is not None:
            close()

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """See `Cloud.observe`."""
        clusters = self._list_clusters()
        failed = Failures(self._list_operations)
        found = [
            each
            for cluster in clusters
            for each in self._read(cluster, failed)
            if OWNER in each.labels and owner in {None, each.labels[OWNER]}
        ]
        known = {each.key for each in found}
        known |= {Key(Kind.CLUSTER, each.name) for each in clusters}
        return [*found, *self._memory.find_vanished(known, owner)]

    def find(self, key: Key) -> Observed | None:
        """See `Cloud.find`."""
        failed = Failures(self._list_operations)
        for cluster in self._places.choose(
            key.parent or key, self._list_clusters()
        ):
            for each in self._read(cluster, failed, anybodys=True):
                if each.key == key:
                    return each
        return None

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.create`."""
        spec = _check(spec)
        parent = self._places.find_parent(spec)
        asked = Asked(spec, stamp, self._today(), parent.split("/")[3])
        self._memory.note(asked)
        try:
            operation = self._request(asked, parent)
        except (QuotaExceeded, StockOut) as error:
            cause = Cause.QUOTA
            if isinstance(error, StockOut):
                cause = Cause.STOCK_OUT
            why = explain(cause, str(error), say_machine(spec), asked.zone)
            raise type(error)(f"{spec.key}: {why}") from None
        self._memory.note(replace(asked, operation=operation.name))

    def update(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.update`."""
        spec = _check(spec)
        cluster, pool = self._find_pool(spec)
        asked = Asked(spec, stamp, self._today(), cluster.location)
        name = f"{self._places.name(asked.parent)}/nodePools/{pool.name}"
        self._memory.note(asked)  # what is new has to be usable, too
        for method, change in pool_changes(spec, pool):
            # The second of two waits for the first: it is `CloudUnavailable`.
            operation = self._wire.call(method, name=name, **change).name
            self._memory.note_change(replace(asked, operation=operation))

    def delete(self, key: Key) -> None:
        """See `Cloud.delete`; what would outlive a cluster goes first."""
        if key.parent is None:
            self._empty(key)
        try:
            self._wire.call(
                "delete_node_pool" if key.parent else "delete_cluster",
                name=self._places.name(key),
            )
        except NotThere:
            self._forget(key)
            raise
        self._forget(key)

    def check(self, spec: Spec, clock: Clock, deadline: float) -> None:
        """Wait until GPUs can be used, also of a pool that was there before.

        Args:
            spec: What GKE says is ready.
            clock: The time.
            deadline: Until when.

        Raises:
            WaitTimeout: If they cannot be used in time; it says why.
        """
        pauses = Pauses()
        while lack := self._ask_nodes(
            spec, lambda: self.endpoint(spec.key.cluster)
        ):
            if not pauses.wait(clock, deadline):
                raise WaitTimeout(
                    f"{spec.key} is there, and not ready: {lack}"
                )

    def locate(self, name: str) -> str:
        """Say in which zone or region a cluster is.

        Raises:
            NotThere: If there is none of that name.
            Refused: If there are several.
        """
        return self._places.name(Key(Kind.CLUSTER, name)).split("/")[3]

    def endpoint(self, name: str) -> Endpoint:
        """Say how to reach the Kubernetes of a cluster.

        Raises:
            NotThere: If there is no such cluster, or it has none yet.
        """
        for cluster in self._places.choose(
            Key(Kind.CLUSTER, name), self._list_clusters()
        ):
            if cluster.endpoint:
                return self._endpoint_of(cluster)
        raise NotThere(f"cluster {name} has no Kubernetes yet")

    def _request(self, asked: Asked, parent: str) -> Any:
        spec, stamp = asked.spec, asked.stamp
        if isinstance(spec, Cluster):
            message = cluster_message(spec, stamp, asked.created, self.project)
            return self._wire.call(
                "create_cluster", parent=parent, cluster=message
            )
        message = pool_message(spec, stamp, asked.created)
        return self._wire.call(
            "create_node_pool", parent=parent, node_pool=message
        )

    def _list_clusters(self) -> list[Any]:
        answer = self._wire.call(
            "list_clusters", parent=f"projects/{self.project}/locations/-"
        )
        places = self._places.all_known()
        silent = [
            zone
            for zone in answer.missing_zones
            if not self._is_alone or zone.startswith(places)
        ]
        if silent:  # what is there must not be taken for gone
            raise CloudUnavailable(f"GKE cannot see into {', '.join(silent)}")
        if answer.missing_zones:
            _log.warning("GKE cannot see into %s", answer.missing_zones)
        return list(answer.clusters)

    def _list_operations(self, location: str) -> list[Any]:
        answer = self._wire.call(
            "list_operations",
            parent=f"projects/{self.project}/locations/{location}",
        )
        return [each for each in answer.operations if has_failed(each)]

    def _read(
        self, cluster: Any, failed: Failures, *, anybodys: bool = False
    ) -> Iterator[Observed]:
        pools = list(cluster.node_pools)
        found = observed_cluster(cluster)
        if found.state is State.BROKEN:
            machines = ", ".join(machine_of(each) for each in pools)
            where = ", ".join(cluster.locations) or cluster.location
            about = (cluster.name, "")
            operations = failed.of(cluster.location, about, found.created)
            cause, reason = blame(cluster, operations, machines, where)
            found = replace(found, cause=cause, reason=reason)
        yield self._memory.see_change(found)
        for pool in pools:
            if anybodys or CREATED in pool.config.resource_labels:
                found = self._read_pool(cluster, pool, failed)
                yield self._memory.see_change(found)

    def _find_pool(self, spec: Cluster | NodePool) -> tuple[Any, Any]:
        """Find a pool, or that of a cluster itself."""
        is_pool = isinstance(spec, NodePool)
        name = spec.name if is_pool else DEFAULT_POOL
        owner = spec.key.parent or spec.key
        for cluster in self._places.choose(owner, self._list_clusters()):
            for pool in cluster.node_pools:
                if pool.name == name:
                    return cluster, pool
        raise NotThere(f"there is no {spec.key} with a pool {name}")

    def _read_pool(
        self, cluster: Any, pool: Any, failed: Failures
    ) -> Observed:
        found = observed_pool(cluster, pool)
        if found.state is State.BROKEN:
            about = (cluster.name, pool.name)
            cause, reason = blame(
                pool,
                failed.of(cluster.location, about, found.created),
                machine_of(pool),
                ", ".join(pool.locations) or cluster.location,
            )
            return replace(found, cause=cause, reason=reason)
        is_ready = found.state is State.READY
        lack = self._find_lack(cluster, found.key) if is_ready else ""
        return (
            replace(found, state=State.CREATING, reason=lack)
            if lack
            else found
        )

    def _find_lack(self, cluster: Any, key: Key) -> str:
        """Say what a pool of GPUs of ours lacks until it can be used."""
        spec = self._memory.find_untested(key)
        if spec is None:
            return ""
        lack = self._ask_nodes(spec, lambda: self._endpoint_of(cluster))
        if not lack:
            self._memory.note_usable(key)
        return lack

    def _ask_nodes(self, spec: Spec, find: Callable[[], Endpoint]) -> str:
        if self._nodes is None or not isinstance(spec, NodePool):
            return ""
        if not spec.num_gpus:
            return ""
        low = spec.min_nodes if spec.is_autoscaled else spec.num_nodes
        try:
            nodes = self._nodes(find(), spec.name)
        except CloudError as error:
            return f"its nodes cannot be seen: {error}"
        return find_lack(nodes, low or 0, spec.num_gpus)

    def _forget(self, key: Key) -> None:
        self._memory.forget(key)
        self._emptying.forget(key)

    def _empty(self, key: Key) -> None:
        """Have nothing in a cluster that would outlive it."""
        for cluster in self._places.choose(key, self._list_clusters()):
            if cluster.endpoint and cluster.status.name != "STOPPING":
                self._emptying.empty(key, self._endpoint_of(cluster))

    def _endpoint_of(self, cluster: Any) -> Endpoint:
        ca = base64.b64decode(cluster.master_auth.cluster_ca_certificate)
        return Endpoint(
            f"https://{cluster.endpoint}", ca.decode(), self._token
        )

    def _token(self) -> str:
        return self._credentials.token() if self._credentials else ""


def _check(spec: Spec) -> Cluster | NodePool:
    if not isinstance(spec, Cluster | NodePool):
        raise Refused(f"{spec!r}: GKE has google.Cluster and google.NodePool")
    return spec
