"""What GKE refuses: names, labels, places and machines that are none."""

from __future__ import annotations

import itertools
import re
from typing import Any

from google.cloud.container_v1 import types

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
LABEL = re.compile(r"[-_a-z0-9]{0,63}")
ZONES = tuple(
    f"{region}-{letter}"
    for region in ("us-central1", "us-east4", "europe-west4")
    for letter in "abc"
)
MACHINES = re.compile(
    r"(e2|n1|n2)-(standard|highmem)-\d+|custom-\d+-\d+|g2-standard-\d+"
    r"|a2-(high|ultra|mega)gpu-\d+g|a3-(high|ultra)gpu-\d+g"
)


class Error(Exception):
    """What a caller gets."""

    def __init__(self, code: str, text: str, reason: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.reason = code, text, reason


def check_cluster(cluster: types.Cluster) -> None:
    """Refuse a cluster that GKE refuses."""
    _check_name("cluster.name", cluster.name)
    _check_labels(cluster.resource_labels)
    if not cluster.node_pools and not cluster.initial_node_count:
        raise Error(
            "INVALID_ARGUMENT",
            "Cluster.initial_node_count must be greater than zero.",
        )
    for pool in cluster.node_pools:
        _check_config(pool)


def check_pool(cluster: types.Cluster, pool: types.NodePool) -> None:
    """Refuse a node pool that GKE refuses."""
    _check_name("node_pool.name", pool.name)
    _check_config(pool)
    for zone in pool.locations:
        if zone not in ZONES or region_of(zone) != region_of(cluster.location):
            raise Error(
                "INVALID_ARGUMENT",
                f"Location {zone!r} is not in the region of the cluster.",
            )


def places() -> set[str]:
    """Give all zones and regions."""
    return {*ZONES, *(region_of(zone) for zone in ZONES)}


def region_of(place: str) -> str:
    """Give the region of a zone, or of itself."""
    return place.rpartition("-")[0] if place in ZONES else place


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise Error("INVALID_ARGUMENT", f"Invalid value for field {what!r}.")


def _check_labels(labels: Any) -> None:
    for each in itertools.chain.from_iterable(labels.items()):
        if not LABEL.fullmatch(each):
            raise Error("INVALID_ARGUMENT", f"Invalid label {each!r}.")


def _check_config(pool: types.NodePool) -> None:
    config = pool.config
    _check_labels(config.resource_labels)
    if config.machine_type and not MACHINES.fullmatch(config.machine_type):
        raise Error(
            "INVALID_ARGUMENT",
            f'Machine type with name "{config.machine_type}" does not exist.',
        )
    if "max_run_duration" in config:
        seconds = config.max_run_duration.total_seconds()
        if not 30 <= seconds <= 120 * 86400:
            raise Error(
                "INVALID_ARGUMENT",
                "Max run duration must be between 30 seconds and 120 days.",
            )
    if pool.initial_node_count < 1:
        raise Error("INVALID_ARGUMENT", "initial_node_count must be positive.")
