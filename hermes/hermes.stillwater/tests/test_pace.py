"""Rates, by a clock that the tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.stillwater._pace import Pace


class Clock:
    """A clock that only sleeping and working move."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(
    st.floats(1, 1000),
    st.lists(st.floats(0, 0.9), min_size=1, max_size=200),
)
def test_steps_stay_on_the_schedule_whatever_the_work_takes(
    rate: float, shares: list[float]
) -> None:
    clock = Clock()
    pace = Pace(rate, clock.sleep, clock)
    for n, share in enumerate(shares):
        pace.wait()
        assert clock.now - 50 == pytest.approx(n / rate, abs=1e-6)
        clock.now += share / rate


def test_a_little_delay_is_made_up_for() -> None:
    clock = Clock()
    pace = Pace(10, clock.sleep, clock)
    times = []
    for n in range(10):
        pace.wait()
        times.append(clock.now - 50)
        clock.now += 0.35 if n == 2 else 0
    assert times[3:6] == pytest.approx([0.55, 0.55, 0.55])
    assert times[6:] == pytest.approx([0.6, 0.7, 0.8, 0.9])


def test_a_long_pause_is_not_followed_by_a_burst() -> None:
    clock = Clock()
    pace = Pace(10, clock.sleep, clock)
    pace.wait()
    clock.now += 60
    pace.wait()
    before = clock.now
    pace.wait()
    assert clock.now - before == pytest.approx(0.1)


def test_no_rate_means_no_waiting() -> None:
    clock = Clock()
    pace = Pace(None, clock.sleep, clock)
    for _ in range(3):
        pace.wait()
    assert clock.now == 50
