"""Work on several servers at once."""

from __future__ import annotations

import _thread
import threading
import time

import pytest

from hermes.cloudbreak._replicas import endpoint_at, on_each

NAMED = {name: endpoint_at(name) for name in ("first", "second")}


def test_who_fails_is_named_and_the_others_go_on() -> None:
    done = []

    def work(endpoint, stop) -> None:
        assert not stop.is_set()
        if endpoint.grpc.startswith("first"):
            raise ArithmeticError("it is not finite")
        done.append(endpoint.grpc)

    failed = on_each(NAMED.items(), work)
    assert done == ["second:8001"]
    assert str(failed["first"]) == "it is not finite"


def test_ctrl_c_does_not_wait_for_work_that_repeats() -> None:
    stops = []

    def work(endpoint, stop) -> None:
        stops.append(stop)
        if endpoint.grpc.startswith("second"):
            _thread.interrupt_main()
        while not stop.is_set():
            time.sleep(0.01)

    # Else it would wait for ever.
    guard = threading.Timer(10, lambda: [each.set() for each in stops])
    guard.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        on_each(NAMED.items(), work)
    assert time.monotonic() - begun < 5
    assert all(each.is_set() for each in stops)
    guard.cancel()
