"""Google's cloud: GKE clusters and Compute Engine's virtual machines.

What describes something is plain data and needs nothing; what reaches the
cloud is loaded when it is first used, and says which extra it needs.

General layout:

    _specs.py        what is wanted;  _machines.py  pure: which has which GPUs
    _manager.py      ClusterManager and its handles: what users hold
    _cloud.py        the cloud of clusters and pools;  _asked.py  its memory
    _places.py       where clusters are
    _emptying.py     what would outlive one goes;  _outliving.py  pure: what
    _accesses.py     connections to their Kubernetes
    _requests.py, _reading.py, _words.py, _nodes.py   pure: what it is told,
                     and what its answers mean
    _gke.py          the wire
    _vm_specs.py     what is wanted of Compute Engine
    _vms.py          VMManager;  _vm_cloud.py  the cloud of swarms of machines
    _vm_orders.py    what was asked for here, and what came of it
    _vm_bodies.py    pure: swarms as Compute Engine writes them, and back
    _startup.py      pure: how a machine says that it is set up
    _compute.py      Compute Engine's wire;  _credentials.py  who asks
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hermes.cloudbreak.clouds.google._machines import (
    create_gpu_node_pool_config,
)
from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool
from hermes.cloudbreak.clouds.google._vm_specs import VMDescription

if TYPE_CHECKING:
    from hermes.cloudbreak.clouds.google._cloud import GKECloud
    from hermes.cloudbreak.clouds.google._manager import ClusterManager
    from hermes.cloudbreak.clouds.google._vm_cloud import ComputeCloud
    from hermes.cloudbreak.clouds.google._vms import VMManager

__all__ = (
    "Cluster",
    "ClusterManager",
    "ComputeCloud",
    "GKECloud",
    "NodePool",
    "VMDescription",
    "VMManager",
    "create_gpu_node_pool_config",
)

# What needs an extra, and where it is.
_LAZY = {
    "ClusterManager": "_manager",
    "ComputeCloud": "_vm_cloud",
    "GKECloud": "_cloud",
    "VMManager": "_vms",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
