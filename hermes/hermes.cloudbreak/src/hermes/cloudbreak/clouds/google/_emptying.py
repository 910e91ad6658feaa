"""What is in a cluster and would outlive it goes before the cluster does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from hermes.cloudbreak.clouds.google._nodes import BalancerRemover, Endpoint
from hermes.cloudbreak.errors import CloudError, CloudUnavailable
from hermes.cloudbreak.specs import Key

if TYPE_CHECKING:
    from hermes.cloudbreak.clouds.google._accesses import Accesses

__all__ = ("Emptying",)

_log = logging.getLogger(__name__)

# Seconds that a cluster may take to delete what it has of others, and that
# it may be out of reach meanwhile: machines cost more than balancers.
_PATIENCE, _SILENCE = 600.0, 120.0


class Emptying:
    """Empties clusters that are to be deleted. Threads may share it.

    Args:
        remove: Has a cluster's load balancers deleted; its Kubernetes is
            asked if None.
        today: The time [s].
    """

    def __init__(
        self, remove: BalancerRemover | None, today: Callable[[], float]
    ) -> None:
        self._accesses: Accesses | None = None
        if remove is None:
            # Now, and not when something has to go and an extra is missing.
            self._accesses = _make_accesses()
            remove = self._accesses.remove_balancers
        self._remove = remove
        self._today = today
        self._lock = threading.Lock()
        self._begun: dict[Key, float] = {}

    def close(self) -> None:
        """Close connections that were opened for it."""
        if self._accesses is not None:
            self._accesses.close()

    def empty(self, key: Key, endpoint: Endpoint) -> None:
        """Ask for the end of a cluster's load balancers; do not wait.

        Raises:
            CloudUnavailable: While some are there, or nobody can tell; not
                any more when that has gone on for too long.
        """
        with self._lock:
            age = self._today() - self._begun.setdefault(key, self._today())
        try:
            left = self._remove(endpoint)
        except CloudError as error:
            patience, why = _SILENCE, f"its load balancers: {error}"
        else:
            patience = _PATIENCE
            why = f"its load balancers go first: {', '.join(left)}"
            if not left:
                return
        if age < patience:
            raise CloudUnavailable(f"{key} is not deleted yet, {why}")
        _log.warning(
            "%s is deleted all the same after %d s (%s): look for what is "
            "left with `gcloud compute forwarding-rules list`",
            key,
            age,
            why,
        )

    def forget(self, key: Key) -> None:
        """It was deleted: another one of that name has its own time."""
        with self._lock:
            self._begun.pop(key, None)


def _make_accesses() -> Accesses:
    from hermes.cloudbreak.clouds.google._accesses import (  # noqa: PLC0415
        Accesses,
    )

    return Accesses()
