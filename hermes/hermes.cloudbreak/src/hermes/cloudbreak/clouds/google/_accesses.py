"""Connections to the Kubernetes of clusters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from hermes.cloudbreak._access import EVERYWHERE, NODE, SERVICE, Access
from hermes.cloudbreak.clouds.google._nodes import (
    POOL_LABEL,
    Endpoint,
    Node,
    read_nodes,
)
from hermes.cloudbreak.errors import NotThere

__all__ = ("Accesses", "connect")


class Accesses:
    """A connection to each cluster: a `NodeLister`. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Access] = {}

    def __call__(self, endpoint: Endpoint, pool: str) -> Sequence[Node]:
        """List the nodes of a pool; see `NodeLister`."""
        label = f"{POOL_LABEL}={pool}"
        return read_nodes(self._find(endpoint).list(NODE, label))

    def remove_balancers(self, endpoint: Endpoint) -> list[str]:
        """Delete a cluster's load balancers; see `BalancerRemover`."""
        access = self._find(endpoint)
        left = []
        for each in access.list(SERVICE, namespace=EVERYWHERE):
            if each["spec"].get("type") != "LoadBalancer":
                continue
            meta = each["metadata"]
            left.append(f"{meta['namespace']}/{meta['name']}")
            if "deletionTimestamp" not in meta:
                with contextlib.suppress(NotThere):
                    access.delete(
                        SERVICE,
                        meta["name"],
                        uid=meta["uid"],
                        namespace=meta["namespace"],
                    )
        return left

    def close(self) -> None:
        """Close them."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _find(self, endpoint: Endpoint) -> Access:
        with self._lock:
            access = self._open.get(endpoint.server)
            if access is None:
                access = self._open[endpoint.server] = connect(endpoint)
            return access


def connect(endpoint: Endpoint, namespace: str = "default") -> Access:
    """Reach a cluster. Close what you get."""
    return Access.to_server(
        endpoint.server,
        ca=endpoint.ca,
        token=endpoint.token,
        namespace=namespace,
    )
