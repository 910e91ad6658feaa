"""Campaigns that are killed: what they leave is what nothing happened to."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest

NUM_SEGMENTS = 3000
WORKERS = 2
IN_FLIGHT = 2 * WORKERS


def test_a_year_that_was_killed_ten_times_is_the_same_year(
    make_runs, tell
) -> None:
    calm = make_runs("calm")
    year = "compute", str(NUM_SEGMENTS)
    began = time.monotonic()
    assert calm.finish(*year)["done"] == NUM_SEGMENTS
    tell(f"uninterrupted in {time.monotonic() - began:.1f} s")
    assert set(calm.executions().values()) == {1}

    rng = random.Random(1)
    runs = make_runs("killed")
    process = runs.start(*year)
    for number in range(10):
        if process.poll() is not None:
            process = runs.start(*year)
        runs.await_log(runs.num_lines() + rng.randint(1, 400))
        everybody = runs.family(process)
        if number % 3 == 0:
            runs.kill(everybody[:1])  # its workers have to see it
        elif number % 3 == 1:
            runs.kill(everybody)
        else:
            victim = rng.choice(runs.workers(process))
            runs.kill([victim])
            runs.await_that(lambda v=victim: not v.is_running())
            continue
        process.wait(10)
        runs.assert_gone(everybody, 5)
        if number == 3:
            with runs.manifest.open("ab") as manifest:
                manifest.write(b'{"key": "1400000')  # torn
    process.wait(120)
    status = runs.finish(*year)
    assert status["done"] + status["skipped"] == NUM_SEGMENTS
    assert status["failed"] == {}
    assert runs.hashes() == calm.hashes()
    repeated = sum(runs.executions().values()) - NUM_SEGMENTS
    tell(files=len(calm.hashes()), kills=10, repeated=repeated)
    assert 0 < repeated <= 10 * IN_FLIGHT
    assert not list(runs.manifest.parent.glob(".*"))


def test_no_kill_repeats_more_than_was_in_flight(make_runs, tell) -> None:
    runs = make_runs("runs")
    counts = []
    for number in range(3):
        process = runs.start("compute", "300", seconds=0.005)
        runs.await_log(runs.num_lines() + 60 + 7 * number)
        everybody = runs.family(process)
        runs.kill(everybody)
        process.wait(10)
        runs.assert_gone(everybody, 5)
        rows = runs.manifest.read_bytes().splitlines()
        counts.append(len(runs.executions()) - (len(rows) - 1))
    runs.finish("compute", "300")
    tell(begun_and_not_recorded=counts)
    assert max(counts) <= IN_FLIGHT
    repeated = sum(runs.executions().values()) - 300
    assert repeated == sum(counts)


def test_poison_is_listed_and_the_rest_goes_on(make_runs, tell) -> None:
    runs = make_runs("runs")
    harm = {
        "raise": "ValueError: invalid literal",
        "sigkill": "killed by SIGKILL while",
        "segfault": "killed by SIGSEGV while",
        "exit": "ended with exit code 3 while",
        "sys-exit": "SystemExit: enough",
        "hang": "took longer than 0.5 s",
        "child": "killed by SIGKILL while",
        "nothing": "nothing was written to the path 'nothing'",
        "beside": "but beside it: beside.npy",
    }
    good = [f"good-{number}" for number in range(50)]
    units = ",".join([*harm, *good])
    options = '--campaign={"timeout": 0.5}'
    status = runs.finish("poison", units, options)
    assert status["done"] == len(good)
    assert status["remaining"] == 0
    assert status["failed"].keys() == harm.keys()
    for unit, text in harm.items():
        attempts, error = status["failed"][unit]
        assert attempts == 3
        assert text in error
    executions = runs.executions()
    assert {executions[unit] for unit in harm} == {3}
    assert {executions[unit] for unit in good} == {1}
    tell(failed=len(harm), done=len(good))

    again = runs.finish("poison", units, options)
    assert again == status | {"done": 0, "skipped": len(good)}
    assert runs.executions() == executions
    retried = runs.finish("poison", units, options, retry_failed=True)
    assert retried["failed"].keys() == harm.keys()
    assert {runs.executions()[unit] for unit in harm} == {6}


def test_children_of_a_killed_worker_are_killed_with_it(make_runs) -> None:
    runs = make_runs("runs")
    runs.finish("poison", "child,a")
    left = [
        pid for word, *pids in runs.log() if word == "left" for pid in pids
    ]
    assert len(left) == 6
    runs.await_that(lambda: not any(map(runs.is_running, map(int, left))), 2)


@pytest.mark.parametrize("unit", ["hang", "keep-gil"])
def test_workers_end_with_the_campaign_whatever_they_do(
    make_runs, unit
) -> None:
    runs = make_runs("runs")
    process = runs.start("poison", unit)
    runs.await_log(1)
    everybody = runs.family(process)
    runs.kill(everybody[:1])
    process.wait(10)
    runs.assert_gone(everybody, 2)


def test_attempts_are_remembered_over_kills(make_runs) -> None:
    runs = make_runs("runs")
    process = runs.start("poison", "raise,hang", '--campaign={"timeout": 60}')
    runs.await_that(lambda: runs.executions()["raise"] == 3)
    runs.await_that(lambda: b'"failed"' in runs.manifest.read_bytes())
    runs.kill(runs.family(process))
    process.wait(10)
    status = runs.finish("poison", "raise,hang", '--campaign={"timeout": 0.1}')
    assert runs.executions() == {"raise": 3, "hang": 4}
    assert status["failed"].keys() == {"raise", "hang"}


def test_a_campaign_cannot_run_twice_at_a_time(make_runs) -> None:
    runs = make_runs("runs")
    first = runs.start("compute", "2000", seconds=0.1)
    runs.await_log(1)
    second = runs.start("compute", "2000")
    _, err = second.communicate(timeout=30)
    assert "CampaignRunning" in err
    assert "wait for that campaign, stop it, or" in err
    runs.kill(runs.family(first)[:1])
    first.wait(10)
    runs.finish("compute", "3")  # and nothing has to be removed by hand


def test_ctrl_c_lets_units_in_flight_finish(make_runs, tell) -> None:
    runs = make_runs("runs")
    process = runs.start("compute", "2000", seconds=0.5)
    runs.await_log(10)
    everybody = runs.family(process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    tell(stopped_after=f"{time.monotonic() - began:.2f} s")
    assert process.returncode == -signal.SIGINT
    assert "stopping: units in flight have 30 s" in err
    assert "KeyboardInterrupt" in err
    assert out == ""
    runs.assert_gone(everybody, 2)
    kinds = Counter(words[0] for words in runs.log())
    rows = runs.manifest.read_bytes().splitlines()
    assert kinds["begin"] == kinds["end"] == len(rows) - 1


def test_ctrl_c_gives_up_units_that_do_not_finish(make_runs, tell) -> None:
    runs = make_runs("runs")
    process = runs.start("poison", "hang,a", grace=0.5)
    runs.await_that(lambda: {"hang", "a"} <= runs.executions().keys())
    everybody = runs.family(process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    took = time.monotonic() - began
    tell(stopped_after=f"{took:.2f} s")
    assert process.returncode == -signal.SIGINT
    assert 0.5 <= took < 5
    runs.assert_gone(everybody, 2)
    status = runs.finish("poison", "a")
    assert status["skipped"] == 1


def test_a_second_ctrl_c_stops_at_once(make_runs, tell) -> None:
    runs = make_runs("runs")
    process = runs.start("poison", "hang,a", grace=100)
    runs.await_that(lambda: {"hang", "a"} <= runs.executions().keys())
    everybody = runs.family(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr.readline().startswith("stopping:")
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    took = time.monotonic() - began
    tell(stopped_after=f"{took:.2f} s")
    assert process.returncode == -signal.SIGINT
    assert took < 5
    runs.assert_gone(everybody, 2)


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5, 0.8, 1.1])
def test_ctrl_c_at_any_time_leaves_nothing(make_runs, delay) -> None:
    runs = make_runs("runs")
    process = runs.start("compute", "300", seconds=0.01)
    runs.await_that(runs.manifest.exists)
    time.sleep(delay)
    everybody = runs.family(process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode in {-signal.SIGINT, 0}
    runs.assert_gone(everybody, 2)
    assert not list(runs.manifest.parent.glob(".*"))
