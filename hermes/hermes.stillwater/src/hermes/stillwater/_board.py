"""Counters that every process writes and the parent reads."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

__all__ = ("Board", "StageStatistics")

WORDS = 8  # a cache line each
RECEIVED, SENT, BUSY, READY, ENDED = range(5)


@dataclass(frozen=True)
class StageStatistics:
    """What a stage has done so far.

    Attributes:
        name: The stage.
        num_received: Packages it took.
        num_sent: Packages it gave.
        rate: Packages given per second (taken, for a stage that gives none),
            since it was ready [Hz].
        queue_size: Packages that wait for it.
        busy: Share of the time, since it was ready, in `process`; the mean
            of its workers.
    """

    name: str
    num_received: int
    num_sent: int
    rate: float
    queue_size: int
    busy: float


class Board:
    """Words of shared memory without a name.

    Args:
        num_rows: One for each process.
    """

    def __init__(self, num_rows: int) -> None:
        self._size = max(1, num_rows) * WORDS * 8
        self._fd = os.memfd_create("hermes-board")
        os.ftruncate(self._fd, self._size)
        self._map()

    def _map(self) -> None:
        self._memory = mmap.mmap(self._fd, self._size)
        self._words = memoryview(self._memory).cast("Q")
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self._size, "fd": reduction.DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._size, self._fd = state["size"], state["fd"].detach()
        os.set_inheritable(self._fd, False)
        self._map()

    def row(self, number: int) -> memoryview:
        """Give the words of one process, to write to."""
        return self._words[number * WORDS : (number + 1) * WORDS]

    def read(self, number: int) -> list[int]:
        """Tell what the words of one process are; zeros once it is closed."""
        with self._lock:
            if self._memory.closed:
                return [0] * WORDS
            return self.row(number).tolist()

    def close(self) -> None:
        """Give the memory up."""
        with self._lock:
            if not self._memory.closed:
                self._words.release()
                self._memory.close()
                os.close(self._fd)


def summarize(
    name: str,
    rows: Sequence[Sequence[int]],
    num_waiting: int,
    now: int,
) -> StageStatistics:
    """Make a stage's statistics of its workers' rows.

    Args:
        name: The stage.
        rows: Their words.
        num_waiting: Packages sent to it so far.
        now: The monotonic clock [ns].
    """
    received = sum(row[RECEIVED] for row in rows)
    sent = sum(row[SENT] for row in rows)
    lives = [
        (row[ENDED] or now) - row[READY] if row[READY] else 0 for row in rows
    ]
    seconds = max(lives) / 1e9
    busy = [
        row[BUSY] / life for row, life in zip(rows, lives, strict=True) if life
    ]
    return StageStatistics(
        name=name,
        num_received=received,
        num_sent=sent,
        rate=(sent or received) / seconds if seconds else 0.0,
        queue_size=max(0, num_waiting - received),
        busy=sum(busy) / len(busy) if busy else 0.0,
    )
