"""What this program has asked GKE for, and what failed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hermes.cloudbreak.clouds.google._reading import began, target_of
from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Key

__all__ = ("Asked", "Failures", "say_machine")


# Seconds that clocks may differ.
_CLOCKS = 60.0


@dataclass(frozen=True)
class Asked:
    """What this program has asked for."""

    spec: Cluster | NodePool
    stamp: Stamp
    created: float
    place: str
    operation: str = ""

    @property
    def parent(self) -> Key:
        """Of which cluster it is."""
        return self.spec.key.parent or self.spec.key

    @property
    def zone(self) -> str:
        """In which zone, or region."""
        return next(iter(self.spec.zones), self.place)


class Failures:
    """Failed operations, asked for when something is found broken."""

    def __init__(self, ask: Callable[[str], list[Any]]) -> None:
        self._ask = ask
        self._found: dict[str, list[Any]] = {}

    def of(
        self, location: str, target: tuple[str, str], since: float
    ) -> list[Any]:
        """List those about a cluster, and a pool of it or "".

        Args:
            location: Where the cluster is.
            target: Their names.
            since: When it was created: what is older was about another one of
                that name.
        """
        if location not in self._found:
            self._found[location] = self._ask(location)
        return [
            each
            for each in self._found[location]
            if target_of(each) == target
            and not 0 < began(each) < since - _CLOCKS
        ]


def say_machine(spec: Cluster | NodePool) -> str:
    """Say what machines are wanted."""
    if isinstance(spec, NodePool) and spec.num_gpus:
        return f"{spec.machine_type} with {spec.num_gpus} {spec.gpu_type}"
    return spec.machine_type
