"""What is in a cluster and would outlive it goes before the cluster does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hermes.cloudbreak.clouds.google._nodes import Endpoint
from hermes.cloudbreak.clouds.google._outliving import Remover
from hermes.cloudbreak.errors import CloudError, CloudUnavailable
from hermes.cloudbreak.specs import Key

if TYPE_CHECKING:
    from hermes.cloudbreak.clouds.google._accesses import Accesses

__all__ = ("Emptying",)

_log = logging.getLogger(__name__)

# Seconds that a cluster may take to delete what it has of others, and that
# it may be out of reach meanwhile: machines cost more than that.
_PATIENCE, _SILENCE = 600.0, 120.0
_SHOWN = 5  # of what has to go


class Emptying:
    """Empties clusters that are to be deleted. Threads may share it.

    Args:
        remove: Has what would outlive a cluster deleted; its Kubernetes is
            asked if None.
        today: The time [s].
    """

    def __init__(
        self, remove: Remover | None, today: Callable[[], float]
    ) -> None:
        self._accesses: Accesses | None = None
        if remove is None:
            # Now, and not when something has to go and an extra is missing.
            self._accesses = _make_accesses()
            remove = self._accesses.remove_outliving
        self._remove = remove
        self._today = today
        self._lock = threading.Lock()
        self._begun: dict[Key, float] = {}
        self._heard: dict[Key, float] = {}
        self._told: set[Key] = set()

    def close(self) -> None:
        """Close connections that were opened for it."""
        if self._accesses is not None:
            self._accesses.close()

    def empty(self, key: Key, endpoint: Endpoint) -> None:
        """Ask for the end of what would outlive a cluster; do not wait.

        Raises:
            CloudUnavailable: While some of it is there, or nobody can tell;
                not any more when that has gone on for too long.
        """
        today = self._today()
        with self._lock:
            age = today - self._begun.setdefault(key, today)
            silence = today - self._heard.setdefault(key, today)
        try:
            left = self._remove(endpoint)
        except CloudError as error:
            why = f"what would outlive it cannot be seen: {error}"
        else:
            silence = 0.0
            with self._lock:
                self._heard[key] = today
            why = f"what would outlive it goes first: {_say(left.going)}"
            if not left.going:
                self._tell(key, left.staying)
                return
        if age < _PATIENCE and silence < _SILENCE:
            raise CloudUnavailable(f"{key} is not deleted yet, {why}")
        _log.warning(
            "%s is deleted all the same after %d s (%s): look for what is "
            "left with `gcloud compute forwarding-rules list` and `gcloud "
            "compute disks list`",
            key,
            age,
            why,
        )

    def _tell(self, key: Key, staying: Sequence[str]) -> None:
        """Say once what costs money after a cluster, because it has to."""
        with self._lock:
            is_new = key not in self._told
            self._told.add(key)
        if staying and is_new:
            _log.warning(
                "%s leaves disks that are not to be deleted with it: %s",
                key,
                ", ".join(staying),
            )

    def forget(self, key: Key) -> None:
        """It was deleted: another one of that name has its own time."""
        with self._lock:
            self._begun.pop(key, None)
            self._heard.pop(key, None)
            self._told.discard(key)


def _say(names: Sequence[str]) -> str:
    shown = [*names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"and {len(names) - _SHOWN} more")
    return ", ".join(shown)


def _make_accesses() -> Accesses:
    from hermes.cloudbreak.clouds.google._accesses import (  # noqa: PLC0415
        Accesses,
    )

    return Accesses()
