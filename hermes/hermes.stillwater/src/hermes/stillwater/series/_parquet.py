"""Parquet: a sink. The only module that imports pyarrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hermes.stillwater.errors import ExtraMissing, InvalidSeries
from hermes.stillwater.series._segments import Block
from hermes.stillwater.series._sinks import Sink

__all__ = ("ParquetSink",)


class ParquetSink(Sink):
    """Write a series as a Parquet table; needs the extra ``parquet``.

    See `Sink` for what it does and for its arguments. A row has ``time`` (GPS
    seconds), ``stream`` (a text), ``segment`` (a number), ``filled`` (whether
    it depends on samples that fill a gap), and the value in a column that is
    called like the series, or in ``<name>_0``, ``<name>_1``, ... if there are
    several. The schema's metadata ``hermes`` is a JSON object with
    ``sample_rate`` and the attributes.

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


class _Writer:
    """Writes one file."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        self._arrow, self._parquet = _import()
        self._path = path
        self._attributes = attributes
        self._writer: Any = None
        self._series: tuple[str, float] | None = None

    def write(self, block: Block) -> None:
        """Append rows.

        Raises:
            InvalidSeries: If they are of another series.
        """
        series = block.name, block.sample_rate
        if self._series not in {None, series}:
            msg = (
                f"a table holds one series, but there are {self._series} and"
                f" {series} (name, Hz): put {{name}} or {{stream}} into the"
                " path"
            )
            raise InvalidSeries(msg)
        self._series = series
        self._write(_columns(block), {"sample_rate": block.sample_rate})

    def close(self) -> None:
        """Complete the file."""
        if self._writer is None:
            self._write(_FEW, {})
        self._writer.close()

    def abort(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, columns: dict[str, Any], facts: dict[str, Any]) -> None:
        arrow = self._arrow
        columns = {
            **columns,
            "stream": arrow.array(columns["stream"], arrow.string()),
        }
        about = json.dumps(facts | dict(self._attributes))
        table = arrow.table(columns, metadata={"hermes": about})
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(
                self._path, table.schema
            )
        self._writer.write_table(table)


_FEW: dict[str, Any] = {
    "time": np.empty(0),
    "stream": [],
    "segment": np.empty(0, np.int64),
    "filled": np.empty(0, bool),
}


def _columns(block: Block) -> dict[str, Any]:
    size = len(block.times)
    values = np.ascontiguousarray(block.values.reshape(size, -1).T)
    names = [block.name]
    if len(values) > 1:
        names = [f"{block.name}_{i}" for i in range(len(values))]
    return {
        "time": block.times,
        "stream": [block.stream] * size,
        "segment": np.full(size, block.segment),
        "filled": block.filled,
        **dict(zip(names, values, strict=True)),
    }


def _import() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        msg = (
            "Parquet needs the extra 'parquet' of hermes-stillwater: install"
            " it, or use NumpySink"
        )
        raise ExtraMissing(msg) from error
    return pa, parquet
