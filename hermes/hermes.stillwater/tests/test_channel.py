"""Channels, with threads and with processes that are killed."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.stillwater.channel import (
    END,
    PACKAGE,
    Receiver,
    Sender,
    open_channel,
)
from hermes.stillwater.errors import (
    ChannelBroken,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    InvalidPipeline,
)

sys.path.insert(0, str(Path(__file__).parent))

from sample_stages import eat, feed, make_frame

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")


def num_fds() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    resource_tracker.ensure_running()  # spawning does, and it stays
    before = num_fds()
    yield
    assert num_fds() <= before


@pytest.fixture
def ends() -> Iterator[tuple[Sender, Receiver]]:
    sender, receiver = open_channel(10_000, depth=4)
    with sender, receiver:
        yield sender, receiver


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 5),
    st.lists(st.integers(0, 700), max_size=30),
)
def test_packages_of_any_size_pass_a_ring_of_any_size(
    buffer_size: int, depth: int, sizes: list[int]
) -> None:
    packages = [np.arange(size, dtype=np.uint8) for size in sizes]
    sender, receiver = open_channel(buffer_size, depth)

    def give() -> None:
        for package in packages:
            sender.send(package, timeout=20)
        sender.end(timeout=20)

    with sender, receiver, ThreadPoolExecutor(1) as pool:
        giving = pool.submit(give)
        for package in packages:
            np.testing.assert_array_equal(receiver.receive(20), package)
        assert receiver.receive(20) is END
        giving.result()
        assert receiver.counts == (len(sizes) + 1, len(sizes) + 1)


@pytest.mark.parametrize("buffer_size", [4096, 2**20, 2**23])
def test_frames_cross_processes_bit_by_bit(buffer_size: int) -> None:
    sender, receiver = open_channel(buffer_size)
    feeder = SPAWN.Process(target=feed, args=(sender, 40, 1_000_008))
    feeder.start()
    sender.close()
    with receiver:
        for n in range(40):
            package = receiver.receive(20)
            assert package["n"] == n
            np.testing.assert_array_equal(
                package["frame"], make_frame(n, 1_000_008)
            )
        assert receiver.receive(20) is END
    feeder.join()
    feeder.close()


def test_what_is_received_belongs_to_the_receiver(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    given = np.zeros(5)
    sender.send(given)
    given[:] = 1
    got = receiver.receive()
    sender.send(np.ones(500))
    got += 2
    receiver.receive()
    assert got.tolist() == [2] * 5


def test_end_is_the_same_everywhere() -> None:
    assert pickle.loads(pickle.dumps(END)) is END  # noqa: S301
    assert repr(END) == "END"


def test_a_full_channel_makes_the_sender_wait(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    for n in range(4):
        sender.send(n)
    with pytest.raises(ChannelTimeout, match="4 sent, 0 received"):
        sender.send(4, timeout=0.05)
    with ThreadPoolExecutor(1) as pool:
        cpu = time.process_time()
        waiting = pool.submit(sender.send, 4)
        time.sleep(0.3)
        assert not waiting.done()
        assert time.process_time() - cpu < 0.1
        assert receiver.receive() == 0
        waiting.result(5)
    assert [receiver.receive() for _ in range(4)] == [1, 2, 3, 4]


def test_an_empty_channel_makes_the_receiver_wait(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    with pytest.raises(ChannelTimeout, match="did not move"):
        receiver.receive(timeout=0.05)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.receive)
        time.sleep(0.1)
        sender.send("late")
        assert waiting.result(5) == "late"


def test_a_receiver_that_takes_one_lets_one_in() -> None:
    """It may wait for what its sender does next, and take no more."""
    sender, receiver = open_channel(depth=64)
    with sender, receiver, ThreadPoolExecutor(1) as pool:
        for n in range(64):
            sender.send(n)
        waiting = pool.submit(sender.send, 64)
        time.sleep(0.05)
        receiver.receive()
        waiting.result(1)


def test_an_offer_is_taken_whole_or_not_at_all(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    offer = functools.partial(sender.offer_kind, PACKAGE)
    assert not offer(np.zeros(10_001, np.uint8))  # never has room
    assert offer(np.zeros(6_000, np.uint8))
    assert not offer(np.zeros(6_000, np.uint8))
    assert offer("fits")
    assert len(receiver.receive()) == 6_000
    assert all(offer(n) for n in range(3))
    assert not offer("one too many")
    assert [receiver.receive() for _ in range(4)] == ["fits", 0, 1, 2]
    assert sender.counts == (5, 5)


@pytest.mark.parametrize("timeout", [0.2, 1e7, 1e12, float("inf")])
def test_any_time_limit_will_do(
    ends: tuple[Sender, Receiver], timeout: float
) -> None:
    sender, receiver = ends
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.receive, timeout)
        time.sleep(0.05)
        sender.send("late")
        assert waiting.result(5) == "late"


class Stubborn:
    """It does not come back."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(size)

    def __setstate__(self, state: object) -> None:
        raise RuntimeError("not here")


@pytest.mark.parametrize("size", [1, 20_000])
def test_what_cannot_be_made_again_is_no_end(size: int) -> None:
    sender, receiver = open_channel()
    with sender, receiver:
        for package in (Stubborn(size), "next"):
            sender.send(package)
        with pytest.raises(RuntimeError, match="not here"):
            receiver.receive()
        assert receiver.receive() == "next"
        assert receiver.counts == (2, 2)


