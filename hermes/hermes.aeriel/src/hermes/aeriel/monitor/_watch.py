"""Watch models on servers: polls become rows, and a lost server an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Self

from hermes.aeriel.errors import MetricsUnavailable
from hermes.aeriel.monitor._fetch import fetch
from hermes.aeriel.monitor._metrics import Reading
from hermes.aeriel.monitor._models import AllModels, Models, OneModel
from hermes.aeriel.monitor._polling import Answer, Pace, Poller
from hermes.aeriel.monitor._rows import Moment, Row, rows
from hermes.aeriel.monitor._targets import Target

__all__ = ("Subject", "Watch")

_PAUSE_SECONDS = 0.2
# A server that is frozen now may have been asked a moment ago.
_FINISH_SECONDS = 4.0


@dataclass(frozen=True)
class Subject:
    """What is watched, and how.

    Attributes:
        targets: The servers.
        model: Name of the model; None for all that a server has.
        version: Its version; None for all.
        pace: How often servers are polled.
        grace: Seconds for which a server may be silent.
    """

    targets: tuple[Target, ...]
    model: str | None
    version: int | None
    pace: Pace
    grace: float

    def models(self, stop: threading.Event) -> Models:
        """What to make rows of; see `Watch` for ``stop``."""
        if self.model is None:
            return AllModels()
        return OneModel(self.model, self.version, self.grace, stop)


class Watch:
    """A context manager that gives rows as they come.

    Entering finds out what an ensemble consists of and takes the first
    reading of each server: all that is done from then on is counted.

    Args:
        subject: What is watched.
        stop: Setting it ends the waits of entering.

    Raises:
        ModelNotFound: On entering, if a server has no such model.
        ServerUnavailable: On entering, if a server does not say what the
            model is for longer than the grace period.
        MetricsUnavailable: On entering or from `take`, if a server's metrics
            cannot be read for longer than that.
    """

    def __init__(self, subject: Subject, stop: threading.Event) -> None:
        self._subject = subject
        self._stop = stop
        self._models = subject.models(stop)
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._latest: dict[Target, tuple[float, Reading]] = {}
        self._problems: dict[Target, str] = {}
        self._pollers = [
            Poller(target, subject.pace, self._answers, fetch)
            for target in subject.targets
        ]

    def __enter__(self) -> Self:
        for target in self._subject.targets:
            self._models.find(target)
        for poller in self._pollers:
            poller.start()
        try:
            while not self._has_begun():
                self.take(_PAUSE_SECONDS)
        except BaseException:
            self._finish_pollers()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish_pollers()

    def take(self, timeout: float) -> list[Row]:
        """What the next poll found; nothing if there is none in time.

        Args:
            timeout: Seconds to wait for it.

        Raises:
            MetricsUnavailable: If a server has been silent for too long.
        """
        try:
            answer = self._answers.get(timeout=timeout)
        except Empty:
            found = []
        else:
            found = self._rows(answer)
        # Behind the others an answer may wait that ends the silence.
        if self._answers.empty():
            self._check(monotonic())
        return found

    def finish(self) -> tuple[list[Row], list[str]]:
        """Poll for the last time.

        Returns:
            What was found, and what is wrong with it: a line for each server
            that did not answer.
        """
        self._finish_pollers()
        deadline = monotonic() + _FINISH_SECONDS
        for poller in self._pollers:
            poller.join(max(0.0, deadline - monotonic()))
        found = list(self._drain())
        return found, [
            f"{p.target.name} did not answer its last poll"
            f" ({self._problems.get(p.target, 'no answer yet')}): what it did"
            " after the one before is not recorded"
            for p in self._pollers
            if not p.has_last
        ]

    def _has_begun(self) -> bool:
        return self._stop.is_set() or len(self._latest) == len(self._pollers)

    def _finish_pollers(self) -> None:
        for poller in self._pollers:
            poller.finish()

    def _drain(self) -> Iterator[Row]:
        while not self._answers.empty():
            yield from self._rows(self._answers.get())

    def _rows(self, answer: Answer) -> list[Row]:
        target, now = answer.target, answer.reading
        if now is None:
            self._problems[target] = answer.problem
            return []
        before = self._latest.get(target)
        self._latest[target] = answer.clock, now
        if before is None:
            return []
        clock, reading = before
        moment = Moment(answer.timestamp, answer.clock - clock, target.name)
        watched = self._models.watched(target, now)
        return rows(reading, now, moment, watched)

    def _check(self, clock: float) -> None:
        for poller in self._pollers:
            since = poller.waiting_since
            if since is not None and clock - since > self._subject.grace:
                raise self._lost(poller.target)

    def _lost(self, target: Target) -> MetricsUnavailable:
        problem = self._problems.get(target, "no answer")
        msg = (
            f"the metrics of {target.name} (http://{target.metrics}/metrics)"
            f" could not be read for {self._subject.grace:g} s: {problem}; is"
            " the server up, with metrics, and is that the port?"
        )
        return MetricsUnavailable(msg)
