"""What this program has asked GKE for, and what failed of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hermes.cloudbreak.clouds.google._reading import (
    began,
    blame,
    has_failed,
    is_done,
    target_of,
)
from hermes.cloudbreak.clouds.google._specs import Cluster, NodePool
from hermes.cloudbreak.errors import NotThere
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Cause, Key, Observed, State

__all__ = ("Asked", "Failures", "Memory", "say_machine")

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


class Memory:
    """What was asked for, and how it goes. Threads may share it.

    Args:
        project: Google's name of the project.
        call: Calls a method of GKE's client.
    """

    def __init__(self, project: str, call: Callable[..., Any]) -> None:
        self._project = project
        self._call = call
        self._lock = threading.Lock()
        self._asked: dict[Key, Asked] = {}
        self._changing: dict[Key, Asked] = {}
        self._usable: set[Key] = set()

    def note(self, asked: Asked) -> None:
        """Remember what is asked for, before it is sent, and its answer."""
        key = asked.spec.key
        with self._lock:
            self._asked[key] = asked
            self._changing.pop(key, None)
            self._usable.discard(key)

    def note_change(self, asked: Asked) -> None:
        """Remember what something that is there is changed to."""
        with self._lock:
            self._changing[asked.spec.key] = asked

    def note_usable(self, key: Key) -> None:
        """Remember that a pool can be used."""
        with self._lock:
            self._usable.add(key)

    def find_untested(self, key: Key) -> Cluster | NodePool | None:
        """Give what was asked for, unless it is known to be usable."""
        with self._lock:
            asked = self._asked.get(key)
            is_open = asked is not None and key not in self._usable
        return asked.spec if asked and is_open else None

    def forget(self, key: Key) -> None:
        """It was deleted, with all that is part of it."""
        with self._lock:
            for memory in (self._asked, self._changing):
                for each in [k for k in memory if key in (k, k.parent)]:
                    del memory[each]
                    self._usable.discard(each)

    def see_change(self, found: Observed) -> Observed:
        """Tell what becomes of a change: GKE may not show it at once."""
        with self._lock:
            asked = self._changing.get(found.key)
        if asked is None or found.state is not State.READY:
            return found
        operation = self._ask(asked)
        if operation is not None and not is_done(operation):
            reason = "(being changed)"
            return replace(found, state=State.CREATING, reason=reason)
        if operation is not None and has_failed(operation):
            cause, why = _blame(operation, asked)
            return replace(found, state=State.BROKEN, cause=cause, reason=why)
        with self._lock:
            self._changing.pop(found.key, None)
        return found

    def find_vanished(
        self, known: set[Key], owner: str | None
    ) -> Iterator[Observed]:
        """Tell what was asked for and failed, and left no trace but that."""
        with self._lock:
            asked = [
                (key, each)
                for key, each in self._asked.items()
                if key not in known and each.operation
            ]
        for key, each in asked:
            if owner not in {None, each.stamp.owner}:
                continue
            operation = self._ask(each)
            if operation is not None and has_failed(operation):
                cause, why = _blame(operation, each)
                labels = each.stamp.labels
                yield Observed(
                    key, State.BROKEN, labels, cause, why, each.created
                )

    def _ask(self, asked: Asked) -> Any:
        base = f"projects/{self._project}/locations/{asked.place}"
        try:
            return self._call(
                "get_operation", name=f"{base}/operations/{asked.operation}"
            )
        except NotThere:
            return None


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


def _blame(operation: Any, asked: Asked) -> tuple[Cause, str]:
    return blame(None, [operation], say_machine(asked.spec), asked.zone)


def say_machine(spec: Cluster | NodePool) -> str:
    """Say what machines are wanted."""
    if isinstance(spec, NodePool) and spec.num_gpus:
        return f"{spec.machine_type} with {spec.num_gpus} {spec.gpu_type}"
    return spec.machine_type
