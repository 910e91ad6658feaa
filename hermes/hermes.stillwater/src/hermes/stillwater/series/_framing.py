"""Cut streams of any chunks into updates of one size; pure.

A chunk is used where it lies: an update that lies within one is a view of it.
Only what is split between chunks is copied, once, into an array of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hermes.stillwater.errors import GapFound, InvalidSeries, OverlapFound
from hermes.stillwater.series._chunks import (
    Array,
    Chunk,
    SequenceEnd,
    StreamEnd,
    Update,
)
from hermes.stillwater.series._grid import (
    check_rate,
    gps_time,
    sample_number,
)

__all__ = ("Frames", "Framing", "Gap", "LongGap", "Overlap", "Selection")

Gap = Literal["error", "fill", "restart"]
LongGap = Literal["error", "restart"]
Overlap = Literal["error", "trim", "restart"]
Selection = int | slice | list[int]
Framed = Update | SequenceEnd


@dataclass(frozen=True, slots=True)
class Framing:
    """How streams are cut: see `Framer`."""

    update_size: int
    gap: Gap = "error"
    overlap: Overlap = "error"
    pad: bool = True
    fill_value: float = 0.0
    max_fill: float = 0.0
    long_gap: LongGap = "error"
    sample_rate: float | None = None
    dtype: np.dtype[Any] | None = None
    inputs: Mapping[str, Selection] | None = None


@dataclass(frozen=True, slots=True)
class _Form:
    """What all chunks of a stream have in common."""

    sample_rate: float
    num_channels: int
    dtype: np.dtype[Any]

    def fits(self, chunk: Chunk) -> bool:
        data: object = chunk.data
        return (
            isinstance(data, np.ndarray)
            and chunk.sample_rate == self.sample_rate
            and data.ndim == 2
            and data.shape[0] == self.num_channels
            and data.dtype == self.dtype
        )

    def __str__(self) -> str:
        return (
            f"{self.num_channels} channels of {self.dtype} at"
            f" {self.sample_rate:g} Hz"
        )


class Frames:
    """Cut any number of interleaved streams."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._streams: dict[Hashable, _Frame] = {}
        self._numbers: dict[Hashable, int] = {}

    def push(self, package: Chunk | StreamEnd) -> Iterator[Framed]:
        """Take what comes next of a stream.

        Raises:
            GapFound: If samples are missing and that is an error.
            OverlapFound: If samples come again and that is an error.
            InvalidSeries: If it is no chunk, or one unlike those before.
        """
        if isinstance(package, Chunk):
            return self._frame(package).push(package)
        if isinstance(package, StreamEnd):
            return self._end(package.stream)
        msg = (
            f"{type(package).__name__} came to a Framer, which takes Chunks:"
            " let the source give Chunk(data, start, sample_rate)"
        )
        raise InvalidSeries(msg)

    def finish(self) -> Iterator[Framed]:
        """End all streams."""
        for stream in list(self._streams):
            yield from self._end(stream)

    def _frame(self, chunk: Chunk) -> _Frame:
        stream = chunk.stream
        try:
            return self._streams[stream]
        except TypeError as error:
            msg = (
                f"stream={stream!r} cannot tell streams apart: give something"
                " hashable, such as a text or a number"
            )
            raise InvalidSeries(msg) from error
        except KeyError:
            frame = _Frame(
                stream,
                self._framing,
                _form(chunk, self._framing),
                self._numbers.get(stream, 0),
            )
            self._streams[stream] = frame
            return frame

    def _end(self, stream: Hashable) -> Iterator[Framed]:
        frame = self._streams.pop(stream, None)
        if frame is not None:
            yield from frame.end()
            self._numbers[stream] = frame.number


