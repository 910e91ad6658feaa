"""The stage that gives chunks when they would have come."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series._chunks import Chunk
from hermes.stillwater.series._sources import packages

__all__ = ("Lateness", "Replay")

Gaps = Literal["wait", "skip"]

_LOGGER = logging.getLogger("hermes.stillwater.series")


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far behind real time a replay was; seconds of the clock.

    Attributes:
        num_chunks: Chunks that were given.
        num_late: How many of them came later than allowed.
        longest: The most that one was late.
    """

    num_chunks: int = 0
    num_late: int = 0
    longest: float = 0.0


class Replay(PipelineProcess):
    """Give the chunks of another source in real time.

    A chunk is given when its last sample would have existed, if the first
    sample of the first chunk had been taken when the replay began. Each time
    is counted from there: a chunk that is late delays no other. It is read
    before it is waited for.

    Args:
        source: A source of `Chunk` packages.
        speed: Seconds of data per second.
        gaps: Whether to ``"wait"`` for as long as a gap lasts, or to
            ``"skip"`` it.
        max_lateness: Seconds that a chunk may be late without a warning in
            the log. They mean that the next stages, or the source, are
            slower than the data.
        clock: Seconds that pass.
        sleep: Waits for seconds.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`.

    Raises:
        InvalidSeries: If the options make no sense.
    """

    def __init__(
        self,
        source: PipelineProcess,
        speed: float = 1.0,
        *,
        gaps: Gaps = "wait",
        max_lateness: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        _check(source, speed, gaps, max_lateness)
        self._source = source
        self._speed = speed
        self._skips = gaps == "skip"
        self._max_lateness = max_lateness
        self._clock = clock
        self._sleep = sleep
        self._lateness = Lateness()
        self._warn_at = max_lateness

    def setup(self) -> None:
        """Make the source ready."""
        self._source.setup()

    def process(self, package: None = None) -> Iterator[Any]:  # noqa: ARG002
        """Give all packages of the source, each chunk in its time."""
        self._lateness = Lateness()
        self._warn_at = self._max_lateness
        begin = self._clock()
        origin, latest = None, -math.inf
        for given in packages(self._source):
            if isinstance(given, Chunk):
                if origin is None:
                    origin = latest = given.start
                elif self._skips and given.start > latest:
                    origin += given.start - latest
                latest = max(latest, given.end)
                self._wait(begin + (given.end - origin) / self._speed, given)
            yield given
        self._summarise()

    def teardown(self) -> None:
        """Let the source release what it holds."""
        self._source.teardown()

    def statistics(self) -> Lateness:
        """How far behind it was until now, in its own process."""
        return self._lateness

    def _wait(self, due: float, chunk: Chunk) -> None:
        # A sleep may be shorter than it was told to be.
        while (left := due - self._clock()) > 0:
            self._sleep(left)
        known, is_late = self._lateness, -left > self._max_lateness
        self._lateness = Lateness(
            known.num_chunks + 1,
            known.num_late + is_late,
            max(known.longest, -left),
        )
        if -left > self._warn_at:
            # Not each chunk of a replay that never catches up.
            self._warn_at = 2 * -left
            _LOGGER.warning(
                "%s: the chunk of stream %r at GPS %r is %.3f s late",
                self.name,
                chunk.stream,
                chunk.start,
                -left,
            )

    def _summarise(self) -> None:
        if self._lateness.num_late:
            _LOGGER.warning(
                "%s: %d of %d chunks were late, by up to %.3f s",
                self.name,
                self._lateness.num_late,
                self._lateness.num_chunks,
                self._lateness.longest,
            )


def _check(
    source: object, speed: float, gaps: str, max_lateness: float
) -> None:
    if not isinstance(source, PipelineProcess):
        msg = (
            f"{source!r} is no source: give a stage such as ArraySource or"
            " GeneratorSource"
        )
        raise InvalidSeries(msg)
    if not 0 < speed < math.inf:
        msg = f"speed={speed!r}: give seconds of data per second, above 0"
        raise InvalidSeries(msg)
    if gaps not in get_args(Gaps):
        msg = f"gaps={gaps!r}: give one of {', '.join(get_args(Gaps))}"
        raise InvalidSeries(msg)
    if not max_lateness >= 0:
        msg = f"max_lateness={max_lateness!r}: give seconds, 0 or more"
        raise InvalidSeries(msg)
