"""Time, as a parameter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hermes.cloudbreak.errors import CloudUnavailable

__all__ = ("Clock", "Pauses", "finish", "insist")

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.5, 15.0, 1.5


@dataclass(frozen=True)
class Clock:
    """How to tell the time, and how to let it pass.

    Attributes:
        now: Seconds, for time limits: never set back.
        today: Seconds since 1970, for labels.
        sleep: Waits for some seconds.
    """

    now: Callable[[], float] = time.monotonic
    today: Callable[[], float] = time.time
    sleep: Callable[[float], object] = time.sleep


class Pauses:
    """How long to wait between questions [s]: often at first, rarely later."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE

    def __call__(self) -> float:
        """Give the next pause."""
        pause = self._next
        self._next = min(_LONGEST_PAUSE, pause * _GROWTH)
        return pause

    def wait(self, clock: Clock, deadline: float) -> bool:
        """Let the next pause pass, or what is left; tell if anything was."""
        left = deadline - clock.now()
        if left <= 0:
            return False
        clock.sleep(min(self(), left))
        return True

    def reset(self) -> None:
        """Something has changed: ask often again."""
        self._next = _FIRST_PAUSE


def insist(ask: Callable[[], _T], clock: Clock, deadline: float) -> _T:
    """Ask, in spite of a cloud that does not answer for a while."""
    pauses = Pauses()
    while True:
        try:
            return ask()
        except CloudUnavailable:
            if not pauses.wait(clock, deadline):
                raise


def finish(delete: Callable[[], object]) -> None:
    """Delete what costs money, also after one Ctrl-C; not after the second.

    Args:
        delete: Deletes it; called again, it goes on with what is left.
    """
    try:
        delete()
    except KeyboardInterrupt:
        _log.warning(
            "still deleting; Ctrl-C again leaves it to `hermes-cloud reap`"
        )
        delete()
        raise
