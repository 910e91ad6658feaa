"""Pipelines that fail, are stopped, or are left, with real processes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hermes.stillwater import Pipeline, PipelineProcess, stage
from hermes.stillwater.errors import (
    ChannelBroken,
    StageDied,
    StageFailed,
)

sys.path.insert(0, str(Path(__file__).parent))

import sample_stages as stages


def count() -> tuple[int, list[psutil.Process], int]:
    gc.collect()
    return (
        len(list(Path("/proc/self/fd").iterdir())),
        psutil.Process().children(recursive=True),
        threading.active_count(),
    )


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    num_fds, others, num_threads = count()
    yield
    # What others have opened may have gone meanwhile.
    fds, processes, threads = count()
    assert fds <= num_fds
    assert set(processes) <= set(others)
    assert threads <= num_threads


def read(pipeline: Pipeline) -> list[Any]:
    with pipeline:
        return list(pipeline)


def around(middle: PipelineProcess) -> Pipeline:
    return stages.Count(10) >> middle >> stages.forward


def test_the_first_error_is_told_though_a_second_ends_the_process() -> None:
    with pytest.raises(stages.SlowToTell, match="the cause"):
        read(around(stages.FailTwice()))


WHERE = {
    "setup": (ValueError, "in setup"),
    "process": (ValueError, "in process"),
    "generator": (ValueError, "in generator"),
    "thread": (RuntimeError, "in a thread"),
    "finish": (ValueError, "in finish"),
    "teardown": (ValueError, "in teardown"),
}


@pytest.mark.parametrize("where", WHERE)
def test_an_error_comes_from_wherever_it_was_raised(where: str) -> None:
    kind, message = WHERE[where]
    with pytest.raises(kind, match=f"^{message}") as caught:
        read(around(stages.Fail(where)))
    assert "raised in stage 'Fail', process " in caught.value.__notes__[0]


KINDS = {
    "positional": (stages.PositionalError, "the stage has 3"),
    "holding": (stages.HoldingError, "it holds a lock"),
    "lying": (StageFailed, "LyingError: no way"),
    "chained": (ValueError, "the outer one"),
}


@pytest.mark.parametrize("error", KINDS)
def test_errors_of_all_kinds_come_with_their_traceback(error: str) -> None:
    kind, message = KINDS[error]
    with pytest.raises(kind, match=message) as caught:
        read(around(stages.Fail("process", error)))
    if error != "lying":
        assert caught.traceback[-1].name == "_fail_at"
        assert "sample_stages.py" in str(caught.traceback[-1].path)


def test_a_stage_that_takes_too_long_to_tear_down_is_named() -> None:
    slow = stages.Fail("slow teardown", join_timeout=0.3)
    begin = time.monotonic()
    message = "'Fail' .* was killed: .* join_timeout=0.3 s"
    with pytest.raises(StageDied, match=message):
        read(around(slow))
    assert time.monotonic() - begin < 8


def test_a_stage_has_its_time_to_tear_down() -> None:
    slow = stages.SlowTeardown(1.0)
    begin = time.monotonic()
    assert read(around(slow)) == list(range(10))
    assert time.monotonic() - begin > 1


DEATHS = {
    "exit": "ended with exit code 0 before its work was done",
    "SIGKILL": "ended by SIGKILL; .* for want of memory",
    "SIGSEGV": "ended by SIGSEGV",
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_stage_that_dies_is_named(how: str) -> None:
    pipeline = stages.Count() >> stages.Die(how) >> stages.forward
    with pytest.raises(StageDied, match=f"'Die' .* {DEATHS[how]}"):
        read(pipeline)


def test_a_worker_that_dies_is_named() -> None:
    die = stages.Die("SIGKILL", workers=2)
    with pytest.raises(StageDied, match="stage 'Die #2' "):
        read(stages.Count() >> die >> stages.forward)


def test_a_stage_that_ends_the_program_fails() -> None:
    with pytest.raises(StageFailed, match="SystemExit: 5"):
        read(stages.Count() >> stages.Die("sys.exit") >> stages.forward)


def test_processes_that_a_stage_forked_do_not_hide_its_death() -> None:
    begin = time.monotonic()
    pipeline = stages.Count() >> stages.fork_and_die >> stages.forward
    with pytest.raises(StageDied, match=r"'fork_and_die' .*SIGKILL"):
        read(pipeline)
    assert time.monotonic() - begin < 3.5


def test_trouble_with_its_own_channel_is_a_stages_own() -> None:
    with pytest.raises(ChannelBroken, match="before the end") as caught:
        read(around(stages.OwnChannel()))
    assert "in stage 'OwnChannel'" in caught.value.__notes__[0]


def test_a_failure_that_nobody_saw_is_raised_at_leaving() -> None:
    with (
        pytest.raises(ValueError, match="in process"),
        around(stages.Fail("process")),
    ):
        time.sleep(2)


def test_a_failure_that_was_caught_is_not_raised_again() -> None:
    with around(stages.Fail("process")) as pipeline:
        for _ in range(2):
            with pytest.raises(ValueError, match="in process"):
                list(pipeline)


def test_another_error_in_the_block_comes_first() -> None:
    with (  # noqa: PT012
        pytest.raises(KeyError, match="mine"),
        around(stages.Fail("process")),
    ):
        time.sleep(1.5)
        raise KeyError("mine")


STATES: dict[str, Callable[[], Pipeline]] = {
    "idle": lambda: stages.Silent() >> stages.forward,
    "full": lambda: stages.Frames(None, 10**6) >> stages.forward,
    "slow rate": lambda: Pipeline(stages.Count(rate=0.01), stages.forward),
    "set up": lambda: stages.Count() >> stages.SlowSetup(),
    "asleep": lambda: stages.Count() >> stages.sleep_long,
    "deaf": lambda: stages.Count() >> stages.hold_interpreter,
    "failed": lambda: around(stages.Fail("process")),
    "done": lambda: stages.Count(3) >> stages.drop,
    "workers": lambda: stages.Count() >> stage(stages.dawdle, workers=3),
}


@pytest.mark.parametrize(
    ("state", "seconds"), [("idle", 0.0), *((s, 1.0) for s in STATES)]
)
def test_leaving_takes_less_than_a_second(state: str, seconds: float) -> None:
    pipeline = STATES[state]()
    pipeline.__enter__()
    time.sleep(seconds)
    begin = time.monotonic()
    pipeline.__exit__(KeyError, KeyError(), None)
    assert time.monotonic() - begin < 1


def test_two_interrupts_kill_at_once() -> None:
    timers = [
        threading.Timer(t, os.kill, (os.getpid(), signal.SIGINT))
        for t in (1.0, 1.1)
    ]
    before = psutil.Process().children()
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        stages.Count() >> stages.sleep_long as pipeline,
    ):
        started = set(psutil.Process().children()).difference(before)
        for timer in timers:
            timer.start()
        begin = time.monotonic()
        list(pipeline)
    assert time.monotonic() - begin < 1.4
    assert not any(child.is_running() for child in started)
    for timer in timers:
        timer.join()
