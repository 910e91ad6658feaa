"""Whether the machines of a pool can be used: Kubernetes is asked, not GKE.

GKE calls a pool running when its machines have joined the cluster. Their
drivers are installed after that, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = (
    "Endpoint",
    "Node",
    "NodeLister",
    "find_lack",
    "read_nodes",
)

GPU = "nvidia.com/gpu"
POOL_LABEL = "cloud.google.com/gke-nodepool"


@dataclass(frozen=True)
class Endpoint:
    """How to reach the Kubernetes of a cluster.

    Attributes:
        server: ``"https://..."``.
        ca: Certificate of its authority, as PEM.
        token: Gives a bearer token.
    """

    server: str
    ca: str
    token: Callable[[], str] = field(repr=False)


@dataclass(frozen=True)
class Node:
    """A machine, as Kubernetes sees it.

    Attributes:
        name: Its name.
        is_ready: Whether it takes pods.
        num_gpus: GPUs that pods can have.
        reason: Why it is not ready.
    """

    name: str
    is_ready: bool
    num_gpus: int = 0
    reason: str = ""


class NodeLister(Protocol):
    """Lists the machines of a pool; it may raise `CloudError`."""

    def __call__(self, endpoint: Endpoint, pool: str) -> Sequence[Node]:
        """List them."""


def find_lack(nodes: Sequence[Node], num_nodes: int, num_gpus: int) -> str:
    """Say what a pool lacks; "" if nothing.

    Args:
        nodes: Its machines.
        num_nodes: How many there have to be.
        num_gpus: GPUs that each has to have.
    """
    lacks = [
        f"node {node.name}: {lack}"
        for node in nodes
        if (lack := _find_lack_of(node, num_gpus))
    ]
    if len(nodes) < num_nodes:
        lacks.insert(0, f"{len(nodes)} of {num_nodes} nodes have joined")
    if len(lacks) > 3:
        lacks[3:] = [f"and {len(lacks) - 3} more"]
    return ", ".join(lacks)


def read_nodes(manifests: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Read what Kubernetes says of nodes."""
    return [_read_node(each) for each in manifests]


def _find_lack_of(node: Node, num_gpus: int) -> str:
    if not node.is_ready:
        return f"not Ready {node.reason}".strip()
    if node.num_gpus < num_gpus:
        return (
            f"{GPU} is not allocatable ({node.num_gpus} of {num_gpus}): its "
            "driver has not come"
        )
    return ""


def _read_node(manifest: Mapping[str, Any]) -> Node:
    status = manifest.get("status") or {}
    ready: Mapping[str, Any] = next(
        (
            each
            for each in status.get("conditions") or ()
            if each.get("type") == "Ready"
        ),
        {},
    )
    return Node(
        manifest["metadata"]["name"],
        is_ready=ready.get("status") == "True",
        num_gpus=int((status.get("allocatable") or {}).get(GPU, 0)),
        reason=str(ready.get("message") or ""),
    )
