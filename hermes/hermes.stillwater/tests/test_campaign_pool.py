"""The pool, with functions that every process has."""

import multiprocessing
import os
import signal
import time

import pytest

from hermes.stillwater._campaign._pool import Pool
from hermes.stillwater._campaign._servers import num_places
from hermes.stillwater.errors import (
    CampaignError,
    InvalidCampaign,
    UnitTimeout,
    WorkerDied,
    WorkersUnusable,
)


class Unreadable:
    """Pickled here, and never read."""

    def __reduce__(self):
        return int, ("no number",)


@pytest.fixture(scope="module")
def pool():
    with Pool(2, timeout=2) as pool:
        yield pool


def test_calls_are_answered(pool):
    futures = [pool.submit(pow, 2, number) for number in range(20)]
    assert [f.result(30) for f in futures] == [2**n for n in range(20)]


def test_who_dies_takes_one_call_along(pool):
    others = [pool.submit(time.sleep, 0.5) for _ in range(4)]
    pid = pool.submit(os.getpid).result(30)
    killed = pool.submit(os._exit, 7)
    assert "ended with exit code 7" in str(killed.exception(30))
    assert isinstance(killed.exception(), WorkerDied)
    assert [future.result(30) for future in others] == [None] * 4
    assert pid != os.getpid()


def test_what_raises_is_told(pool):
    error = pool.submit(int, "no number").exception(30)
    assert isinstance(error, CampaignError)
    assert "ValueError: invalid literal" in str(error)


def test_what_cannot_come_back_is_told(pool):
    error = pool.submit(open, os.devnull).exception(30)
    assert "cannot pickle" in str(error)


def test_what_cannot_be_read_there_is_told(pool):
    error = pool.submit(print, Unreadable()).exception(30)
    assert isinstance(error, WorkersUnusable)
    assert "could not read what it was sent" in str(error)


def only_here():
    """What other processes do not find under its name."""


def test_a_function_that_is_not_found_there_is_told(pool, monkeypatch):
    monkeypatch.setattr(os, "only_here", only_here, raising=False)
    monkeypatch.setattr(only_here, "__module__", "os")
    error = pool.submit(only_here).exception(30)
    assert isinstance(error, WorkersUnusable)
    assert "'only_here' is not there when another process imports os" in str(
        error
    )


def test_what_cannot_be_sent_is_refused(pool):
    with pytest.raises(InvalidCampaign, match="at the top level of a file"):
        pool.submit(lambda: None)


def test_calls_that_take_too_long_are_ended(pool):
    began = time.monotonic()
    future = pool.submit(time.sleep, 100)
    assert isinstance(future.exception(30), UnitTimeout)
    assert "took longer than 2 s" in str(future.exception())
    assert 2 <= time.monotonic() - began < 4


def test_calls_that_wait_can_be_cancelled():
    with Pool(1) as pool:
        pool.submit(time.sleep, 0.1)
        future = pool.submit(os.getpid)
        assert future.cancel()
        assert pool.submit(pow, 2, 3).result(30) == 8
        waiting = pool.submit(time.sleep, 0.1), pool.submit(os.getpid)
        pool.shutdown(cancel_futures=True)
        assert waiting[1].cancelled()


def test_a_pool_that_is_killed_is_so_at_once():
    pool = Pool(2)
    pid = pool.submit(os.getpid).result(30)
    futures = [pool.submit(time.sleep, 100) for _ in range(3)]
    began = time.monotonic()
    pool.kill()
    assert time.monotonic() - began < 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    for future in futures:
        assert "the pool is closed" in str(future.exception(0))
    with pytest.raises(WorkersUnusable, match="the pool is closed"):
        pool.submit(pow, 1, 1)


def test_workers_do_not_see_ctrl_c_at_the_terminal(pool):
    pid = pool.submit(os.getpid).result(30)
    assert os.getpgid(pid) != os.getpgid(0)
    mask = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert signal.SIGINT not in mask.result(30)


@pytest.mark.parametrize(
    ("slots", "reason"),
    [(True, "slots are True"), (2, "has 2 slots, and a unit streams 3")],
)
def test_servers_without_room_are_refused(slots, reason):
    with pytest.raises(InvalidCampaign, match=reason):
        num_places(slots, 3)


def test_where_no_process_may_be_started_that_is_an_error(monkeypatch):
    config = multiprocessing.current_process()._config
    monkeypatch.setitem(config, "daemon", True)  # as in a worker of Dask
    with Pool(1) as pool:
        error = pool.submit(pow, 1, 1).exception(30)
    assert isinstance(error, WorkersUnusable)
    assert "cannot be started" in str(error)
    assert "in the main program" in str(error)
