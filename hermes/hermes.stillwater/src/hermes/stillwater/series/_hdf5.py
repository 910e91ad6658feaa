"""HDF5: a source and a sink. The only module that imports h5py.

A file of the sink has a group for each series, ``<name>`` or
``<stream>/<name>``, with a dataset for each segment: ``0``, ``1``, ... Time
is its last axis; ``x0`` (GPS seconds) and ``dx`` (seconds) are attributes, as
gwpy writes and reads them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hermes.stillwater.errors import ExtraMissing, InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series._chunks import Array, Chunk, StreamEnd
from hermes.stillwater.series._grid import (
    check_rate,
    check_size,
    gps_time,
    sample_number,
)
from hermes.stillwater.series._segments import Block
from hermes.stillwater.series._sinks import Sink
from hermes.stillwater.series._sources import chunk_size_of

__all__ = ("HDF5Sink", "HDF5Source")

# Values in a chunk of a dataset's storage.
STORAGE_SIZE = 2**14
# What gwpy, GWOSC and pycbc call them.
STARTS = ("x0", "t0", "Xstart", "start_time", "start")
SPACINGS = ("dx", "dt", "Xspacing", "delta_t")


class HDF5Sink(Sink):
    """Write series to HDF5 files; needs the extra ``hdf5``.

    See `Sink` for what it does and for its arguments. `HDF5Source` reads
    them: ``HDF5Source(path, name)``.

    Raises:
        ExtraMissing: If the extra is not installed.
        InvalidSeries: If the options make no sense.
        SinkUnwritable: If the file is there, or cannot be written.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        _import()
        super().__init__(path, **options)

    def open_writer(self, path: Path) -> _Writer:
        """Begin a file."""
        return _Writer(path, self.attributes)


class _Disk(io.FileIO):
    """A file whose failures HDF5 does not see.

    HDF5 crashes the interpreter at its end where it could not write what it
    has in memory. So what fails is forgotten, and told by `check`.
    """

    _error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        size = len(left)
        with self._noting():
            while left and self._error is None:
                left = left[super().write(left) :]
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size."""
        with self._noting():
            super().truncate(size)
        return size or 0

    def check(self) -> None:
        """Make sure that everything was written.

        Raises:
            OSError: If not.
        """
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Write no more."""
        self._error = self._error or OSError("given up")

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error