class _Frame:
    """Cut one stream.

    Attributes:
        number: How many sequences of it have ended.
    """

    def __init__(
        self, stream: Hashable, framing: Framing, form: _Form, number: int
    ) -> None:
        self.number = number
        self._stream = stream
        self._framing = framing
        self._form = form
        self._dtype = form.dtype if framing.dtype is None else framing.dtype
        self._is_open = False
        self._index = 0
        self._position = 0  # number of the next update's first sample
        self._next = 0  # number of the sample that should come next
        self._buffer = np.empty((1, 0, 0), self._dtype)
        self._held = 0  # samples of the buffer that are there
        self._filled: list[tuple[int, int]] = []

    def push(self, chunk: Chunk) -> Iterator[Framed]:
        """Take the next chunk."""
        if not self._form.fits(chunk):
            self._refuse(chunk)
        data = chunk.data
        if not data.shape[1]:
            return
        first = sample_number(chunk.start, chunk.sample_rate)
        if not self._is_open:
            self._begin(first)
        elif first > self._next:
            yield from self._bridge(first)
        elif first < self._next:
            data = data[:, self._repeated(first, data.shape[1]) :]
            if self._framing.overlap == "restart":
                yield from self.end()
                self._begin(first)
        self._next += data.shape[1]
        yield from self._cut(data)

    def end(self) -> Iterator[Framed]:
        """End the sequence; the next chunk begins another one."""
        if not self._is_open:
            return
        if self._held and self._framing.pad:
            num_padded = self._framing.update_size - self._held
            self._buffer[..., self._held :] = 0
            yield self._flush(num_padded)
        self._is_open = False
        self._held = 0
        self._filled.clear()
        self.number += 1
        yield SequenceEnd((self._stream, self.number - 1))

    def _begin(self, first: int) -> None:
        self._is_open = True
        self._index = 0
        self._next = first
        self._position = first

    def _cut(self, data: Array) -> Iterator[Update]:
        size, taken = self._framing.update_size, 0
        if self._held:
            taken = self._hold(data[:, : size - self._held])
            if self._held == size:
                yield self._flush()
        while data.shape[1] - taken >= size:
            view = data[None, :, taken : taken + size]
            yield self._update(view.astype(self._dtype, copy=False))
            taken += size
        if taken < data.shape[1]:
            self._hold(data[:, taken:])

    def _hold(self, part: Array | float, size: int | None = None) -> int:
        """Keep samples of an update that is not complete."""
        if not self._held:
            shape = (1, self._form.num_channels, self._framing.update_size)
            self._buffer = np.empty(shape, self._dtype)
        if isinstance(part, np.ndarray):
            size = part.shape[1]
        end = self._held + (size or 0)
        self._buffer[0, :, self._held : end] = part
        taken, self._held = end - self._held, end
        return taken

    def _flush(self, num_padded: int = 0) -> Update:
        update = self._update(self._buffer, num_padded, tuple(self._filled))
        self._held = 0
        self._filled.clear()
        return update

    def _update(
        self,
        data: Array,
        num_padded: int = 0,
        filled: tuple[tuple[int, int], ...] = (),
    ) -> Update:
        update = Update(
            _select(data, self._framing.inputs),
            gps_time(self._position, self._form.sample_rate),
            self._form.sample_rate,
            (self._stream, self.number),
            self._index,
            num_padded,
            filled,
        )
        self._index += 1
        self._position += self._framing.update_size
        return update

    def _bridge(self, first: int) -> Iterator[Framed]:
        """Do what is declared about missing samples."""
        rate = self._form.sample_rate
        policy: str = self._framing.gap
        if policy == "fill" and (
            first - self._next > self._framing.max_fill * rate
        ):
            policy = self._framing.long_gap
        if policy == "fill":
            yield from self._fill(first - self._next)
            self._next = first
        elif policy == "restart":
            yield from self.end()
            self._begin(first)
        else:
            raise GapFound(self._about_gap(first))

    def _fill(self, missing: int) -> Iterator[Update]:
        size = self._framing.update_size
        while missing:
            begin = self._held
            taken = min(size - begin, missing)
            self._hold(self._framing.fill_value, taken)
            self._filled.append((begin, begin + taken))
            missing -= taken
            if self._held == size:
                yield self._flush()

    def _repeated(self, first: int, size: int) -> int:
        """Samples at the begin of a chunk that are to be left out."""
        if self._framing.overlap == "error":
            seen = min(self._next - first, size)
            msg = (
                f"{seen} samples of stream {self._stream!r} come again:"
                f" {self._range(first, first + seen)}; give each sample once,"
                " or say overlap='trim' (keep what came first) or 'restart'"
                " (begin a new sequence)"
            )
            raise OverlapFound(msg)
        return self._next - first if self._framing.overlap == "trim" else 0

    def _about_gap(self, first: int) -> str:
        missing = first - self._next
        advice = (
            "say gap='fill' with max_fill seconds, or gap='restart' (begin a"
            " new sequence)"
        )
        if self._framing.gap == "fill":
            advice = (
                f"that is longer than max_fill={self._framing.max_fill:g} s:"
                " raise it, or say long_gap='restart'"
            )
        return (
            f"{missing} samples of stream {self._stream!r} are missing:"
            f" {self._range(self._next, first)}; {advice}"
        )

    def _range(self, first: int, last: int) -> str:
        rate = self._form.sample_rate
        return (
            f"GPS {gps_time(first, rate)!r} to {gps_time(last, rate)!r},"
            f" {(last - first) / rate:g} s (samples {first} to {last} at"
            f" {rate:g} Hz)"
        )

    def _refuse(self, chunk: Chunk) -> None:
        form = _form(chunk, self._framing)
        msg = (
            f"stream {self._stream!r} changes from {self._form} to {form} at"
            f" GPS {chunk.start!r}: end it with StreamEnd, or give another"
            " stream"
        )
        raise InvalidSeries(msg)


