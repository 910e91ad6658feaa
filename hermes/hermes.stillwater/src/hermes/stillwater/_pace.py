"""Not more than so many per second."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ("Pace",)

# What was missed by more than this is not caught up with.
_MAX_BEHIND = 1.0


class Pace:
    """A schedule without drift.

    Args:
        rate: Steps per second [Hz]; None for no schedule.
        sleep: How to wait for some seconds.
        clock: The time [s].
    """

    def __init__(
        self,
        rate: float | None,
        sleep: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period = None if rate is None else 1 / rate
        self._sleep = sleep
        self._clock = clock
        self._next: float | None = None

    def wait(self) -> None:
        """Wait for the next step's time."""
        if self._period is None:
            return
        now = self._clock()
        if self._next is None or now - self._next > _MAX_BEHIND:
            self._next = now
        if self._next > now:
            self._sleep(self._next - now)
        self._next += self._period