class _Writer:
    """Writes one file."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        self._disk = _Disk(path, "r+b")
        self._file = _import().File(self._disk, "w")
        self._file.attrs.update(attributes)

    def write(self, block: Block) -> None:
        """Append to a segment, or begin the next one."""
        group = "/".join(filter(None, (block.stream, block.name)))
        path = f"{group}/{block.segment}"
        values = np.moveaxis(block.values, 0, -1)
        if values.shape[:-1] == (1,):
            values = values[0]  # as gwpy has one channel
        if path not in self._file:
            self._create(path, values, block)
        dataset = self._file[path]
        size = dataset.shape[-1]
        dataset.resize(size + values.shape[-1], axis=dataset.ndim - 1)
        dataset[..., size:] = values
        if block.filled.any():
            self._mark(f"{path}.filled", size + ranges(block.filled))
        self._disk.check()

    def close(self) -> None:
        """Complete the file."""
        self._file.close()
        self._disk.check()
        self._disk.close()

    def abort(self) -> None:
        """Let go of the file."""
        self._disk.give_up()
        self._file.close()
        self._disk.close()

    def _create(self, path: str, values: Array, block: Block) -> None:
        shape = values.shape[:-1]
        dataset = self._file.create_dataset(
            path,
            shape=(*shape, 0),
            maxshape=(*shape, None),
            chunks=(*shape, STORAGE_SIZE),
            dtype=values.dtype,
        )
        dataset.attrs.update(
            x0=float(block.times[0]),
            dx=1 / block.sample_rate,
            xunit="s",
            sample_rate=block.sample_rate,
        )

    def _mark(self, path: str, found: Array) -> None:
        """Say where values depend on samples that fill a gap."""
        if path not in self._file:
            self._file.create_dataset(
                path,
                shape=(0, 2),
                maxshape=(None, 2),
                chunks=(256, 2),
                dtype=np.int64,
            )
        dataset = self._file[path]
        size = len(dataset)
        dataset.resize(size + len(found), axis=0)
        dataset[size:] = found


def ranges(mask: Array) -> Array:
    """Where a mask is set: ``(begin, end)`` of each stretch."""
    edges = np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return np.stack([begins, ends], axis=1)


class HDF5Source(PipelineProcess):
    """Give the series of HDF5 files in chunks; needs the extra ``hdf5``.

    They are read block by block, in the order of their times. Gaps between
    files stay, for `Framer` to see. Start and rate are attributes of the
    datasets as gwpy (``x0``, ``dx``), GWOSC (``Xstart``, ``Xspacing``) or
    pycbc (``start_time``, ``delta_t``) write them.

    Args:
        paths: One file or several.
        datasets: Paths of datasets in each file: ``(channels, samples)``, or
            ``(samples,)`` for one channel. Those of several are joined in
            this order. Or of groups, as `HDF5Sink` makes them.
        sample_rate: Samples per second, instead of the attributes.
        start: GPS seconds of the first sample, instead of the attributes.
        chunk_size: Samples in a chunk; None for one second of them.
        stream: See `Chunk`.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`.

    Raises:
        ExtraMissing: If the extra is not installed.
        InvalidSeries: If the options make no sense.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        datasets: str | Sequence[str],
        *,
        sample_rate: float | None = None,
        start: float | None = None,
        chunk_size: int | None = None,
        stream: Hashable = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        _import()
        if isinstance(paths, str | Path):
            paths = [paths]
        self._paths = [Path(path) for path in paths]
        self._datasets = (
            [datasets] if isinstance(datasets, str) else [*datasets]
        )
        if not self._paths or not self._datasets:
            msg = (
                f"paths={paths!r}, datasets={datasets!r}: give one of each at"
                " least"
            )
            raise InvalidSeries(msg)
        if chunk_size is not None:
            check_size("chunk_size", chunk_size)
        self._sample_rate = (
            None if sample_rate is None else check_rate(sample_rate)
        )
        self._start = start
        self._chunk_size = chunk_size
        self._stream = stream

    def process(
        self,
        package: None = None,  # noqa: ARG002
    ) -> Iterator[Chunk | StreamEnd]:
        """Give all chunks.

        Raises:
            InvalidSeries: If a file is no HDF5 or has no such datasets, or
                these have no times or do not fit together.
        """
        stretches = [s for path in self._paths for s in self._find(path)]
        for stretch in sorted(stretches, key=lambda s: s.start):
            yield from self._read(stretch)
        yield StreamEnd(self._stream)

    def _read(self, stretch: _Stretch) -> Iterator[Chunk]:
        rate = stretch.sample_rate
        try:
            first = sample_number(stretch.start, rate)
        except InvalidSeries as error:
            raise InvalidSeries(f"{stretch.path}: {error}") from None
        step = chunk_size_of(self._chunk_size, rate)
        with _open(stretch.path) as file:
            for begin in range(0, stretch.size, step):
                parts = [
                    np.atleast_2d(file[path][..., begin : begin + step])
                    for path in stretch.datasets
                ]
                data = parts[0] if len(parts) == 1 else np.concatenate(parts)
                time = gps_time(first + begin, rate)
                yield Chunk(data, time, rate, self._stream)

    def _find(self, path: Path) -> list[_Stretch]:
        """The stretches of a file, read from its attributes."""
        with _open(path) as file:
            columns = [_segments(file, path, d) for d in self._datasets]
            if len({len(column) for column in columns}) != 1:
                counts = dict(
                    zip(self._datasets, map(len, columns), strict=True)
                )
                msg = (
                    f"datasets of {path} have different numbers of segments:"
                    f" {counts}; read them one by one"
                )
                raise InvalidSeries(msg)
            return [
                self._join(path, file, names)
                for names in zip(*columns, strict=True)
            ]

    def _join(self, path: Path, file: Any, names: tuple[str, ...]) -> _Stretch:
        facts = {name: self._look(path, name, file[name]) for name in names}
        if len(set(facts.values())) != 1:
            msg = (
                f"datasets of {path} differ in (start, rate, samples):"
                f" {facts}; read them one by one"
            )
            raise InvalidSeries(msg)
        return _Stretch(path, names, *facts[names[0]])

    def _look(
        self, path: Path, name: str, dataset: Any
    ) -> tuple[float, float, int]:
        if dataset.ndim not in {1, 2}:
            msg = (
                f"{name!r} of {path} has shape {dataset.shape}: name datasets"
                " of (channels, samples) or (samples,)"
            )
            raise InvalidSeries(msg)
        start, rate = self._start, self._sample_rate
        if start is None:
            start = _attribute(path, name, dataset, STARTS, "start")
        if rate is None:
            rate = _rate(path, name, dataset)
        return start, rate, dataset.shape[-1]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Datasets of the same samples."""

    path: Path
    datasets: tuple[str, ...]
    start: float
    sample_rate: float
    size: int


def _segments(file: Any, path: Path, name: str) -> list[str]:
    """A dataset's own name, or those of a group's numbered datasets."""
    if name not in file:
        known: list[str] = []
        file.visit(known.append)
        msg = f"{path} has no {name!r}, but {known}: name datasets of it"
        raise InvalidSeries(msg)
    if hasattr(file[name], "shape"):
        return [name]
    numbers = sorted(int(key) for key in file[name] if key.isdecimal())
    if not numbers:
        msg = (
            f"{name!r} of {path} is a group without segments, of"
            f" {[*file[name]]}: name datasets"
        )
        raise InvalidSeries(msg)
    return [f"{name}/{number}" for number in numbers]


def _attribute(
    path: Path, name: str, dataset: Any, keys: tuple[str, ...], option: str
) -> float:
    for key in keys:
        if key in dataset.attrs:
            return float(np.asarray(dataset.attrs[key]).reshape(()))
    msg = (
        f"{name!r} of {path} has the attributes {[*dataset.attrs]}, none of"
        f" which is one of {', '.join(keys)}: give {option}"
    )
    raise InvalidSeries(msg)


def _rate(path: Path, name: str, dataset: Any) -> float:
    if "sample_rate" in dataset.attrs:
        return check_rate(dataset.attrs["sample_rate"])
    spacing = _attribute(path, name, dataset, SPACINGS, "sample_rate")
    if not spacing > 0:
        msg = f"{name!r} of {path} has samples {spacing!r} s apart"
        raise InvalidSeries(f"{msg}: give sample_rate")
    # 1 / 3000 is no float, and neither is its inverse 3000 then.
    rate = 1 / spacing
    return round(rate) if abs(rate - round(rate)) < 1e-9 * rate else rate


def _open(path: Path) -> Any:
    try:
        return _import().File(path, "r")
    except OSError as error:
        msg = f"{path} cannot be read as HDF5: {error}"
        raise InvalidSeries(msg) from error


def _import() -> Any:
    try:
        import h5py  # noqa: PLC0415
    except ImportError as error:
        msg = (
            "HDF5 needs the extra 'hdf5' of hermes-stillwater: install it, or"
            " use NumpySink or GeneratorSource"
        )
        raise ExtraMissing(msg) from error
    return h5py