def _form(chunk: Chunk, framing: Framing) -> _Form:
    """What a stream's first chunk says about those to come.

    Raises:
        InvalidSeries: If it cannot be framed so.
    """
    data: object = chunk.data
    if not isinstance(data, np.ndarray) or data.ndim != 2:
        given = getattr(data, "shape", type(data).__name__)
        msg = (
            f"a chunk of stream {chunk.stream!r} has data of shape {given}:"
            " give a numpy array of shape (channels, samples)"
        )
        raise InvalidSeries(msg)
    rate = check_rate(chunk.sample_rate)
    if framing.sample_rate not in {None, rate}:
        msg = (
            f"stream {chunk.stream!r} has {rate:g} samples per second, but"
            f" sample_rate={framing.sample_rate:g} was declared: resample it"
        )
        raise InvalidSeries(msg)
    _check_dtype(chunk, framing)
    _check_inputs(data, framing.inputs)
    return _Form(rate, data.shape[0], data.dtype)


def _check_dtype(chunk: Chunk, framing: Framing) -> None:
    given = chunk.data.dtype
    dtype = given if framing.dtype is None else framing.dtype
    if given.kind not in "biufc" or not np.can_cast(given, dtype, "same_kind"):
        msg = (
            f"samples of stream {chunk.stream!r} are {given}, which do not"
            f" become {dtype}: give numbers, or another dtype"
        )
        raise InvalidSeries(msg)
    if dtype.kind in "biu" and not float(framing.fill_value).is_integer():
        msg = (
            f"fill_value={framing.fill_value!r} is no {dtype}: give one, or"
            " dtype='float32'"
        )
        raise InvalidSeries(msg)


def _check_inputs(data: Array, inputs: Mapping[str, Selection] | None) -> None:
    for name, selection in (inputs or {}).items():
        try:
            num_channels = data[:, :0][_channels(selection)].shape[0]
        except IndexError:
            num_channels = 0
        if not num_channels:
            msg = (
                f"inputs[{name!r}]={selection!r} are no channels of data with"
                f" {data.shape[0]} channels: give indices or a slice"
            )
            raise InvalidSeries(msg)


def _channels(selection: Selection) -> slice | list[int]:
    return [selection] if isinstance(selection, int) else selection


def _select(
    data: Array, inputs: Mapping[str, Selection] | None
) -> Array | dict[str, Array]:
    if inputs is None:
        return data
    return {name: data[:, _channels(part)] for name, part in inputs.items()}
