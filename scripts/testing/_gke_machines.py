"""Where GKE's clusters really are, in tests: nowhere, or somebody else's."""

from __future__ import annotations

from typing import Protocol

from google.cloud.container_v1 import types


class Machines(Protocol):
    """Where clusters really are; each call may take its time."""

    def start_cluster(self, name: str) -> tuple[str, str]:
        """Start one; give its address, and its certificate as base64."""

    def start_pool(self, cluster: str, pool: types.NodePool) -> None:
        """Start a pool's machines."""

    def resize_pool(self, cluster: str, pool: types.NodePool) -> None:
        """Have as many as it says now."""

    def stop_pool(self, cluster: str, pool: str) -> None:
        """End them."""

    def stop_cluster(self, name: str) -> None:
        """End a cluster."""


class NoMachines:
    """There are none; clusters are words only."""

    def start_cluster(self, name: str) -> tuple[str, str]:
        """See `Machines`."""
        return "192.0.2.1", "Y2VydGlmaWNhdGU="

    def start_pool(self, cluster: str, pool: types.NodePool) -> None:
        """See `Machines`."""

    def resize_pool(self, cluster: str, pool: types.NodePool) -> None:
        """See `Machines`."""

    def stop_pool(self, cluster: str, pool: str) -> None:
        """See `Machines`."""

    def stop_cluster(self, name: str) -> None:
        """See `Machines`."""
