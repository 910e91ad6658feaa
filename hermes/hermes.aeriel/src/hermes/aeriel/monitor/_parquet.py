"""Parquet files; the only importer of pyarrow, behind the extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from hermes.aeriel.errors import ExtraMissing

__all__ = ("convert", "require", "rows")


def require() -> ModuleType:
    """Return pyarrow.

    Raises:
        ExtraMissing: If it is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import csv, parquet  # noqa: F401, PLC0415
    except ImportError as error:
        msg = (
            "a Parquet file needs the extra 'parquet' of hermes-aeriel:"
            " install it, or give a file that ends in .csv"
        )
        raise ExtraMissing(msg) from error
    module: ModuleType = pa
    return module


def convert(source: Path, target: Path, kinds: Mapping[str, type]) -> None:
    """Write a CSV file as Parquet, a batch at a time.

    Args:
        source: The CSV file, with a header.
        target: The Parquet file; it appears when it is complete.
        kinds: The type of each column.
    """
    arrow = require()
    made = target.with_name(f".{target.name}.new")
    schema = _schema(arrow, kinds)
    options = arrow.csv.ConvertOptions(column_types=schema)
    try:
        with (
            arrow.csv.open_csv(source, convert_options=options) as batches,
            arrow.parquet.ParquetWriter(made, schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)


def rows(path: Path, kinds: Mapping[str, type]) -> Iterator[dict[str, Any]]:
    """The rows of a file, by the names of the columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no Parquet, or lacks one of the columns.
    """
    arrow = require()
    with arrow.parquet.ParquetFile(path) as file:
        schema = _schema(arrow, kinds)
        missing = sorted({*schema.names} - {*file.schema_arrow.names})
        if missing:
            msg = f"it has no column {', '.join(missing)}"
            raise ValueError(msg)
        for batch in file.iter_batches(columns=schema.names):
            yield from batch.cast(schema).to_pylist()


def _schema(arrow: ModuleType, kinds: Mapping[str, type]) -> Any:
    types = {str: arrow.string(), float: arrow.float64(), int: arrow.int64()}
    return arrow.schema([(name, types[k]) for name, k in kinds.items()])
