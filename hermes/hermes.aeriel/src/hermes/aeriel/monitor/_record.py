"""Records: rows in a file, as they come, and read again."""

from __future__ import annotations

import contextlib
import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from hermes.aeriel.errors import RecordUnreadable, RecordUnwritable
from hermes.aeriel.monitor import _parquet
from hermes.aeriel.monitor._rows import Row

__all__ = ("Recorder", "is_parquet", "read")

# What programs expect to find in a CSV file, in this order.
COLUMNS = (
    "timestamp",
    "ip",
    "model",
    "count",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "request",
)
MORE_COLUMNS = (
    "interval",
    "requests",
    "executions",
    "failures",
    "pending",
    "gpu_utilization",
    "gpu_memory_used",
    "gpu_memory_total",
)
_TEXTS = frozenset({"ip", "model"})
_FRACTIONS = frozenset({"timestamp", "interval", "gpu_utilization"})
_KINDS: Mapping[str, type] = {
    name: str if name in _TEXTS else float if name in _FRACTIONS else int
    for name in (*COLUMNS, *MORE_COLUMNS)
}


def is_parquet(path: Path) -> bool:
    """Whether a file of that name is Parquet; it is CSV otherwise."""
    return path.suffix.lower() in {".parquet", ".pq"}


class Recorder:
    """Writes rows; a context manager.

    Of a CSV file the header is there at once, and each row as soon as it is
    written. A Parquet file cannot be read before its end is written, and so
    it appears when it is complete; until then its rows are in a CSV file
    beside it, ``<name>.partial``, which a monitor that is killed leaves
    behind, and which `read` can read.

    Args:
        path: The file; one that is there is replaced.

    Raises:
        RecordUnwritable: Now or later, if it cannot be written.
        ExtraMissing: If it is Parquet, and the extra ``parquet`` is not
            installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_parquet = is_parquet(path)
        self._columns: Sequence[str] = COLUMNS
        self._written = path
        if self._is_parquet:
            _parquet.require()
            self._columns = (*COLUMNS, *MORE_COLUMNS)
            self._written = path.with_name(f"{path.name}.partial")
        with self._explained():
            self._file = self._written.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        try:
            self._put([self._columns])
        except RecordUnwritable:
            self._abandon()
            raise

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; an ensemble's are left out, its steps have them."""
        self._put(
            [_text(getattr(row, name)) for name in self._columns]
            for row in rows
            if not row.is_ensemble
        )

    def close(self) -> None:
        """Complete the file."""
        with self._explained():
            self._file.close()
            if self._is_parquet:
                _parquet.convert(self._written, self._path, _KINDS)
                self._written.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, RecordUnwritable):
            self._abandon()
        else:
            self.close()

    def _abandon(self) -> None:
        # The disk that is full now will not be empty in a moment.
        with contextlib.suppress(OSError):
            self._file.close()

    def _put(self, lines: Iterable[Iterable[object]]) -> None:
        with self._explained():
            self._csv.writerows(lines)
            self._file.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = f"cannot write the record {self._path}: {error}"
            raise RecordUnwritable(msg) from error


def read(path: str | os.PathLike[str]) -> list[Row]:
    """Read what a monitor recorded, also while it does.

    Args:
        path: A CSV or Parquet file, or what is left of one
            (``.parquet.partial``).

    Returns:
        Its rows, in the file's order. What the file does not tell is None,
        but for ``interval``: a CSV file has it between the lines.

    Raises:
        FileNotFoundError: If there is no such file.
        RecordUnreadable: If it is something else.
        ExtraMissing: If it is Parquet, and the extra ``parquet`` is not
            installed.
    """
    path = Path(path)
    try:
        if is_parquet(path):
            return [Row(**row) for row in _parquet.rows(path, _KINDS)]
        with path.open(encoding="utf-8", newline="") as file:
            found = [*_parse(_whole_lines(file))]
    except (ValueError, TypeError, KeyError) as error:
        msg = f"{path} is not a record of a monitor: {error}"
        raise RecordUnreadable(msg) from error
    return _with_intervals(found)


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    # The last line may be half written.
    return (line for line in file if line.endswith("\n"))


def _parse(lines: Iterable[str]) -> Iterator[Row]:
    reader = csv.DictReader(lines, restkey="", restval=None)
    missing = [n for n in COLUMNS if n not in (reader.fieldnames or ())]
    if missing:
        msg = f"it has no column {', '.join(missing)}"
        raise ValueError(msg)
    names = [f.name for f in fields(Row) if f.name in _KINDS]
    for line in reader:
        yield Row(**{n: _value(n, line[n]) for n in names if n in line})


def _value(name: str, text: str) -> Any:
    if text == "":
        return None
    # Other programs may have written whole numbers as 1.0.
    return int(float(text)) if _KINDS[name] is int else _KINDS[name](text)


def _text(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}"
    return "" if value is None else value


def _with_intervals(rows: list[Row]) -> list[Row]:
    """The time between the polls where the file does not tell it.

    Of the first poll it is taken to be what is usual.
    """
    polls: dict[str, dict[float, float]] = defaultdict(dict)
    latest: dict[str, float] = {}
    for row in rows:
        before = latest.get(row.ip)
        if before is not None and before != row.timestamp:
            polls[row.ip][row.timestamp] = row.timestamp - before
        latest[row.ip] = row.timestamp
    usual = {ip: median(seconds.values()) for ip, seconds in polls.items()}
    return [
        replace(
            row,
            interval=polls[row.ip].get(row.timestamp, usual.get(row.ip)),
        )
        if row.interval is None
        else row
        for row in rows
    ]
