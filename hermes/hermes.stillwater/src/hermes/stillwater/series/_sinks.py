"""What all sinks have in common: segments, and files that are whole."""

from __future__ import annotations

import glob
import string
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series._chunks import (
    Chunk,
    SequenceEnd,
    Series,
    StreamEnd,
)
from hermes.stillwater.series._grid import check_rate, sample_number
from hermes.stillwater.series._segments import File, Segment, Writer
from hermes.stillwater.series._whole import WholeFile, check_target, sweep

__all__ = ("Sink",)

FIELDS = ("stream", "segment", "start", "name")


class Sink(PipelineProcess):
    """Write series to files, each whole or not at all.

    A file has a temporary name beside its own until it is complete. What is
    incomplete when a pipeline fails, or is left, never appears.

    Args:
        path: Path of the file, in a folder that exists. ``{stream}`` in it
            makes a file for each stream, ``{name}`` for each output,
            ``{segment}`` (a number) or ``{start}`` (whole GPS seconds) for
            each segment, which appears when the segment is over. The others
            appear when the stream of the pipeline has ended.
        overwrite: Whether files may be replaced.
        attributes: What else the files shall say: texts, numbers.
        chunks: What the data of `Chunk` packages are called.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`. There is one worker: order matters.

    Raises:
        InvalidSeries: If the options make no sense.
        SinkUnwritable: If the file is there, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        attributes: Mapping[str, Any] | None = None,
        chunks: str = "data",
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        if self.workers != 1:
            msg = (
                f"workers={self.workers}, but a file has one writer: leave"
                " workers out"
            )
            raise InvalidSeries(msg)
        self._fields = _read_fields(str(path))
        self._path = str(path)
        self._overwrite = overwrite
        self._attributes = _check_attributes(attributes or {})
        self._chunks = chunks
        self._segments: dict[tuple[Hashable, str], Segment] = {}
        self._files: dict[Path, File] = {}
        self._numbers: dict[Hashable, int] = {}
        self._written: set[Path] = set()
        self._texts: dict[str, Hashable] = {}
        if not self._fields:
            check_target(self._target(), overwrite)

    def setup(self) -> None:
        """Make the file, if its name is known."""
        if not self._fields:
            self._file(self._target())

    def process(
        self, package: Series | Chunk | SequenceEnd | StreamEnd
    ) -> None:
        """Write a package.

        Args:
            package: A `Series` or `Chunk`, or the end of a sequence or
                stream.

        Raises:
            InvalidSeries: If it is something else, or unlike those before.
            SinkUnwritable: If its file cannot be written.
        """
        match package:
            case Series():
                self._take(_of_sequence(package.sequence), package)
            case Chunk():
                self._take(package.stream, _to_series(package, self._chunks))
            case SequenceEnd():
                self._end(_of_sequence(package.sequence))
            case StreamEnd():
                self._end(package.stream)
            case _:
                msg = (
                    f"{type(package).__name__} came to a sink, which takes"
                    " Series and Chunks: put an Aligner before it"
                )
                raise InvalidSeries(msg)

    def finish(self) -> None:
        """Complete all files and give them their names."""
        for segment in self._segments.values():
            segment.flush()
        files = list(self._files.values())
        for file in files:
            file.close()
        for file in files:
            file.whole.commit()
        self._files.clear()

    def teardown(self) -> None:
        """Remove what is incomplete."""
        for file in self._files.values():
            file.abandon()
        self._files.clear()

    def cleanup(self) -> None:
        """Remove what a killed process has left incomplete."""
        parts = string.Formatter().parse(self._path)
        sweep(
            "".join(
                glob.escape(text) + ("*" if field is not None else "")
                for text, field, _, _ in parts
            )
        )

    def open_writer(self, path: Path) -> Writer:
        """Begin a file; its attributes are `attributes`."""
        raise NotImplementedError

    @property
    def attributes(self) -> dict[str, Any]:
        """What else the files shall say."""
        return self._attributes

    def _target(self, **fields: object) -> Path:
        return Path(self._path.format(**fields))

    def _take(self, stream: Hashable, series: Series) -> None:
        if not len(series.times):
            return
        key = stream, series.name
        segment = self._segments.get(key)
        if segment is None or not segment.is_followed_by(series):
            segment = self._begin(key, series, segment)
        segment.add(series)

    def _begin(
        self,
        key: tuple[Hashable, str],
        series: Series,
        last: Segment | None,
    ) -> Segment:
        if last is not None:
            self._leave(last)
        stream, name = key
        number = 0 if last is None else last.number + 1
        # Series of a sequence have one number, also where some have none.
        number = max(number, self._numbers.get(stream, 0))
        text = self._text(stream)
        _check_text(name, "name")
        fields = {"stream": text, "name": name}
        file = self._file(
            self._target(segment=number, start=int(series.start), **fields)
        )
        file.users.add(key)
        segment = Segment(key, text, number, file, series)
        self._segments[key] = segment
        return segment

    def _leave(self, segment: Segment) -> None:
        """A segment is over, and maybe its file."""
        if segment.is_over:
            return
        segment.flush()
        segment.is_over = True
        file = segment.file
        file.users.discard(segment.key)
        if file.users or not {"segment", "start"} & self._fields:
            return
        self._forbid(segment)
        file.close()
        del self._files[file.path]
        self._written.add(file.path)
        file.whole.commit()

    def _end(self, stream: Hashable) -> None:
        for key in [key for key in self._segments if key[0] == stream]:
            segment = self._segments.pop(key)
            self._leave(segment)
            self._forbid(segment)

    def _forbid(self, segment: Segment) -> None:
        """Let no later segment of the stream have its number."""
        stream = segment.key[0]
        least = self._numbers.get(stream, 0)
        self._numbers[stream] = max(least, segment.number + 1)

    def _file(self, path: Path) -> File:
        if path in self._written:
            msg = (
                f"two segments would be {path}: put {{segment}} and {{stream}}"
                " into the path"
            )
            raise InvalidSeries(msg)
        if path not in self._files:
            whole = WholeFile(path, self._overwrite)
            try:
                writer = self.open_writer(whole.temporary)
            except BaseException:
                whole.discard()
                raise
            self._files[path] = File(path, whole, writer)
        return self._files[path]

    def _text(self, stream: Hashable) -> str | None:
        """A stream's name in files."""
        if stream is None:
            return None
        parts = stream if isinstance(stream, tuple) else (stream,)
        text = _check_text("-".join(map(str, parts)), "stream")
        if self._texts.setdefault(text, stream) != stream:
            msg = (
                f"streams {self._texts[text]!r} and {stream!r} are both called"
                f" {text!r} in files: give streams other names"
            )
            raise InvalidSeries(msg)
        return text


