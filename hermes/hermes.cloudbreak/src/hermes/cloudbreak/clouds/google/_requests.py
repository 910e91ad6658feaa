"""Pure: what is wanted -> GKE's own messages, as dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hermes.cloudbreak._settings import record
from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool, is_zone
from hermes.cloudbreak.labels import Stamp

__all__ = (
    "cluster_message",
    "limits_of",
    "pool_changes",
    "pool_message",
)

# A pool says nowhere when it was created, and what labels of its cluster it
# shows is not for us to know: this one makes a pool one of ours.
CREATED = "hermes-created"
# What was asked for, in the metadata of a pool's machines: labels are short.
SETTINGS = "hermes-settings"
# What GKE calls the pool of a cluster that has no other.
DEFAULT_POOL = "default-pool"

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_DRIVERS = {
    "default": "DEFAULT",
    "latest": "LATEST",
    "disabled": "INSTALLATION_DISABLED",
}


def cluster_message(
    spec: Cluster, stamp: Stamp, created: float, project: str
) -> Any:
    """Describe a cluster, with its own pool."""
    pool = {
        "name": DEFAULT_POOL,
        "initial_node_count": spec.num_nodes,
        "config": _machine(spec, stamp.deadline - created),
    }
    message: dict[str, Any] = {
        "name": spec.name,
        "node_pools": [pool],
        "resource_labels": stamp.labels,
        # Pods have addresses of the network: what balances loads needs it.
        "ip_allocation_policy": {"use_ip_aliases": True},
    }
    if spec.node_zones:
        message["locations"] = list(spec.node_zones)
    if spec.workload_identity:
        message["workload_identity_config"] = {
            "workload_pool": f"{project}.svc.id.goog"
        }
    given = {
        "initial_cluster_version": spec.kubernetes_version,
        "network": spec.network,
        "subnetwork": spec.subnetwork,
    }
    return message | {name: value for name, value in given.items() if value}


def pool_message(spec: NodePool, stamp: Stamp, created: float) -> Any:
    """Describe a node pool, in the first of its zones."""
    config = _machine(spec, stamp.deadline - created)
    config["labels"] = stamp.labels
    config["resource_labels"] = {**stamp.labels, CREATED: str(int(created))}
    config["spot"] = spec.spot
    if spec.disk_type:
        config["disk_type"] = spec.disk_type
    if spec.workload_identity:
        config["workload_metadata_config"] = {"mode": "GKE_METADATA"}
    if spec.num_gpus:
        config["accelerators"] = [_accelerator(spec)]
    message: dict[str, Any] = {
        "name": spec.name,
        "initial_node_count": spec.num_nodes,
        "config": config,
        "locations": [z for z in spec.zones[:1] if is_zone(z)],
    }
    if spec.is_autoscaled:
        message["autoscaling"] = _scaling(spec)
    return message


def pool_changes(
    spec: Cluster | NodePool, pool: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tell by which calls a pool becomes what is wanted.

    Args:
        spec: What is wanted: of a pool, or of a cluster's own one.
        pool: What GKE has.

    Yields:
        A method of GKE's client, and what it is told but for the name.
    """
    if isinstance(spec, NodePool):
        limits = {"min_nodes": spec.min_nodes, "max_nodes": spec.max_nodes}
        if limits != limits_of(pool):
            change = _scaling(spec) if spec.is_autoscaled else {}
            yield "set_node_pool_autoscaling", {"autoscaling": change}
        if spec.is_autoscaled:
            return
    if pool.initial_node_count != spec.num_nodes:
        yield "set_node_pool_size", {"node_count": spec.num_nodes}


def limits_of(pool: Any) -> dict[str, int | None]:
    """Tell within which limits GKE scales a pool."""
    scaling = pool.autoscaling
    return {
        "min_nodes": scaling.min_node_count if scaling.enabled else None,
        "max_nodes": scaling.max_node_count if scaling.enabled else None,
    }


def _scaling(spec: NodePool) -> dict[str, Any]:
    return {
        "enabled": True,
        "min_node_count": spec.min_nodes,
        "max_node_count": spec.max_nodes,
    }


def _machine(spec: Cluster | NodePool, seconds_left: float) -> dict[str, Any]:
    config: dict[str, Any] = {
        "machine_type": spec.machine_type,
        "disk_size_gb": spec.disk_gb,
        "oauth_scopes": list(_SCOPES),
        "metadata": {
            SETTINGS: record(spec, spec.changeable),
            "disable-legacy-endpoints": "true",  # GKE's default without any
        },
    }
    if spec.service_account:
        config["service_account"] = spec.service_account
    # Google itself ends what nobody else does.
    if seconds := spec.ends_after(seconds_left):
        config["max_run_duration"] = {"seconds": seconds}
    return config


def _accelerator(spec: NodePool) -> dict[str, Any]:
    return {
        "accelerator_type": spec.gpu_type,
        "accelerator_count": spec.num_gpus,
        "gpu_driver_installation_config": {
            "gpu_driver_version": _DRIVERS[spec.gpu_driver]
        },
    }
