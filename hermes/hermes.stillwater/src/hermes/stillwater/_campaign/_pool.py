"""The executor that a campaign uses by default.

`ProcessPoolExecutor` gives up when a worker is killed, with all that it was
doing, and cannot say which call did it; nor can it end a call that hangs.
Here a worker has one call at a time and a pipe of its own. Who dies takes
one call along, and is replaced; a call that takes too long is ended with its
worker.

One thread owns the processes: it starts, feeds, kills and buries them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from time import monotonic
from typing import Any, TypeVar

from hermes.stillwater._campaign._hands import Hand, Job, wait
from hermes.stillwater._campaign._worker import RAISED, READY, RESULT
from hermes.stillwater.errors import (
    CampaignError,
    InvalidCampaign,
    UnitTimeout,
    WorkerDied,
    WorkersUnusable,
)

__all__ = ("Pool",)

_T = TypeVar("_T")
# Workers in a row that may die before they are ready.
_MAX_STILLBORN = 3
# For workers that were told to end: some have a server to stop.
_CLOSE_SECONDS = 30.0


class Pool(Executor):
    """Processes, each with one call at a time.

    Args:
        workers: How many.
        timeout: Seconds that a call may take; None for any time.
    """

    def __init__(self, workers: int, timeout: float | None = None) -> None:
        self._max_workers = workers
        self._timeout = timeout
        self._context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._hands: list[Hand] = []
        self._num_stillborn = 0
        self._error: CampaignError | None = None
        self._is_closing = False
        self._killed = threading.Event()
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        self._thread = threading.Thread(
            target=self._manage, name="hermes-pool", daemon=True
        )
        self._thread.start()

    def submit(
        self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any
    ) -> Future[_T]:
        """Have a worker call a function.

        Raises:
            InvalidCampaign: If it cannot be sent there.
            CampaignError: If the pool is closed, or cannot start workers.
        """
        try:
            payload = pickle.dumps((fn, args, kwargs))
        except Exception as error:
            msg = (
                f"it cannot be sent to another process: {error}. Define the"
                " function at the top level of a file, and give it what can"
                " be pickled"
            )
            raise InvalidCampaign(msg) from error
        future: Future[_T] = Future()
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._is_closing:
                raise WorkersUnusable("the pool is closed")
            self._jobs.append(Job(future, payload))
        self._ring()
        return future

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._is_closing = True
            if cancel_futures:
                for job in self._jobs:
                    job.future.cancel()
        self._ring()
        if wait:
            self._thread.join()

    def kill(self) -> None:
        """End all workers at once, and wait for that."""
        self._killed.set()
        self.shutdown()

    def _ring(self) -> None:
        # Full of rings, or nobody is there to hear it: either will do.
        with contextlib.suppress(OSError), self._lock:
            if self._button >= 0:
                os.write(self._button, b"\0")

    def _manage(self) -> None:
        # Workers inherit this: they must not see Ctrl-C before they can
        # step aside. The main thread goes on seeing it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while self._step():
                pass
            self._part()
        except Exception as error:  # noqa: BLE001  # of the system
            self._error = WorkersUnusable(
                f"workers cannot be started ({error!r}): ask for fewer, or"
                " run the campaign in the main program"
            )
            self._error.__cause__ = error
        finally:
            self._end()

    def _step(self) -> bool:
        if self._killed.is_set() or self._error is not None:
            return False
        self._hire()
        self._hand_out()
        busy = [hand for hand in self._hands if hand.job is not None]
        if self._is_closing and not busy and not self._jobs:
            return False
        if wait(self._hands, self._bell, self._patience()):
            os.read(self._bell, 2**16)
        for hand in list(self._hands):
            self._look_after(hand)
        return True

    def _hire(self) -> None:
        wanted = len(self._jobs) + sum(h.job is not None for h in self._hands)
        while len(self._hands) < min(wanted, self._max_workers):
            self._hands.append(Hand(self._context))

    def _hand_out(self) -> None:
        for hand in self._hands:
            while hand.is_free and (job := self._next()) is not None:
                hand.give(job, self._timeout)

    def _next(self) -> Job | None:
        with self._lock:
            while self._jobs:
                job = self._jobs.popleft()
                if job.is_started or job.start():
                    return job
        return None

    def _patience(self) -> float | None:
        deadlines = [hand.deadline for hand in self._hands if hand.deadline]
        if not deadlines:
            return None
        return max(0.0, min(deadlines) - monotonic())

    def _look_after(self, hand: Hand) -> None:
        is_dead = hand.is_dead()  # before: what it said before is all there
        for kind, value in hand.hear():
            self._take(hand, kind, value)
        if is_dead:
            self._bury(hand)
        elif hand.deadline and monotonic() >= hand.deadline:
            msg = f"it took longer than {self._timeout:g} s, and was ended"
            job, hand.job = hand.job, None
            self._hands.remove(hand)
            hand.kill()
            if job is not None:
                job.future.set_exception(UnitTimeout(msg))

    def _take(self, hand: Hand, kind: str, value: Any) -> None:
        if kind == READY:
            self._num_stillborn = 0
            return
        job, hand.job, hand.deadline = hand.job, None, None
        if job is None:
            return
        if kind == RESULT:
            job.future.set_result(value)
        elif kind == RAISED:
            job.future.set_exception(CampaignError(value))
        else:
            msg = f"a worker could not read what it was sent:\n{value}"
            job.future.set_exception(WorkersUnusable(msg))

    def _bury(self, hand: Hand) -> None:
        self._hands.remove(hand)
        how, job = hand.kill(), hand.job
        if job is not None:
            msg = f"its worker {how} while it was at work"
            job.future.set_exception(WorkerDied(msg))
        elif not hand.is_ready:
            self._num_stillborn += 1
        if self._num_stillborn >= _MAX_STILLBORN:
            self._error = WorkersUnusable(
                f"{_MAX_STILLBORN} workers in a row ended before they began"
                f" (the last one {how}). They import the file that was run:"
                " what it does must be below `if __name__ == '__main__':`."
                " What they printed says more"
            )

    def _part(self) -> None:
        """Let workers end, if there is time for that."""
        if self._killed.is_set():
            return
        for hand in self._hands:
            hand.dismiss()
        end = monotonic() + _CLOSE_SECONDS
        while self._hands and (left := end - monotonic()) > 0:
            if wait(self._hands, self._bell, left):
                os.read(self._bell, 2**16)
            if self._killed.is_set():
                return
            for hand in [hand for hand in self._hands if hand.is_dead()]:
                self._hands.remove(hand)
                hand.kill()

    def _end(self) -> None:
        jobs = [hand.job for hand in self._hands if hand.job is not None]
        for hand in self._hands:
            hand.kill()
        with self._lock:
            self._error = self._error or WorkersUnusable("the pool is closed")
            self._is_closing = True
            jobs += self._jobs
            self._jobs.clear()
            os.close(self._bell)
            os.close(self._button)
            self._button = -1
        for job in jobs:
            job.fail(self._error)
