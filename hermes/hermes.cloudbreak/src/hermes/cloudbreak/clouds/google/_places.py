"""Where the clusters of a project are: names are given in a location only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool
from hermes.cloudbreak.errors import InvalidSpec, NotThere, Refused
from hermes.cloudbreak.specs import Key, Kind

__all__ = ("Places",)


class Places:
    """Where clusters are, or were asked for. Threads may share it.

    Args:
        project: Google's name of the project.
        list_clusters: Lists all of it.
    """

    def __init__(
        self, project: str, list_clusters: Callable[[], list[Any]]
    ) -> None:
        self._project = project
        self._list_clusters = list_clusters
        self._lock = threading.Lock()
        self._known: dict[Key, str] = {}

    def all_known(self) -> tuple[str, ...]:
        """Give those that something was asked for in."""
        with self._lock:
            return tuple(self._known.values())

    def choose(self, key: Key, clusters: Iterable[Any]) -> Iterator[Any]:
        """Give those that may be meant by a name."""
        with self._lock:
            place = self._known.get(key)
        for each in clusters:
            if each.name == key.name and place in {None, each.location}:
                yield each

    def find_parent(self, spec: Cluster | NodePool) -> str:
        """Give where to create something; refuse names taken elsewhere."""
        if isinstance(spec, NodePool):
            return self.name(Key(Kind.CLUSTER, spec.cluster))
        if not spec.zones:
            raise InvalidSpec(
                f"zones=() of {spec.key}: give zones or regions, the best "
                "first"
            )
        place = spec.zones[0]
        for each in self._list_clusters():
            if each.name == spec.name and each.location != place:
                raise Refused(
                    f"{spec.key} is in {each.location}, and not in {place}: "
                    "give another name, or its own zone"
                )
        with self._lock:
            self._known[spec.key] = place
        return f"projects/{self._project}/locations/{place}"

    def name(self, key: Key) -> str:
        """Give Google's name of what is there, or was asked for.

        Raises:
            NotThere: If there is no such cluster.
            Refused: If there are several.
        """
        owner = key.parent or key
        with self._lock:
            place = self._known.get(owner)
        if place is None:
            found = list(self.choose(owner, self._list_clusters()))
            if not found:
                raise NotThere(f"there is no {owner}")
            if len(found) > 1:
                where = " and ".join(each.location for each in found)
                raise Refused(
                    f"there is a {owner} in {where}: nobody knows which is "
                    "meant; delete one with `gcloud container clusters delete`"
                )
            place = found[0].location
        base = f"projects/{self._project}/locations/{place}"
        base = f"{base}/clusters/{owner.name}"
        return f"{base}/nodePools/{key.name}" if key.parent else base
