"""A clock that goes only where somebody sleeps."""

from __future__ import annotations

from hermes.cloudbreak.waiting import Clock

__all__ = ("FakeClock",)


class FakeClock:
    """Time for tests: sleeping takes none.

    Args:
        today: Seconds since 1970 at its start.

    Attributes:
        clock: To be handed to what is tested.
        num_sleeps: How often somebody has slept.
    """

    def __init__(self, today: float = 1.8e9) -> None:
        self._seconds = 0.0
        self._begin = today
        self.num_sleeps = 0
        self.clock = Clock(
            now=lambda: self._seconds,
            today=lambda: self._begin + self._seconds,
            sleep=self._sleep,
        )

    def __repr__(self) -> str:
        return f"<FakeClock, {self._seconds:g} s after its start>"

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._seconds += seconds

    def _sleep(self, seconds: float) -> None:
        self.num_sleeps += 1
        self._seconds += seconds