def _check_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in attributes.items():
        if not isinstance(value, str | int | float):
            msg = (
                f"attributes[{name!r}]={value!r}: give texts and numbers,"
                " others as JSON"
            )
            raise InvalidSeries(msg)
    return dict(attributes)


def _to_series(chunk: Chunk, name: str) -> Series:
    """A chunk with a time for each sample."""
    rate = check_rate(chunk.sample_rate)
    if chunk.data.ndim != 2:
        msg = (
            f"a chunk of stream {chunk.stream!r} has data of shape"
            f" {chunk.data.shape}: give (channels, samples)"
        )
        raise InvalidSeries(msg)
    first = sample_number(chunk.start, rate)
    times = np.arange(first, first + chunk.data.shape[1]) / rate
    return Series(name, chunk.data.T, times, rate)


def _of_sequence(sequence: Hashable) -> Hashable:
    """The stream of a sequence of a Framer."""
    if isinstance(sequence, tuple) and len(sequence) == 2:
        stream: Hashable = sequence[0]
        return stream
    return sequence


def _read_fields(path: str) -> set[str]:
    try:
        parts = list(string.Formatter().parse(path))
    except ValueError as error:
        parts = [("", "", None, str(error))]
    fields = {name for _, name, _, _ in parts if name is not None}
    if not fields <= set(FIELDS):
        msg = (
            f"path {path!r}: give braces only in {{stream}}, {{segment}},"
            " {start} and {name}"
        )
        raise InvalidSeries(msg)
    return fields


def _check_text(text: str, what: str) -> str:
    if not text or "/" in text or "\0" in text or text in {".", ".."}:
        msg = (
            f"{what} {text!r} cannot be part of a file: give one without"
            " slashes"
        )
        raise InvalidSeries(msg)
    return text
