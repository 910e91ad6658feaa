"""What passes between the time series stages of a pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from hermes.stillwater.series._grid import gps_time, sample_number

__all__ = (
    "Array",
    "Chunk",
    "Prediction",
    "SequenceEnd",
    "Series",
    "StreamEnd",
    "Update",
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """A piece of a stream, as long as it happens to be.

    Attributes:
        data: The samples.
        start: GPS seconds of the first of them.
        sample_rate: Samples per second.
        stream: Which of several interleaved streams it belongs to.

    Shapes:
        data: ``(channels, samples)``
    """

    data: Array
    start: float
    sample_rate: float
    stream: Hashable = None

    @property
    def end(self) -> float:
        """GPS seconds of the first sample after it.

        Raises:
            InvalidSeries: If its start is not the time of a sample.
        """
        first = sample_number(self.start, self.sample_rate)
        return gps_time(first + self.data.shape[-1], self.sample_rate)

    def __repr__(self) -> str:
        return (
            f"Chunk({_describe(self.data)}, start={self.start!r},"
            f" sample_rate={self.sample_rate!r}, stream={self.stream!r})"
        )


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """A stream is over: what comes next of it is a new sequence.

    The end of the pipeline's source ends all streams. A source with many
    streams gives one of these after each, so that no more sequences are open
    than streams are interleaved.

    Attributes:
        stream: Which one.
    """

    stream: Hashable = None


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """New samples for one request of a sequence.

    Attributes:
        data: The samples; of a model with several streaming inputs by name.
        start: GPS seconds of the first of them.
        sample_rate: Samples per second.
        sequence: The sequence's identity, of `Framer` ``(stream, number)``.
        index: Position of the update in it, from 0.
        num_padded: Samples at the end that are padding, not data.
        filled: Ranges of samples that fill a gap, ``(begin, end)`` each.

    Shapes:
        data: ``(1, channels, update_size)``
    """

    data: Array | Mapping[str, Array]
    start: float
    sample_rate: float
    sequence: Hashable
    index: int
    num_padded: int = 0
    filled: tuple[tuple[int, int], ...] = ()

    def answer(self, outputs: Mapping[str, Array]) -> Prediction:
        """Make what the next stage gets of the model's outputs."""
        return Prediction(
            outputs,
            self.start,
            self.sample_rate,
            self.sequence,
            self.index,
            self.num_padded,
            self.filled,
        )

    def __repr__(self) -> str:
        return (
            f"Update({_describe(self.data)}, start={self.start!r},"
            f" sequence={self.sequence!r}, index={self.index},"
            f" num_padded={self.num_padded})"
        )


@dataclass(frozen=True, slots=True)
class SequenceEnd:
    """A sequence is over.

    Attributes:
        sequence: Its identity.
    """

    sequence: Hashable


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model answers to an `Update`: see `Update.answer`.

    Attributes:
        outputs: Its outputs by name.
        start: GPS seconds of the update's first sample.
        sample_rate: Samples of the update per second.
        sequence: The sequence's identity.
        index: Position of the update in it, from 0.
        num_padded: Samples at the update's end that are padding.
        filled: Ranges of the update's samples that fill a gap.
    """

    outputs: Mapping[str, Array]
    start: float
    sample_rate: float
    sequence: Hashable
    index: int
    num_padded: int = 0
    filled: tuple[tuple[int, int], ...] = ()

    def __repr__(self) -> str:
        return (
            f"Prediction({_describe(self.outputs)}, start={self.start!r},"
            f" sequence={self.sequence!r}, index={self.index},"
            f" num_padded={self.num_padded})"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A stretch of a model's output, and the times that it speaks about.

    Attributes:
        name: Name of the output.
        values: One value for each time.
        times: GPS seconds, ``1 / sample_rate`` apart.
        sample_rate: Values per second.
        sequence: The identity of the sequence that it belongs to.
        filled: Where a value depends on samples that fill a gap; None if
            nowhere.

    Shapes:
        values: ``(times, ...)``
        times: ``(times,)``
        filled: ``(times,)``
    """

    name: str
    values: Array
    times: Array
    sample_rate: float
    sequence: Hashable = None
    filled: Array | None = None

    @property
    def start(self) -> float:
        """GPS seconds of the first value."""
        return float(self.times[0])

    def __repr__(self) -> str:
        start = self.start if len(self.times) else None
        return (
            f"Series({self.name!r}, {_describe(self.values)}, start={start!r},"
            f" sample_rate={self.sample_rate!r}, sequence={self.sequence!r})"
        )


def _describe(data: Array | Mapping[str, Array]) -> str:
    if isinstance(data, Mapping):
        parts = (f"{name}: {_describe(part)}" for name, part in data.items())
        return f"{{{', '.join(parts)}}}"
    shape = list(getattr(data, "shape", ()))
    return f"{getattr(data, 'dtype', type(data).__name__)}{shape}"
