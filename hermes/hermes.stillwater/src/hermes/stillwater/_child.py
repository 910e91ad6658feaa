"""What the process of a stage does."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import logging.handlers
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import process as mp_process
from multiprocessing import spawn
from multiprocessing.connection import Connection
from types import GeneratorType
from typing import Any

from hermes.stillwater._board import BUSY, ENDED, READY, RECEIVED, SENT, Board
from hermes.stillwater._crossing import pack_error
from hermes.stillwater._links import NOTHING, Arrival, Inlet, Outlet
from hermes.stillwater._pace import Pace
from hermes.stillwater._reading import Reader
from hermes.stillwater.errors import (
    ChannelClosed,
    ChannelError,
    InvalidPipeline,
    JoinMismatch,
)
from hermes.stillwater.process import PipelineProcess

__all__ = ("main", "run")

STOP = b"stop"
_PARENT_IS_GONE = 3
# Who finds a neighbour gone hears from the parent within this time [s].
_PATIENCE = 0.5


def main(work: int, control: int) -> None:
    """Do the work that is described in a file.

    Args:
        work: The file.
        control: The socket to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for fd in (work, control):
        os.set_inheritable(fd, False)
    link = _Link(Connection(control))
    try:
        arguments = _read_work(work)
    except BaseException as error:  # noqa: BLE001
        link.tell_error(error)
        return
    run(link, *arguments)


def _read_work(work: int) -> tuple[Any, ...]:
    with open(work, "rb") as file:
        payload = io.BytesIO(file.read())
    current = mp_process.current_process()
    current._inheriting = True  # type: ignore[attr-defined]
    try:
        # Both are from our parent, and of nobody else.
        spawn.prepare(Reader(payload).load())
        arguments: tuple[Any, ...] = Reader(payload).load()
    finally:
        del current._inheriting  # type: ignore[attr-defined]
    return arguments


class _Link:
    """Messages to the parent, and its word to stop; ends with the parent."""

    def __init__(self, control: Connection) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._on_stop: list[Callable[[], None]] = []
        self._has_failed = False
        self.stopping = threading.Event()
        # A process that a stage forks must not look like the stage itself.
        os.register_at_fork(after_in_child=self._leave)
        threading.Thread(
            target=self._watch, name="hermes-stage-watch", daemon=True
        ).start()

    def _leave(self) -> None:
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._control.close()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Call something when told to stop; at once if that was before."""
        self._on_stop.append(call)
        if self.stopping.is_set():
            call()

    def _watch(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            self._control.recv_bytes()
            self.stop()
            self._control.recv_bytes()
        os._exit(_PARENT_IS_GONE)

    def stop(self) -> None:
        """Make everything that waits give up."""
        self.stopping.set()
        for call in self._on_stop:
            call()

    def tell(self, *message: object) -> None:
        """Send a message, unless the parent is gone."""
        data = pickle.dumps(message)
        with self._lock, contextlib.suppress(OSError):
            self._control.send_bytes(data)

    def tell_error(self, error: BaseException) -> None:
        """Send an error with its traceback; only the first one counts."""
        # Whoever comes second goes on, and perhaps ends the process, only when
        # the first one was sent.
        with self._telling:
            if not self._has_failed:
                self._has_failed = True
                self.tell("error", pack_error(error))


class _LogHandler(logging.handlers.QueueHandler):
    """Lets the parent log what is logged here."""

    def __init__(self, link: _Link) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._link = link

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send it, without what somebody added and cannot be sent."""
        try:
            self._link.tell("log", record)
        except Exception:  # noqa: BLE001
            added = record.__dict__.keys() - _PLAIN_RECORD
            record.__dict__.update(
                (key, str(getattr(record, key))) for key in added
            )
            self._link.tell("log", record)


_PLAIN_RECORD = logging.makeLogRecord({}).__dict__.keys() | {"message"}


def _send_logs(link: _Link, levels: Mapping[str, int]) -> None:
    logging.getLogger().addHandler(_LogHandler(link))
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def run(
    link: _Link,
    stage: PipelineProcess,
    inlet: Inlet,
    outlet: Outlet,
    board: Board,
    row: int,
    log_levels: Mapping[str, int],
    is_branch: bool,
) -> None:
    """Run a stage from beginning to end.

    Args:
        link: The parent.
        stage: The stage.
        inlet: What it reads.
        outlet: What it writes to.
        board: The counters.
        row: Which of them are its own.
        log_levels: The levels of the parent's loggers; "" is the root.
        is_branch: Whether it gives one package for each.
    """
    _send_logs(link, log_levels)
    work = _Work(link, stage, inlet, outlet, board.row(row))
    work.is_branch = is_branch
    work.run()
    link.tell("done")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


