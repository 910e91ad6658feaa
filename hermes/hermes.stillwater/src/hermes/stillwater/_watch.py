"""Owns the processes of a pipeline: what they say, how they end."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from hermes.stillwater._child import STOP
from hermes.stillwater._crossing import unpack_error
from hermes.stillwater._spawn import Child
from hermes.stillwater.errors import StageDied

__all__ = ("Watch",)

# What was told to stop has this long to do so.
GRACE = 0.4


class Watch:
    """Looks after processes, in a thread of its own, until all are gone.

    That thread also releases what they used: an interrupt (Ctrl-C) meets the
    main thread only, and cannot keep it from doing so.

    Args:
        children: The processes.
        on_failure: Called once, when the first of them has failed.
        on_end: Called when all have ended and nobody needs them any more.

    Attributes:
        failure: What went wrong first.
        settled: Set when there is a failure, or all have ended.
    """

    def __init__(
        self,
        children: Sequence[Child],
        on_failure: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._children = {child.control: child for child in children}
        self._on_failure = on_failure
        self._on_end = on_end
        self._done: set[Connection] = set()
        # When each is killed, if it is still there.
        self._limits: dict[Connection, float] = {}
        self._is_stopping = False
        self._lock = threading.Lock()
        self._wake, self._alarm = _make_pipe()
        self._left = threading.Event()
        self._over = threading.Event()
        self.failure: BaseException | None = None
        self.settled = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="hermes-pipeline-watch", daemon=True
        )
        self._thread.start()

    def stop(self, grace: float = GRACE) -> None:
        """Tell all to stop; kill after a while those that do not."""
        limit = time.monotonic() + grace
        with self._lock:
            self._is_stopping = True
            for control in self._children:
                self._limit(control, limit)
                with contextlib.suppress(OSError):
                    control.send_bytes(STOP)
        self._ring()

    def let_go(self) -> None:
        """Have everything released as soon as all have ended."""
        self._left.set()

    def end(self, *, has_ended: bool) -> None:
        """Wait until all are gone and everything is released.

        Who interrupts that has the processes killed.

        Args:
            has_ended: Whether the stream has ended, and everybody has the
                `join_timeout`; else all are told to stop.
        """
        try:
            self.let_go()
            if has_ended:
                self._expect_end()
            else:
                self.stop()
            self._over.wait()
        except BaseException:
            self.stop(0)
            self._over.wait()
            raise
        self._thread.join()

    def _expect_end(self) -> None:
        now = time.monotonic()
        with self._lock:
            for control, child in self._children.items():
                self._limit(control, now + child.stage.join_timeout)
        self._ring()

    def _limit(self, control: Connection, limit: float) -> None:
        self._limits[control] = min(limit, self._limits.get(control, limit))

    def _ring(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._wake.closed:
                os.write(self._alarm, b"!")

    def _run(self) -> None:
        while self._children:
            for ready in wait(
                [*self._children, self._wake], self._left_over()
            ):
                if ready is self._wake:
                    os.read(self._wake.fileno(), 4096)
                elif isinstance(ready, Connection):
                    self._hear(ready)
            self._kill_late()
        self.settled.set()
        self._left.wait()
        self._on_end()
        with self._lock:
            os.close(self._alarm)
            self._wake.close()
        self._over.set()

    def _left_over(self) -> float | None:
        with self._lock:
            if not self._limits:
                return None
            return max(0.0, min(self._limits.values()) - time.monotonic())

    def _kill_late(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [c for c, limit in self._limits.items() if limit <= now]
            for control in late:  # they end; their sockets tell
                self._limits[control] = now + GRACE
        for control in late:
            child = self._children[control]
            child.process.kill()
            if control not in self._done:
                self._fail(StageDied(_say_late(child)))

    def _hear(self, control: Connection) -> None:
        child = self._children[control]
        try:
            data = control.recv_bytes()
        except (EOFError, OSError):
            self._bury(control, child)
            return
        with contextlib.suppress(Exception):  # of handlers, and of unpickling
            self._take(control, child, *pickle.loads(data))  # noqa: S301

    def _take(
        self, control: Connection, child: Child, what: str, *details: Any
    ) -> None:
        if what == "log":
            _log(details[0])
            return
        self._done.add(control)
        if what == "error":
            note = (
                f"raised in stage {child.name!r}, process {child.process.pid}"
            )
            self._fail(unpack_error(details[0], note))

    def _bury(self, control: Connection, child: Child) -> None:
        try:
            code = child.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            code = child.process.wait()
        with self._lock:
            del self._children[control]
            self._limits.pop(control, None)
            child.close()
        if control not in self._done:
            self._fail(StageDied(_say_death(child, code)))

    def _fail(self, failure: BaseException) -> None:
        if self.failure is None and not self._is_stopping:
            self.failure = failure
            self.stop()
            self._on_failure()
            self.settled.set()


def _make_pipe() -> tuple[Connection, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return Connection(reading, writable=False), writing


def _log(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _say_late(child: Child) -> str:
    return (
        f"stage {child.name!r} (process {child.process.pid}) was killed: its"
        f" stream had ended, and it had not within join_timeout="
        f"{child.stage.join_timeout:g} s; allow its teardown() more"
    )


def _say_death(child: Child, code: int) -> str:
    who = f"stage {child.name!r} (process {child.process.pid})"
    if code >= 0:
        return (
            f"{who} ended with exit code {code} before its"
            " work was done, and raised no error"
        )
    name = signal.Signals(-code).name
    hint = ""
    if -code == signal.SIGKILL:
        hint = (
            "; where nobody killed it, it was the kernel for want of memory"
            " (see dmesg, or the job's memory limit)"
        )
    return f"{who} was ended by {name}{hint}"