def test_a_package_that_was_cut_is_never_seen(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    with pytest.raises(ChannelTimeout, match="did not move"):
        sender.send(np.zeros(20_000, np.uint8), timeout=0.05)
    with pytest.raises(ChannelTimeout, match="did not move"):
        receiver.receive(timeout=0.05)
    for broken in (receiver.receive, sender.end):
        with pytest.raises(ChannelBroken, match="broken off half-way"):
            broken()


def test_what_cannot_be_pickled_leaves_the_channel_as_it_was(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    with pytest.raises(TypeError, match="pickle"):
        sender.send([np.zeros(3), threading.Lock()])
    sender.send("next")
    assert receiver.receive() == "next"


def test_an_interrupt_ends_this_wait_and_every_later_one(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.receive)
        time.sleep(0.1)
        receiver.interrupt()
        with pytest.raises(ChannelClosed, match="interrupted"):
            waiting.result(1)
    sender.send("there is something")
    with pytest.raises(ChannelClosed, match="interrupted"):
        receiver.receive()
    sender.interrupt()
    with pytest.raises(ChannelClosed, match="interrupted"):
        sender.send(1)


def test_a_closed_end_says_so(ends: tuple[Sender, Receiver]) -> None:
    sender, receiver = ends
    sender.send(1)
    assert repr(sender) == "<Sender, 1 sent, 0 received>"
    sender.close()
    sender.close()
    sender.interrupt()
    assert repr(sender) == "<Sender, closed>"
    with pytest.raises(ChannelClosed, match="this Sender was closed"):
        sender.send(1)
    assert receiver.receive() == 1
    with pytest.raises(ChannelBroken, match="gone before the end"):
        receiver.receive()


def test_a_sender_that_never_waits_notices_a_death(
    ends: tuple[Sender, Receiver],
) -> None:
    sender, receiver = ends
    sender.send(1)
    receiver.close()
    time.sleep(0.25)
    with pytest.raises(ChannelBroken, match="receiving process is gone"):
        sender.send(2)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(InvalidPipeline, match="buffer_size=0, depth=5"):
        open_channel(0, 5)
    with pytest.raises(InvalidPipeline, match="both must be >= 1"):
        open_channel(5, 0)


def test_an_end_is_only_for_processes_being_started(
    ends: tuple[Sender, Receiver],
) -> None:
    with pytest.raises(ChannelError, match="Sender cannot be pickled"):
        pickle.dumps(ends[0])


@contextlib.contextmanager
def files_left(number: int) -> Iterator[None]:
    """Have so many files left that may be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(1))
        for fd in taken[:number]:
            os.close(fd)
        del taken[:number]
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_files_are_named_and_none_is_lost() -> None:
    before = num_fds()
    for number in range(8):
        with (
            files_left(number),
            pytest.raises(ChannelError, match="ulimit -n"),
        ):
            open_channel()
    assert num_fds() == before
    with files_left(8):
        sender, receiver = open_channel()
    sender.close()
    receiver.close()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("size", [8, 4_000_000])
def test_a_killed_sender_is_noticed(delay: float, size: int) -> None:
    sender, receiver = open_channel(2**16)
    feeder = FORK.Process(target=_feed_alone, args=(sender, receiver, size))
    feeder.start()
    sender.close()
    with receiver:
        receiver.receive(20)
        time.sleep(delay)
        os.kill(feeder.pid, signal.SIGKILL)
        killed, number = time.monotonic(), 1
        with pytest.raises(ChannelBroken, match="sending process is gone"):
            _check_frames(receiver, number, size)
        assert time.monotonic() - killed < 1
    feeder.join()
    feeder.close()


def _check_frames(receiver: Receiver, number: int, size: int) -> None:
    while True:
        package = receiver.receive(20)
        assert package["n"] == number
        frame = make_frame(number, size)
        np.testing.assert_array_equal(package["frame"], frame)
        number += 1


def _feed_alone(sender: Sender, receiver: Receiver, size: int) -> None:
    receiver.close()
    feed(sender, 10**9, size)


@pytest.mark.parametrize("size", [8, 4_000_000])
def test_a_killed_receiver_is_noticed(size: int) -> None:
    sender, receiver = open_channel(2**16)
    eater = FORK.Process(target=_eat_alone, args=(sender, receiver))
    eater.start()
    receiver.close()
    frame = make_frame(0, size)
    with sender, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(_send_always, sender, frame)
        time.sleep(0.3)
        os.kill(eater.pid, signal.SIGKILL)
        with pytest.raises(ChannelBroken, match="receiving process is gone"):
            failing.result(1)
    eater.join()
    eater.close()


def _send_always(sender: Sender, package: Any) -> None:
    while True:
        sender.send(package)


def _eat_alone(sender: Sender, receiver: Receiver) -> None:
    sender.close()
    eat(receiver, 10**9, delay=0.001)


def test_a_clean_end_is_no_death() -> None:
    sender, receiver = open_channel()
    feeder = FORK.Process(target=_feed_little, args=(sender, receiver))
    feeder.start()
    sender.close()
    feeder.join()
    feeder.close()
    with receiver:
        assert [receiver.receive()["n"] for _ in range(3)] == [0, 1, 2]
        assert receiver.receive() is END


def _feed_little(sender: Sender, receiver: Receiver) -> None:
    receiver.close()
    feed(sender, 3, 80)
