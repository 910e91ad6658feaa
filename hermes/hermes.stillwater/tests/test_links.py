"""Order among workers, with threads in place of processes."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.stillwater._links import NOTHING, Inlet, Outlet
from hermes.stillwater.channel import Receiver, Sender, open_channel
from hermes.stillwater.errors import ChannelBroken, JoinMismatch

Row = list[tuple[Sender, Receiver]]
Work = Callable[[Any], list[Any]]


def connect(sources: int, readers: int) -> list[Row]:
    """Join every source with every reader, by channels that are soon full."""
    return [
        [open_channel(300, depth=2) for _ in range(readers)]
        for _ in range(sources)
    ]


def inlet(rows: list[Row], worker: int = 0, workers: int = 1) -> Inlet:
    return Inlet([[row[worker][1] for row in rows]], worker, workers)


def outlet(rows: list[Row], worker: int = 0, workers: int = 1) -> Outlet:
    return Outlet([[ends[0] for ends in rows[worker]]], workers)


def give(outlet: Outlet, packages: Sequence[Any]) -> None:
    for package in packages:
        outlet.send(0, package)
    outlet.end()


def work(inlet: Inlet, outlet: Outlet, function: Work) -> None:
    """Do what a stage's process does."""
    for arrival in inlet:
        if arrival.package is not NOTHING:
            for package in function(arrival.package):
                outlet.send(arrival.group, package)
        if arrival.is_last:
            outlet.end_group(arrival.group)
    outlet.send(inlet.group, "last")
    outlet.end_group(inlet.group)
    outlet.end()


def read(inlet: Inlet) -> list[Any]:
    return [a.package for a in inlet if a.package is not NOTHING]


def close(*joints: list[Row]) -> None:
    for rows in joints:
        for sender, receiver in itertools.chain(*rows):
            sender.close()
            receiver.close()


def repeat(package: int) -> list[int]:
    return [package] * (package % 4) if package != "last" else [package]


def start_stage(
    pool: ThreadPoolExecutor, before: list[Row], after: list[Row], number: int
) -> Iterator[Future[None]]:
    for worker in range(number):
        yield pool.submit(
            work,
            inlet(before, worker, number),
            outlet(after, worker, number),
            repeat,
        )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(st.integers(0, 9), max_size=20),
)
def test_workers_keep_the_order(
    workers: list[int], packages: list[int]
) -> None:
    numbers = [1, *workers, 1]
    joints = [connect(a, b) for a, b in itertools.pairwise(numbers)]
    with ThreadPoolExecutor(20) as pool:
        running = [pool.submit(give, outlet(joints[0]), packages)]
        for number, before, after in zip(
            workers, joints, joints[1:], strict=False
        ):
            running += start_stage(pool, before, after, number)
        result = read(inlet(joints[-1]))
        for future in running:
            future.result(20)
    expected: list[Any] = list(packages)
    for number in workers:
        expected = [p for q in expected for p in repeat(q)]
        expected += ["last"] * number
    assert result == expected
    close(*joints)


@given(st.integers(0, 5))
@settings(deadline=None)
def test_branches_are_joined_package_by_package(number: int) -> None:
    one, two = connect(1, 1), connect(1, 1)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(give, outlet(one), range(number))
        pool.submit(give, outlet(two), [None] * number)
        joined = Inlet([[one[0][0][1]], [two[0][0][1]]])
        assert read(joined) == [(n, None) for n in range(number)]
    assert joined.has_ended
    assert joined.group == number
    close(one, two)


def test_a_join_with_too_few_packages_names_the_branch() -> None:
    one, two = connect(1, 1), connect(1, 1)
    give(outlet(one), "a")
    outlet(two).send(0, "x")
    outlet(two)._send(1, 1, "y")
    joined = iter(Inlet([[one[0][0][1]], [two[0][0][1]]]))
    assert next(joined).package == ("a", "x")
    with pytest.raises(
        JoinMismatch, match="branch 1 of 2 ended after 1 packages"
    ):
        next(joined)
    close(one, two)


def test_an_end_that_never_came_is_no_end() -> None:
    rows = connect(1, 1)
    outlet(rows).send(0, "a")
    rows[0][0][0].close()
    reading = inlet(rows)
    arrivals = iter(reading)
    assert next(arrivals).package == "a"
    with pytest.raises(ChannelBroken, match="before the end of its stream"):
        next(arrivals)
    assert not reading.has_ended
    close(rows)


def test_an_outlet_without_readers_counts() -> None:
    nowhere = pickle.loads(pickle.dumps(Outlet([])))  # noqa: S301
    nowhere.send(0, "a")
    nowhere.end()
    assert nowhere.num_sent == 1
    assert Inlet([]).is_source
