"""How far a campaign is, and how long it will take."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import IO

from hermes.stillwater.errors import ExtraMissing, InvalidCampaign

__all__ = ("Meter", "Progress", "Show", "shown")

_logger = logging.getLogger("hermes.stillwater.campaign")
PERIOD = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a campaign is.

    Attributes:
        total: Units.
        done: Units whose outputs are there.
        failed: Units that are given up.
        flying: Units that workers have, or are about to get.
        elapsed: Seconds since this run began.
        eta: Seconds until it ends, by what was done so far; None where
            nothing was.
    """

    total: int
    done: int
    failed: int
    flying: int
    elapsed: float
    eta: float | None

    def __str__(self) -> str:
        left = "?" if self.eta is None else _time(self.eta)
        return (
            f"{self.done}/{self.total} units done, {self.failed} failed,"
            f" {self.flying} in flight, {_time(self.elapsed)} so far,"
            f" {left} to go"
        )


Show = Callable[[Progress], None]


class Meter:
    """Counts what is done, weighted by how much work it was.

    Args:
        costs: Of all units.
        done: Units that are done already.
        failed: Units that are given up already.
        now: Seconds of some clock.
    """

    def __init__(
        self,
        costs: Mapping[str, float],
        done: AbstractSet[str],
        failed: AbstractSet[str],
        now: float,
    ) -> None:
        self._costs = costs
        self._num_done, self._num_failed = len(done), len(failed)
        self._began = now
        todo = costs.keys() - done - failed
        self._left = sum(costs[key] for key in todo)
        self._spent = 0.0

    def finish(self, key: str, *, is_done: bool) -> None:
        """Count a unit that is done, or given up."""
        self._num_done += is_done
        self._num_failed += not is_done
        self._spent += self._costs[key]
        self._left -= self._costs[key]

    def read(self, flying: int, now: float) -> Progress:
        """Give the state of things."""
        elapsed = now - self._began
        eta = elapsed * self._left / self._spent if self._spent else None
        return Progress(
            total=len(self._costs),
            done=self._num_done,
            failed=self._num_failed,
            flying=flying,
            elapsed=elapsed,
            eta=eta,
        )


def shown(
    progress: bool | str | Show, stream: IO[str] | None = None
) -> AbstractContextManager[Show]:
    """Choose how progress is shown.

    Args:
        progress: False for the log only, True for what suits, ``"plain"``
            for lines, ``"rich"`` for a bar, or a function.
        stream: Where to; None for stderr.

    Raises:
        InvalidCampaign: If it is none of these.
        ExtraMissing: If the bar is wanted, and rich is not installed.
    """
    stream = stream or sys.stderr
    has_rich = importlib.util.find_spec("rich") is not None
    if progress is True:
        progress = "rich" if has_rich and stream.isatty() else "plain"
    if progress is False:
        return nullcontext(_Lines(_log))
    if callable(progress):
        return nullcontext(progress)
    if progress == "plain":
        return nullcontext(_Lines(_writer(stream)))
    if progress != "rich":
        msg = f"progress={progress!r}: give True, False, 'plain' or 'rich'"
        raise InvalidCampaign(msg)
    if not has_rich:
        msg = (
            "progress='rich' needs rich, which comes with hermes-stillwater's"
            " extra 'progress'; 'plain' does not"
        )
        raise ExtraMissing(msg)
    module = importlib.import_module("hermes.stillwater._campaign._rich")
    bar: AbstractContextManager[Show] = module.bar(stream)
    return bar


def _log(text: str) -> None:
    _logger.info("%s", text)


class _Lines:
    """Says how far it is now and then, and at the end."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        last = self._last
        if last is not None and (
            progress.elapsed - last.elapsed < PERIOD and progress.flying
        ):
            return
        self._last = progress
        self._say(str(progress))


def _writer(stream: IO[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        stream.write(f"{text}\n")
        stream.flush()

    return say


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
