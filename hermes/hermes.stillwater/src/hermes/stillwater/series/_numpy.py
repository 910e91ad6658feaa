"""A sink of numpy's own files."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.series._chunks import Array
from hermes.stillwater.series._segments import Block, Writer
from hermes.stillwater.series._sinks import Sink

__all__ = ("NumpySink",)


class NumpySink(Sink):
    """Write series to ``.npz`` or ``.npy`` files.

    See `Sink` for what it does and for its arguments. In an ``.npz`` file a
    series has the arrays ``<name>``, ``<name>.times`` (GPS seconds),
    ``<name>.segment`` (numbers), ``<name>.filled`` (whether a value depends
    on samples that fill a gap), ``<name>.sample_rate``; with streams
    ``<stream>.<name>`` and so on. ``attributes`` is a JSON object. An
    ``.npy`` file holds one series: records of ``time`` and ``value``.

    Data wait in temporary files beside it, so that memory does not grow;
    completing the file copies them.

    Raises:
        InvalidSeries: If the options make no sense.
        SinkUnwritable: If the file is there, or cannot be written.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__(path, **options)
        suffix = Path(path).suffix
        if suffix not in {".npy", ".npz"}:
            msg = f"path {str(path)!r}: give one that ends in .npz or .npy"
            raise InvalidSeries(msg)
        if suffix == ".npy" and self.attributes:
            msg = (
                f"an .npy file cannot say {[*self.attributes]}: give a path"
                " that ends in .npz, or no attributes"
            )
            raise InvalidSeries(msg)
        self._is_one = suffix == ".npy"

    def open_writer(self, path: Path) -> Writer:
        """Begin a file."""
        if self._is_one:
            return _RecordWriter(path)
        return _ArchiveWriter(path, self.attributes)


class _Spool:
    """Rows of an array that wait in a file."""

    def __init__(self, folder: Path, row: Array) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.shape = row.shape[1:]
        self.dtype = row.dtype
        self._size = 0

    def append(self, rows: Array) -> None:
        """Take more rows."""
        flat = np.ascontiguousarray(rows).reshape(-1)
        self._file.write(flat.view(np.uint8).data)
        self._size += len(rows)

    def save(self, file: IO[bytes]) -> None:
        """Write the array as ``numpy.save`` does."""
        np.lib.format.write_array_header_2_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (self._size, *self.shape),
            },
        )
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 2**20)

    def close(self) -> None:
        self._file.close()


class _RecordWriter:
    """Writes an ``.npy`` file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._series: tuple[str | None, str] | None = None
        self._spool: _Spool | None = None

    def write(self, block: Block) -> None:
        """Append records.

        Raises:
            InvalidSeries: If they are of another series.
        """
        series = block.stream, block.name
        if self._series not in {None, series}:
            msg = (
                f"an .npy file holds one series, but there are {self._series}"
                f" and {series} (stream, name): put {{stream}} and {{name}}"
                " into the path, or end it in .npz"
            )
            raise InvalidSeries(msg)
        self._series = series
        value = ("value", block.values.dtype, block.values.shape[1:])
        records = np.empty(len(block.times), [("time", "<f8"), value])
        records["time"] = block.times
        records["value"] = block.values
        if self._spool is None:
            self._spool = _Spool(self._path.parent, records)
        self._spool.append(records)

    def close(self) -> None:
        """Complete the file."""
        with self._path.open("r+b") as file:
            if self._spool is None:
                np.save(file, np.empty(0, [("time", "<f8")]))
            else:
                self._spool.save(file)
        self.abort()

    def abort(self) -> None:
        """Let go of what waits."""
        if self._spool is not None:
            self._spool.close()


class _ArchiveWriter:
    """Writes an ``.npz`` file."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        self._path = path
        self._spools: dict[str, _Spool] = {}
        self._facts: dict[str, Any] = {"attributes": json.dumps(attributes)}

    def write(self, block: Block) -> None:
        """Append to the arrays of a series.

        Raises:
            InvalidSeries: If its segments differ in rate, shape or dtype.
        """
        key = ".".join(filter(None, (block.stream, block.name)))
        rate = self._facts.setdefault(f"{key}.sample_rate", block.sample_rate)
        form = block.values.shape[1:], block.values.dtype
        spool = self._spools.get(key)
        known = form if spool is None else (spool.shape, spool.dtype)
        if (rate, known) != (block.sample_rate, form):
            msg = (
                f"{key!r} changes from {known} at {rate:g} Hz to {form} at"
                f" {block.sample_rate:g} Hz: put {{segment}} into the path"
            )
            raise InvalidSeries(msg)
        segment = np.full(len(block.times), block.segment, np.int64)
        self._append(key, block.values)
        self._append(f"{key}.times", block.times)
        self._append(f"{key}.segment", segment)
        self._append(f"{key}.filled", block.filled)

    def close(self) -> None:
        """Complete the file."""
        with zipfile.ZipFile(self._path, "w", allowZip64=True) as archive:
            for key, fact in self._facts.items():
                with archive.open(f"{key}.npy", "w") as file:
                    np.save(file, np.asarray(fact))
            for key, spool in self._spools.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                    spool.save(file)
        self.abort()

    def abort(self) -> None:
        """Let go of what waits."""
        for spool in self._spools.values():
            spool.close()

    def _append(self, key: str, rows: Array) -> None:
        if key not in self._spools:
            self._spools[key] = _Spool(self._path.parent, rows)
        self._spools[key].append(rows)
