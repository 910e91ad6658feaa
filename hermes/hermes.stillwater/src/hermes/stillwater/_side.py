"""What both ends of a channel have in common: memory, waiting, waking."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import threading
import time
from collections.abc import Callable
from multiprocessing import context, reduction
from typing import Any, Self

from hermes.stillwater.errors import (
    ChannelBroken,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
)

__all__ = (
    "NUM_RECEIVED",
    "NUM_SENT",
    "READ",
    "RECEIVER_SLEEPS",
    "RESERVED",
    "SENDER_SLEEPS",
    "WRITTEN",
    "Side",
    "barrier",
)

# Words of the shared memory, each in a cache line of its own.
WRITTEN, READ, NUM_SENT, NUM_RECEIVED = 0, 8, 16, 24
SENDER_SLEEPS, RECEIVER_SLEEPS = 32, 40
RESERVED = 4096

_INTERRUPTED = "the wait was interrupted: told to stop"


class Side:
    """One end of a channel."""

    # The eventfd on which this side waits, and the one it writes to.
    _wait_fd: int
    _post_fd: int
    # The words that say so.
    _sleeps: int
    _other_sleeps: int
    # In seconds; `poll` counts milliseconds, and not up to a month.
    _longest_sleep = 1e6
    # Until there is something to close.
    _closed = True

    def __init__(
        self, fds: tuple[int, ...], buffer_size: int, depth: int
    ) -> None:
        self._fds = fds
        self._buffer_size = buffer_size
        self._depth = depth
        self._closed = False
        self._interrupted = False
        self._memory: mmap.mmap | None = None
        # Bytes written or read, and those up to the end of a package.
        self._moved = self._boundary = 0

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_closed()
        if context.get_spawning_popen() is None:
            raise ChannelError(
                f"a {type(self).__name__} cannot be pickled: hand it to a"
                " process as an argument, while that is being started"
            )
        return {
            "fds": [reduction.DupFd(fd) for fd in self._fds],
            "buffer_size": self._buffer_size,
            "depth": self._depth,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        fds = tuple(fd.detach() for fd in state["fds"])
        for fd in fds:  # or programs that this process runs would hold it
            os.set_inheritable(fd, False)
        type(self).__init__(self, fds, state["buffer_size"], state["depth"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<{type(self).__name__}, closed>"
        sent, received = self.counts
        return f"<{type(self).__name__}, {sent} sent, {received} received>"

    @property
    def counts(self) -> tuple[int, int]:
        """Packages sent and received so far, as far as this side knows."""
        self._attach()
        return self._words[NUM_SENT], self._words[NUM_RECEIVED]

    def interrupt(self) -> None:
        """End a wait of another thread, and every later one at once."""
        self._interrupted = True
        if not self._closed:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._wait_fd, 1)

    def close(self) -> None:
        """Give this end up. What was sent can still be received."""
        if self._closed:
            return
        self._closed = True
        if self._memory is not None:
            self._words.release()
            self._ring.release()
            self._view.release()
            self._memory.close()
        for fd in self._fds:
            os.close(fd)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ChannelClosed(f"this {type(self).__name__} was closed")

    def _attach(self) -> None:
        """Map the memory; a process that only passes it on need not."""
        self._refuse_closed()
        if self._memory is not None:
            return
        self._memory = mmap.mmap(self._fds[0], RESERVED + self._buffer_size)
        self._view = memoryview(self._memory)
        self._words = self._view[:RESERVED].cast("Q")
        self._ring = self._view[RESERVED:]
        self._poll = select.poll()
        self._poll.register(self._wait_fd, select.POLLIN)
        self._poll.register(self._fds[3], select.POLLIN)
        self._life = select.poll()
        self._life.register(self._fds[3], select.POLLIN)

    def _begin(self, timeout: float | None) -> float | None:
        """Make ready for a package; give the time to give up at."""
        self._attach()
        if self._interrupted:
            raise ChannelClosed(_INTERRUPTED)
        if self._moved != self._boundary:
            raise ChannelBroken(
                "an earlier package was broken off half-way, by a timeout or"
                " an exception: what follows has no beginning"
            )
        return None if timeout is None else time.monotonic() + timeout

    def _wait(
        self, deadline: float | None, is_moving: Callable[[], bool]
    ) -> bool:
        """Sleep until the other side has moved; tell whether it is there.

        Args:
            deadline: When to give up.
            is_moving: Whether there is nothing to wait for any more.
        """
        self._words[self._sleeps] = 1
        barrier()
        try:
            return is_moving() or self._sleep(deadline)
        finally:
            self._words[self._sleeps] = 0

    def _sleep(self, deadline: float | None) -> bool:
        left = self._longest_sleep
        if deadline is not None:
            left = min(left, max(0.0, deadline - time.monotonic()))
        ready = [] if self._interrupted else self._poll.poll(left * 1000)
        if self._interrupted:
            raise ChannelClosed(_INTERRUPTED)
        if not ready:
            if deadline is None or time.monotonic() < deadline:
                return True  # who waits looks again, and comes back
            raise ChannelTimeout(f"{self!r}: the other side did not move")
        if any(fd == self._wait_fd for fd, _ in ready):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wait_fd)
            return True
        return False

    def _post(self) -> None:
        """Wake the other side, if it sleeps.

        What was published before is seen by a side that is not woken: it says
        that it will sleep, and only then looks for the last time.
        """
        barrier()
        if self._words[self._other_sleeps]:
            # Once is enough until it sleeps again. Taken back before it is
            # woken: afterwards it may be asleep again already.
            self._words[self._other_sleeps] = 0
            os.eventfd_write(self._post_fd, 1)


_lock = threading.Lock()


def barrier() -> None:
    """Let no load or store be reordered across, on any processor.

    Python has no fence. One lock's release comes before the next one's
    acquisition in everybody's eyes: what was before the first stays before
    it, and what is after the second after it.
    """
    with _lock:
        pass
    with _lock:
        pass