class _Work:
    """The loop of a stage."""

    def __init__(
        self,
        link: _Link,
        stage: PipelineProcess,
        inlet: Inlet,
        outlet: Outlet,
        row: memoryview,
    ) -> None:
        self._link = link
        self._stage = stage
        self._inlet = inlet
        self._outlet = outlet
        self._row = row
        self._pace = Pace(stage.rate, link.stopping.wait)
        self.is_branch = False

    def run(self) -> None:
        """Set up, work, tear down; tell at once what goes wrong."""
        stage = self._stage
        self._link.on_stop(self._interrupt)
        stage.__dict__["_emit"] = self._emit
        stage.__dict__["_fail"] = self._fail
        with self._telling():
            stage.setup()
            self._row[READY] = time.monotonic_ns()
            self._run()
        self._row[ENDED] = time.monotonic_ns()
        with self._telling():
            stage.teardown()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except ChannelError as error:
            # A neighbour is gone, or we were told to stop: the parent knows
            # why, and has said so, or soon will. Or it is the stage's own.
            if not self._link.stopping.wait(_PATIENCE):
                self._link.tell_error(error)
        except BaseException as error:  # noqa: BLE001
            self._link.tell_error(error)

    def _run(self) -> None:
        if self._inlet.is_source:
            for package in self._generate():
                self._send(0, package)
        else:
            for arrival in self._inlet:
                self._take(arrival)
        last = self._stage.finish()
        if not self.is_branch or last is not None:
            self._give(self._inlet.group, last)
        self._outlet.end_group(self._inlet.group)
        self._refuse_stopped()
        self._outlet.end()

    def _refuse_stopped(self) -> None:
        """Go no further, also where nothing is sent or received."""
        if self._link.stopping.is_set():
            raise ChannelClosed("told to stop")

    def _generate(self) -> Iterator[Any]:
        """Give what the source gives, in its own time."""
        stage = self._stage
        generate = getattr(stage, "generate", None)
        while True:
            self._pace.wait()
            try:
                found = self._timed(
                    generate or functools.partial(stage.process, None)
                )
            except StopIteration:
                return
            if isinstance(found, GeneratorType):
                yield from self._each(found, self._pace.wait)
                return
            yield found

    def _timed(self, work: Callable[[], Any]) -> Any:
        self._refuse_stopped()
        begin = time.perf_counter_ns()
        try:
            return work()
        finally:
            self._row[BUSY] += time.perf_counter_ns() - begin

    def _each(
        self, packages: Iterator[Any], wait: Callable[[], object]
    ) -> Iterator[Any]:
        """Give what a generator yields; the first step was waited for."""
        step = functools.partial(next, packages, NOTHING)
        while (package := self._timed(step)) is not NOTHING:
            yield package
            wait()

    def _take(self, arrival: Arrival) -> None:
        row = self._row
        if arrival.package is not NOTHING:
            row[RECEIVED] += 1
            self._pace.wait()
            process, package = self._stage.process, arrival.package
            found = self._timed(functools.partial(process, package))
            self._give(arrival.group, found)
        if arrival.is_last:
            self._outlet.end_group(arrival.group)

    def _give(self, group: int, found: Any) -> None:
        if self.is_branch:
            self._give_one(group, found)
        elif not isinstance(found, GeneratorType):
            self._send(group, found)
        else:
            for package in self._each(found, lambda: None):
                self._send(group, package)

    def _give_one(self, group: int, found: Any) -> None:
        """Give exactly one package; None is one, too."""
        if isinstance(found, GeneratorType):
            first = itertools.islice(found, 2)
            packages = self._timed(functools.partial(list, first))
            if len(packages) != 1:
                number = "several packages" if packages else "no package"
                msg = (
                    f"stage {self._stage.name!r} gave {number} for one; in a"
                    " branch that is joined again it must give exactly one"
                )
                raise JoinMismatch(msg)
            found = packages[0]
        self._pass_on(group, found)

    def _send(self, group: int, package: Any, *, wait: bool = True) -> bool:
        return package is None or self._pass_on(group, package, wait=wait)

    def _pass_on(self, group: int, package: Any, *, wait: bool = True) -> bool:
        was_sent = self._outlet.send(group, package, wait=wait)
        self._row[SENT] = self._outlet.num_sent
        return was_sent

    def _emit(self, package: Any, wait: bool) -> bool:
        if self._stage.workers > 1:
            msg = (
                f"{self._stage.name!r} has workers={self._stage.workers}:"
                " emit() keeps no order among them; use one"
            )
            raise InvalidPipeline(msg)
        return self._send(0, package, wait=wait)

    def _fail(self, error: BaseException) -> None:
        self._link.tell_error(error)
        self._link.stop()

    def _interrupt(self) -> None:
        for channel in (*self._inlet.channels(), *self._outlet.channels()):
            channel.interrupt()
