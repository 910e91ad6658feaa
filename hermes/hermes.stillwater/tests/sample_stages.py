"""Stages for the tests: a new interpreter must be able to import them."""

# ruff: noqa: ARG001, ARG002, ARG004, S607, TRY301

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from hermes.stillwater import PipelineProcess
from hermes.stillwater.channel import Receiver, Sender, open_channel
from hermes.stillwater.series import NumpySink, Series


class Count(PipelineProcess):
    """Gives 0, 1, 2, ..."""

    def __init__(self, number: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.number = number

    def process(self, package: None) -> Iterator[int]:
        n = 0
        while self.number is None or n < self.number:
            yield n
            n += 1


class Frames(PipelineProcess):
    """Gives arrays whose content follows from their number."""

    def __init__(self, number: int | None, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.number, self.size = number, size

    def process(self, package: None) -> Iterator[dict[str, Any]]:
        n = 0
        while self.number is None or n < self.number:
            yield {"n": n, "frame": make_frame(n, self.size)}
            n += 1


def make_frame(n: int, size: int) -> np.ndarray:
    """Make the frame of a number."""
    frame = np.arange(n, n + size // 8, dtype=np.uint64)
    frame *= np.uint64(0x9E3779B97F4A7C15)
    return frame


def check_frame(package: dict[str, Any]) -> int:
    """Compare a frame with what it should be; give its number."""
    n, frame = package["n"], package["frame"]
    np.testing.assert_array_equal(frame, make_frame(n, frame.nbytes))
    return n


def add_one(package: Any) -> Any:
    return package + 1


def double(package: Any) -> Any:
    return package * 2


def forward(package: Any) -> Any:
    return package


def drop(package: Any) -> None:
    return None


def repeat(package: int) -> Iterator[int]:
    """Give a package as often as its value modulo three."""
    yield from [package] * (package % 3)


def odd_only(package: int) -> int | None:
    return package if package % 2 else None


def dawdle(package: int) -> int:
    """Take unequal times, so that workers get out of step."""
    time.sleep(0.002 * (package * 7 % 5))
    return package


def sleep_long(package: Any) -> Any:
    time.sleep(100)
    return package


def sleep_little(package: Any) -> Any:
    time.sleep(0.01)
    return package


def hold_interpreter(package: Any) -> Any:
    """Run code that lets no other thread run, for half a minute or more."""
    return sum(range(10**10)) and package


def print_much(package: Any) -> Any:
    print("x" * 10_000)
    return package


def fork_and_die(package: Any) -> Any:
    """Leave processes behind that hold everything this one had open."""
    fork = multiprocessing.get_context("fork")
    fork.Process(target=time.sleep, args=(4,)).start()
    subprocess.Popen(["sleep", "4"], close_fds=False)
    os.kill(os.getpid(), signal.SIGKILL)


class Die(PipelineProcess):
    """Ends its process, in one of several ways, at its third package."""

    def __init__(self, how: str, **options: Any) -> None:
        super().__init__(**options)
        self.how = how

    def process(self, package: int) -> int:
        if package == 3:
            if self.how == "exit":
                os._exit(0)
            if self.how == "sys.exit":
                sys.exit(5)
            os.kill(os.getpid(), getattr(signal, self.how))
            time.sleep(10)
        return package


class PositionalError(Exception):
    """Takes other arguments than it hands to its parent."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} has {number}")
        self.number = number


class HoldingError(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class LyingError(Exception):
    """Cannot be made again at all."""

    def __new__(cls, *args: Any, secret: int) -> Self:
        return super().__new__(cls, *args)

    def __init__(self, *args: Any, secret: int) -> None:
        super().__init__(*args)


class Fail(PipelineProcess):
    """Fails where it is told to."""

    def __init__(self, where: str, error: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.where = where
        self.error = error

    def _fail_at(self, where: str) -> None:
        if self.where != where:
            return
        if self.error == "positional":
            raise PositionalError("the stage", 3)
        if self.error == "holding":
            raise HoldingError("it holds a lock")
        if self.error == "lying":
            raise LyingError("no way", secret=3)
        if self.error == "chained":
            try:
                _ = {}["missing"]
            except KeyError as error:
                raise ValueError("the outer one") from error
        raise ValueError(f"in {where}")

    def setup(self) -> None:
        self._fail_at("setup")

    def process(self, package: Any) -> Any:
        self._fail_at("process")
        if self.where == "thread":
            error = RuntimeError("in a thread")
            threading.Thread(target=self.fail, args=(error,)).start()
            time.sleep(20)
        if self.where == "generator":
            return self._generate(package)
        return package

    def _generate(self, package: Any) -> Iterator[Any]:
        yield package
        raise ValueError("in generator")

    def finish(self) -> None:
        self._fail_at("finish")

    def teardown(self) -> None:
        if self.where not in ("teardown", "slow teardown"):
            raise RuntimeError("teardown fails too, and is not the cause")
        self._fail_at("teardown")
        time.sleep(20)


class OwnChannel(PipelineProcess):
    """Has trouble with a channel that is its own business."""

    def process(self, package: Any) -> Any:
        sender, receiver = open_channel()
        sender.close()
        return receiver.receive()


class Journal(PipelineProcess):
    """Writes down what happens to it, and in which process."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(**options)
        self.path = path

    def _write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line} {os.getpid()}\n")

    def setup(self) -> None:
        self._write("setup")

    def process(self, package: Any) -> Any:
        return package

    def finish(self) -> Iterator[str]:
        yield "last"
        yield "very last"

    def teardown(self) -> None:
        self._write("teardown")


class SlowSetup(PipelineProcess):
    """Takes for ever to get ready."""

    def setup(self) -> None:
        time.sleep(100)

    def process(self, package: Any) -> Any:
        return package


class SlowTeardown(PipelineProcess):
    """Takes some time to be done."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = seconds

    def process(self, package: Any) -> Any:
        return package

    def teardown(self) -> None:
        time.sleep(self.seconds)


class Silent(PipelineProcess):
    """A source that never gives anything."""

    def process(self, package: None) -> None:
        time.sleep(0.001)


class Finite(PipelineProcess):
    """A source that is no generator."""

    def setup(self) -> None:
        self.left = 3

    def process(self, package: None) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


class Later(PipelineProcess):
    """Gives its answers from another thread."""

    def setup(self) -> None:
        self.threads: list[threading.Thread] = []

    def process(self, package: int) -> None:
        thread = threading.Thread(target=self.emit, args=(-package,))
        thread.start()
        thread.join()

    def finish(self) -> None:
        self.emit("end")


class Offer(PipelineProcess):
    """Sends on what there is room for, and at the end how much it was."""

    def process(self, package: int) -> None:
        self.num_sent = 0
        while self.num_sent < 1000 and self.emit(package, wait=False):
            self.num_sent += 1

    def finish(self) -> int:
        return self.num_sent


class Talk(PipelineProcess):
    """Logs all sorts of things."""

    def process(self, package: Any) -> Any:
        log = logging.getLogger("tests.talk")
        log.debug("detail %d", package)
        log.warning("lock %r", threading.Lock(), extra={"x": threading.Lock()})
        try:
            raise HoldingError("logged")
        except HoldingError:
            log.exception("caught")
        return package


def feed(sender: Sender, number: int, size: int) -> None:
    """Send frames until told otherwise."""
    for n in range(number):
        sender.send({"n": n, "frame": make_frame(n, size)})
    sender.end()
    sender.close()


def eat(receiver: Receiver, number: int, delay: float) -> None:
    """Receive packages."""
    for _ in range(number):
        receiver.receive()
        time.sleep(delay)


def give_one_piece() -> Iterator[Series]:
    """Something for a sink, and soon afterwards a failure."""
    times = np.arange(3.0)
    yield Series("y", times[:, None], times, 1.0, ("H1", 0))
    time.sleep(0.3)
    raise ValueError("no more")


class StuckSink(NumpySink):
    """Cannot be asked to stop, and is killed."""

    def process(self, package: Series) -> None:
        super().process(package)
        time.sleep(60)


class KilledSink(NumpySink):
    """Is killed in the middle of a file."""

    def process(self, package: Series) -> None:
        super().process(package)
        os.kill(os.getpid(), signal.SIGKILL)


class Careless(PipelineProcess):
    """Fails again when its killed process is cleaned up after."""

    def process(self, _: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def cleanup(self) -> None:
        raise ValueError("no more")


class SlowToTell(Exception):
    """Takes its time to be pickled."""

    def __reduce__(self) -> Any:
        time.sleep(0.5)
        return super().__reduce__()


class FailTwice(PipelineProcess):
    """Fails in two threads: the first one is not sent when the second ends."""

    def process(self, _: int) -> None:
        first = threading.Thread(
            target=self.fail, args=(SlowToTell("the cause"),), daemon=True
        )
        first.start()
        time.sleep(0.2)
        raise ValueError("a consequence")
