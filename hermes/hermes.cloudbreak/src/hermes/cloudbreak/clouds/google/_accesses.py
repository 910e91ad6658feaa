"""Connections to the Kubernetes of clusters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence

from hermes.cloudbreak._access import EVERYWHERE, NODE, POD, Access, Type
from hermes.cloudbreak._answers import Manifest
from hermes.cloudbreak.clouds.google._nodes import (
    POOL_LABEL,
    Endpoint,
    Node,
    read_nodes,
)
from hermes.cloudbreak.clouds.google._outliving import (
    BALANCED,
    CLAIM,
    VOLUME,
    Outliving,
    Part,
    find_balancers,
    find_disks,
    users_of,
)
from hermes.cloudbreak.errors import NotThere

__all__ = ("Accesses", "connect")

# Of owners, which might own one another.
_GENERATIONS = 8


class Accesses:
    """A connection to each cluster: a `NodeLister`. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Access] = {}

    def __call__(self, endpoint: Endpoint, pool: str) -> Sequence[Node]:
        """List the nodes of a pool; see `NodeLister`."""
        label = f"{POOL_LABEL}={pool}"
        return read_nodes(self._find(endpoint).list(NODE, label))

    def remove_outliving(self, endpoint: Endpoint) -> Outliving:
        """Delete what would outlive a cluster; see `Remover`.

        Who has a volume ends, too: its claim would not go before, or come
        again. Nothing of that is asked for in a cluster that stays.
        """
        access = self._find(endpoint)
        balancers = [
            each
            for type_ in BALANCED
            for each in find_balancers(type_, _list(access, type_))
        ]
        _delete(access, balancers)
        disks = find_disks(_list(access, VOLUME), _list(access, CLAIM))
        if disks.claims:
            users = users_of(disks.claims, _list(access, POD))
            _delete(access, {_find_origin(access, each) for each in users})
            _delete(access, disks.claims)
        left = (*balancers, *disks.volumes, *disks.claims)
        return Outliving(tuple(map(str, left)), disks.staying)

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


def _list(access: Access, type_: Type) -> list[Manifest]:
    try:
        return access.list(type_, namespace=EVERYWHERE)
    except NotThere:  # a kind that this cluster has not
        return []


def _find_origin(access: Access, part: Part) -> Part:
    """Find what an object comes from, and would come from again."""
    for _ in range(_GENERATIONS):
        if part.owner is None:
            break
        type_, name = part.owner
        try:
            found = access.get(type_, name, part.namespace)
        except NotThere:
            break
        part = Part.of(type_, found)
    return part


def _delete(access: Access, parts: Iterable[Part]) -> None:
    for each in parts:
        if not each.is_going:
            with contextlib.suppress(NotThere):
                access.delete(
                    each.type_,
                    each.name,
                    uid=each.uid,
                    namespace=each.namespace,
                )


def connect(endpoint: Endpoint, namespace: str = "default") -> Access:
    """Reach a cluster. Close what you get."""
    return Access.to_server(
        endpoint.server,
        ca=endpoint.ca,
        token=endpoint.token,
        namespace=namespace,
    )
