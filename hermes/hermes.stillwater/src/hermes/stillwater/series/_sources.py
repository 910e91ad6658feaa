"""Stages that give chunks of what is there already."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series._chunks import Chunk, StreamEnd
from hermes.stillwater.series._grid import (
    check_rate,
    check_size,
    gps_time,
    sample_number,
)

__all__ = ("ArraySource", "GeneratorSource", "packages")

Given = Chunk | StreamEnd


class ArraySource(PipelineProcess):
    """Give an array in chunks, and the end of its stream.

    It moves to the source's process as a whole: long data are better read
    there (`HDF5Source`, `GeneratorSource`).

    Args:
        data: The samples.
        sample_rate: Samples per second.
        start: GPS seconds of the first sample.
        chunk_size: Samples in a chunk; None for one second of them. The last
            one may have fewer.
        stream: See `Chunk`.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`.

    Shapes:
        data: ``(channels, samples)``, or ``(samples,)`` for one channel

    Raises:
        InvalidSeries: If the options make no sense.
    """

    def __init__(
        self,
        data: npt.ArrayLike,
        sample_rate: float,
        start: float = 0.0,
        chunk_size: int | None = None,
        stream: Hashable = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        array = np.asarray(data)
        if array.ndim not in {1, 2}:
            msg = (
                f"data of shape {array.shape}: give (channels, samples), or"
                " (samples,) for one channel"
            )
            raise InvalidSeries(msg)
        self._data = np.atleast_2d(array)
        self._sample_rate = check_rate(sample_rate)
        self._first = sample_number(start, self._sample_rate)
        self._chunk_size = chunk_size_of(chunk_size, self._sample_rate)
        self._stream = stream

    def process(self, package: None = None) -> Iterator[Given]:  # noqa: ARG002
        """Give all chunks."""
        rate = self._sample_rate
        for begin in range(0, self._data.shape[1], self._chunk_size):
            yield Chunk(
                self._data[:, begin : begin + self._chunk_size],
                gps_time(self._first + begin, rate),
                rate,
                self._stream,
            )
        yield StreamEnd(self._stream)


class GeneratorSource(PipelineProcess):
    """Give the chunks that a function gives, once they are seen to be some.

    Args:
        function: A generator function of `Chunk` and `StreamEnd` packages,
            at the top of a module: it is sent to the source's process.
        *args: What it is called with.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`.

    Raises:
        InvalidSeries: If it is no function.
    """

    def __init__(
        self,
        function: Callable[..., Iterable[Given]],
        *args: Any,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        if not callable(function):
            msg = (
                f"{function!r} is no function: give the generator function"
                " itself, and its arguments behind it"
            )
            raise InvalidSeries(msg)
        self._function = function
        self._args = args

    def process(self, package: None = None) -> Iterator[Given]:  # noqa: ARG002
        """Give all chunks.

        Raises:
            InvalidSeries: If the function gives something else.
        """
        for given in self._function(*self._args):
            if not isinstance(given, Given):
                msg = (
                    f"{self.name!r} gave {type(given).__name__}: let it yield"
                    " Chunk(data, start, sample_rate) or StreamEnd(stream)"
                )
                raise InvalidSeries(msg)
            yield given


def chunk_size_of(chunk_size: int | None, sample_rate: float) -> int:
    """Samples in a chunk, one second by default.

    Raises:
        InvalidSeries: If it is no whole number above 0.
    """
    if chunk_size is None:
        return max(round(sample_rate), 1)
    check_size("chunk_size", chunk_size)
    return chunk_size


def packages(source: PipelineProcess) -> Iterator[Any]:
    """All that a source gives, in this process.

    Its `setup` and `teardown` are left to the caller.
    """
    if inspect.isgeneratorfunction(source.process):
        yield from source.process(None)
        return
    while True:
        try:
            package = source.process(None)
        except StopIteration:
            return
        if package is not None:
            yield package
