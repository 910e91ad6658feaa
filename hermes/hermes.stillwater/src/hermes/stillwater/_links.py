"""What a process reads from, and what it writes to.

Packages stay in order through stages of several workers because everybody
counts alike. What a worker makes of the package number g is *group* g; it goes
to worker g modulo their number of the next stage, which reads it from worker
g modulo their number of this one. A stage of one worker numbers what it gives
anew: each package is a group of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hermes.stillwater.channel import (
    END_OF_GROUP,
    END_OF_STREAM,
    LAST_OF_GROUP,
    PACKAGE,
    Receiver,
    Sender,
)
from hermes.stillwater.errors import JoinMismatch

__all__ = ("NOTHING", "Arrival", "Inlet", "Outlet")


class Arrival(NamedTuple):
    """What was read.

    Attributes:
        group: The group it belongs to.
        package: The package; `NOTHING` where a group ends without one.
        is_last: Whether its group ends with it.
    """

    group: int
    package: Any
    is_last: bool


NOTHING = object()


class Inlet:
    """All that one process reads.

    Args:
        branches: For each stage it reads from, a channel from each worker.
        worker: Which worker of its own stage it is.
        num_workers: How many there are.

    Attributes:
        group: The group that is read; at the end the first that never came.
        has_ended: Whether the end of the stream was read.
    """

    def __init__(
        self,
        branches: Sequence[Sequence[Receiver]],
        worker: int = 0,
        num_workers: int = 1,
    ) -> None:
        self._branches = branches
        self._num_workers = num_workers
        self.group = worker
        self.has_ended = False

    @property
    def is_source(self) -> bool:
        """Whether there is nothing to read from."""
        return not self._branches

    def __iter__(self) -> Iterator[Arrival]:
        """Read in order.

        Raises:
            ChannelError: If a process before it is gone.
            JoinMismatch: If one branch ends before another.
        """
        if len(self._branches) == 1:
            for arrival in self._read(self._branches[0], self.group):
                self.group = arrival.group + (
                    self._num_workers if arrival.is_last else 0
                )
                yield arrival
        else:
            yield from self._join()
        self.has_ended = True

    def _join(self) -> Iterator[Arrival]:
        streams = [self._packages(branch) for branch in self._branches]
        while True:
            row = [next(stream, NOTHING) for stream in streams]
            if ended := [n for n, got in enumerate(row) if got is NOTHING]:
                if len(ended) < len(row):
                    msg = _say_mismatch(ended, len(row), self.group)
                    raise JoinMismatch(msg)
                return
            yield Arrival(self.group, tuple(row), is_last=True)
            self.group += 1

    def _packages(self, receivers: Sequence[Receiver]) -> Iterator[Any]:
        for arrival in self._read(receivers, 0):
            if arrival.package is not NOTHING:
                yield arrival.package

    def _read(
        self, receivers: Sequence[Receiver], group: int
    ) -> Iterator[Arrival]:
        while True:
            receiver = receivers[group % len(receivers)]
            kind, package = receiver.receive_kind()
            if kind == END_OF_STREAM:
                return
            if kind == END_OF_GROUP:
                package = NOTHING
            yield Arrival(group, package, is_last=kind != PACKAGE)
            if kind != PACKAGE:
                group += self._num_workers

    def interrupt(self) -> None:
        """End a wait of another thread, and every later one."""
        for receiver in self.channels():
            receiver.interrupt()

    def channels(self) -> Iterator[Receiver]:
        """Give all channels."""
        for receivers in self._branches:
            yield from receivers


class Outlet:
    """All that one process writes to.

    Args:
        branches: For each stage that reads, a channel to each worker.
        num_workers: Workers of its own stage.
    """

    def __init__(
        self, branches: Sequence[Sequence[Sender]], num_workers: int = 1
    ) -> None:
        self._branches = branches
        self._num_workers = num_workers
        self._num_sent = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def num_sent(self) -> int:
        """Packages given so far."""
        return self._num_sent

    def send(self, group: int, package: object, *, wait: bool = True) -> bool:
        """Give a package to all who read.

        Args:
            group: What it belongs to.
            package: The package.
            wait: Whether to wait for room, and for other threads.

        Returns:
            Whether it was given. Without waiting it never is where several
            read: one of them might have no room.

        Raises:
            ChannelError: If a process behind it is gone.
        """
        if not wait and len(self._branches) != 1:
            return False
        # emit() may be called by any thread
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            if self._num_workers == 1:
                kind, group = LAST_OF_GROUP, self._num_sent
            else:
                kind = PACKAGE
            if wait:
                self._send(kind, group, package)
            elif not self._to(0, group).offer_kind(kind, package):
                return False
            self._num_sent += 1
        finally:
            self._lock.release()
        return True

    def end_group(self, group: int) -> None:
        """Say that a group is complete."""
        if self._num_workers > 1:
            self._send(END_OF_GROUP, group, None)

    def end(self) -> None:
        """Say that nothing follows."""
        with self._lock:
            for sender in self.channels():
                sender.end()

    def channels(self) -> Iterator[Sender]:
        """Give all channels."""
        for senders in self._branches:
            yield from senders

    def _send(self, kind: int, group: int, package: object) -> None:
        for branch in range(len(self._branches)):
            self._to(branch, group).send_kind(kind, package)

    def _to(self, branch: int, group: int) -> Sender:
        senders = self._branches[branch]
        return senders[group % len(senders)]


def _say_mismatch(ended: Sequence[int], number: int, packages: int) -> str:
    names = ", ".join(str(n + 1) for n in ended)
    return (
        f"branch {names} of {number} ended after {packages} packages, and"
        " another one goes on; branches that are joined must give one package"
        " each for each package they take"
    )
