"""Poll servers, each in a thread of its own: a slow one delays no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic, time

from hermes.aeriel.monitor._fetch import FetchFailed
from hermes.aeriel.monitor._metrics import Reading
from hermes.aeriel.monitor._targets import Target

__all__ = ("Answer", "Fetch", "Pace", "Poller")

Fetch = Callable[[str, float], Reading]

# A server counts a request shortly after it has answered it. What is asked
# for the end is asked after this, and again while something changes.
_SETTLE_SECONDS = 0.1
_NUM_LAST_POLLS = 4
_LAST_TIMEOUT = 1.0
# A server that does not answer is asked again after this, or sooner.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Pace:
    """How often a server is polled.

    Attributes:
        interval: Seconds between two polls.
        shortest: Seconds that must be between two polls.
        timeout: Seconds that one may take.
    """

    interval: float
    shortest: float
    timeout: float


@dataclass(frozen=True)
class Answer:
    """How a poll ended.

    Attributes:
        target: The server.
        timestamp: When, seconds since the epoch.
        clock: When, by the monotonic clock.
        reading: What it said; None if it did not.
        problem: Why it did not.
    """

    target: Target
    timestamp: float
    clock: float
    reading: Reading | None
    problem: str = ""


class Poller:
    """Polls one server until it is told to finish.

    Args:
        target: The server.
        pace: How often.
        answers: Where its answers go.
        fetch: How to ask; see `hermes.aeriel.monitor._fetch.fetch`.
    """

    def __init__(
        self,
        target: Target,
        pace: Pace,
        answers: SimpleQueue[Answer],
        fetch: Fetch,
    ) -> None:
        self.target = target
        # When the first poll began that has no answer yet.
        self.waiting_since: float | None = None
        # Whether one of the last polls was answered.
        self.has_last = False
        self._pace = pace
        self._answers = answers
        self._fetch = fetch
        self._finishing = threading.Event()
        # Whoever waits for it knows how long: a name may take minutes to
        # resolve, and nothing stops that.
        self._thread = threading.Thread(
            target=self._run, name=f"hermes-poll-{target.name}", daemon=True
        )

    def start(self) -> None:
        """Poll at once, and go on."""
        self._thread.start()

    def finish(self) -> None:
        """Have the last polls made; does not wait for them."""
        self._finishing.set()

    def join(self, timeout: float) -> None:
        """Wait for the last of them."""
        self._thread.join(timeout)

    def _run(self) -> None:
        begin = monotonic()
        latest = self._ask(self._pace.timeout)
        while not self._finishing.wait(
            max(0.0, begin + self._pause(latest) - monotonic())
        ):
            begin = monotonic()
            latest = self._ask(self._pace.timeout)
        self._settle(begin)

    def _pause(self, latest: Reading | None) -> float:
        if latest is not None:
            return self._pace.interval
        soon = max(self._pace.shortest, _RETRY_SECONDS)
        return min(self._pace.interval, soon)

    def _settle(self, begin: float) -> None:
        """Poll until nothing changes any more, but a few times at most.

        The first one is made whatever the pace says: without it the record
        would lack what happened since the poll before.
        """
        pause = _SETTLE_SECONDS
        if self._pace.shortest <= _LAST_TIMEOUT:
            due = begin + self._pace.shortest - monotonic()
            pause = max(pause, due)
        before = None
        for _ in range(_NUM_LAST_POLLS):
            threading.Event().wait(pause)
            found = self._ask(min(self._pace.timeout, _LAST_TIMEOUT))
            self.has_last |= found is not None
            is_settled = (
                found is not None
                and before is not None
                and found.counters == before.counters
            )
            if is_settled or self._pace.shortest > _LAST_TIMEOUT:
                return
            before = found
            pause = max(_SETTLE_SECONDS, self._pace.shortest)

    def _ask(self, timeout: float) -> Reading | None:
        if self.waiting_since is None:
            self.waiting_since = monotonic()
        reading, problem = None, ""
        try:
            reading = self._fetch(self.target.metrics, timeout)
            self.waiting_since = None
        except FetchFailed as error:
            problem = str(error)
        self._answers.put(
            Answer(self.target, time(), monotonic(), reading, problem)
        )
        return reading
