"""Contiguous series, and what is collected of them before it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hermes.stillwater.errors import InvalidSeries, SinkUnwritable
from hermes.stillwater.series._chunks import Array, Series
from hermes.stillwater.series._grid import check_rate
from hermes.stillwater.series._whole import WholeFile

__all__ = ("Block", "File", "Segment", "Writer")

# Bytes of a series that are written at once.
BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A stretch of a segment that is to be written.

    Attributes:
        stream: Which stream it is of; None if there is only one.
        name: What it is of.
        segment: Number of the segment, among those of stream and name.
        values: One for each time; the first axis is that of time.
        times: GPS seconds.
        sample_rate: Values per second.
        filled: Where values depend on samples that fill a gap.
    """

    stream: str | None
    name: str
    segment: int
    values: Array
    times: Array
    sample_rate: float
    filled: Array


class Writer(Protocol):
    """Writes one file of some format."""

    def write(self, block: Block) -> None:
        """Append to a segment, or begin the next one."""

    def close(self) -> None:
        """Complete the file."""

    def abort(self) -> None:
        """Let go of the file, whatever is in it."""


@dataclass(slots=True, eq=False)
class File:
    """A file that is being written.

    Attributes:
        path: What it will be called.
        whole: Its temporary name.
        writer: What writes it.
        users: The series with an unfinished segment in it.
    """

    path: Path
    whole: WholeFile
    writer: Writer
    users: set[tuple[Hashable, str]] = field(default_factory=set)

    def write(self, block: Block) -> None:
        """Append a block.

        Raises:
            SinkUnwritable: If that fails.
        """
        with self._translating():
            self.writer.write(block)

    def close(self) -> None:
        """Complete what is written.

        Raises:
            SinkUnwritable: If that fails.
        """
        with self._translating():
            self.writer.close()

    def abandon(self) -> None:
        """Remove what is written."""
        try:
            self.writer.abort()
        finally:
            self.whole.discard()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = f"{self.path} cannot be written: {error}"
            raise SinkUnwritable(msg) from error


class Segment:
    """Contiguous series of one kind, and what of them is not written yet.

    Attributes:
        key: Its stream, and the name of the series.
        number: How many there were before it of the same kind.
        file: What it is written to.
        is_over: Whether the next series begins another one.
    """

    def __init__(
        self,
        key: tuple[Hashable, str],
        text: str | None,
        number: int,
        file: File,
        first: Series,
    ) -> None:
        self.key = key
        self.number = number
        self.file = file
        self.is_over = False
        self._text = text
        self._form = _form(first)
        self._rate = check_rate(first.sample_rate)
        self._sequence = first.sequence
        self._due = first.start
        self._waiting: list[Series] = []
        self._bytes = 0

    def is_followed_by(self, series: Series) -> bool:
        """Whether it goes on without a gap."""
        return (
            not self.is_over
            and series.sequence == self._sequence
            and series.sample_rate == self._rate
            and abs(series.start - self._due) * self._rate < 0.5
        )

    def add(self, series: Series) -> None:
        """Take what comes next.

        Raises:
            InvalidSeries: If it has another shape or dtype.
        """
        if _form(series) != self._form or (
            len(series.times) != len(series.values)
        ):
            msg = (
                f"{series.name!r} changes from {_show(self._form)} to"
                f" {_show(_form(series))} at GPS {series.start!r}, for"
                f" {len(series.times)} times: give one value for each, all of"
                " one shape and dtype"
            )
            raise InvalidSeries(msg)
        self._due = float(series.times[-1]) + 1 / self._rate
        self._waiting.append(series)
        self._bytes += series.values.nbytes + series.times.nbytes
        if self._bytes > BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        self.file.write(
            Block(
                self._text,
                self.key[1],
                self.number,
                np.concatenate([series.values for series in waiting]),
                np.concatenate([series.times for series in waiting]),
                self._rate,
                np.concatenate([_mask(series) for series in waiting]),
            )
        )


def _mask(series: Series) -> Array:
    if series.filled is None:
        return np.zeros(len(series.times), bool)
    return series.filled


def _form(series: Series) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return series.values.shape[1:], series.values.dtype


def _show(form: tuple[tuple[int, ...], np.dtype[Any]]) -> str:
    shape, dtype = form
    return f"{dtype}{list(shape)} for each time"
