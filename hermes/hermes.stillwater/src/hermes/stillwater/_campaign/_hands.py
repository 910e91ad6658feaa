"""A worker, as the pool's thread sees it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnContext
from time import monotonic
from typing import Any

from hermes.stillwater._campaign._worker import READY, death_of, main

__all__ = ("Hand", "Job", "wait")

_KILL_SECONDS = 10.0


@dataclass
class Job:
    """A call that somebody waits for.

    Attributes:
        future: What they wait on.
        payload: The pickled call.
        is_started: Whether it can no longer be cancelled.
    """

    future: Future[Any]
    payload: bytes
    is_started: bool = False

    def start(self) -> bool:
        """Claim it; False if it was cancelled."""
        self.is_started = self.future.set_running_or_notify_cancel()
        return self.is_started

    def fail(self, error: BaseException) -> None:
        """Give it an error, unless it was cancelled."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class Hand:
    """One process.

    Args:
        context: Of multiprocessing.

    Attributes:
        job: What it is at.
        is_ready: Whether it has said so.
        deadline: Of its job, in monotonic seconds.
    """

    def __init__(self, context: SpawnContext) -> None:
        self.job: Job | None = None
        self.is_ready = False
        self.deadline: float | None = None
        self._is_mute = False
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=main, args=(theirs,))
        self._process.start()
        theirs.close()
        pid, sentinel = self._process.pid, self._process.sentinel
        self._death = death_of(pid or 0, sentinel)

    @property
    def is_free(self) -> bool:
        """Whether it waits for a job."""
        return self.is_ready and self.job is None

    @property
    def signs(self) -> list[Any]:
        """What to wait on."""
        return [self._pipe, self._death]

    def give(self, job: Job, timeout: float | None) -> None:
        """Send it a job. If it has died, that will be seen."""
        self.job = job
        if timeout is not None:
            self.deadline = monotonic() + timeout
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(job.payload)

    def hear(self) -> Iterator[tuple[str, Any]]:
        """Give what it has said."""
        try:
            while self._pipe.poll():
                kind, value = self._pipe.recv()
                self.is_ready |= kind == READY
                yield kind, value
        except (EOFError, OSError):
            self._is_mute = True

    def is_dead(self) -> bool:
        """Whether its process is gone, or cannot say anything any more."""
        return self._is_mute or bool(connection.wait([self._death], 0))

    def dismiss(self) -> None:
        """Have it end when it is done."""
        self._pipe.close()

    def kill(self) -> str:
        """End it and all it has started, now.

        Returns:
            How it ended.
        """
        # Before it is reaped: until then its number is nobody else's.
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()
        self._process.join(_KILL_SECONDS)
        code = self._process.exitcode
        self._pipe.close()
        os.close(self._death)
        if code is None:  # the kernel does not let go of it
            return "cannot be ended"
        self._process.close()
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def wait(hands: Sequence[Hand], bell: int, timeout: float | None) -> bool:
    """Wait until something happens.

    Returns:
        Whether the bell rang.
    """
    signs = [s for hand in hands for s in hand.signs if not _is_closed(s)]
    return bell in connection.wait([bell, *signs], timeout)


def _is_closed(sign: Any) -> bool:
    return isinstance(sign, connection.Connection) and sign.closed
