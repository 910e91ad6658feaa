"""``hermes-monitor``: watch servers, or look at what was recorded."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import AerielError, ExtraMissing
from hermes.aeriel.monitor import _plot
from hermes.aeriel.monitor._live import live
from hermes.aeriel.monitor._record import is_parquet, read
from hermes.aeriel.monitor._summary import summarize
from hermes.aeriel.monitor._table import make_console, make_table
from hermes.aeriel.monitor._targets import Address

__all__ = ("main",)

_FAILED, _MISUSED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None for ``sys.argv``.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ExtraMissing as error:
        return _fail(error, _MISUSED)
    except (AerielError, FileNotFoundError) as error:
        return _fail(error, _FAILED)
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _plot.require()  # not found out at the end
    console = make_console()
    records = [name for name in options.endpoint if _is_record(name)]
    if not records:
        return _watch(options)
    if len(options.endpoint) > 1 or options.record is not None:
        msg = "give one record, and nothing to record, or endpoints"
        return _fail(msg, _MISUSED)
    rows = read(records[0])
    if options.model is not None:
        rows = [row for row in rows if row.model == options.model]
    console.print(make_table(summarize(rows), records[0]))
    if options.plot is not None:
        _plot.plot(rows, options.plot)
    return 0


def _watch(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        record = options.record
        if record is None and options.plot is not None:
            record = Path(scratch) / "run.csv"
        live(
            [_address(name) for name in options.endpoint],
            options.model,
            filename=record,
            duration=options.duration,
            rate=options.rate,
            model_version=options.model_version,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            grace=options.grace,
        )
        if options.plot is not None:
            _plot.plot(read(record), options.plot)
    return 0


def _is_record(name: str) -> bool:
    path = Path(name)
    return is_parquet(path) or path.suffix in {".csv", ".partial"}


def _address(name: str) -> Address:
    # A host may be called like a file; a JSON file is meant as one.
    is_file = name.endswith(".json") or Path(name).is_file()
    return Endpoint.load(name) if is_file else name


def _fail(error: object, status: int) -> int:
    sys.stderr.write(f"hermes-monitor: {error}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hermes-monitor",
        description="Watch Triton servers, or look at what was recorded.",
    )
    parser.add_argument(
        "endpoint",
        nargs="+",
        help="a server: a host, host:port of its metrics or a JSON file"
        " (Endpoint.save); or one record: run.csv, run.parquet",
    )
    parser.add_argument(
        "--model", help="model to watch, an ensemble with its steps; else all"
    )
    parser.add_argument("--model-version", type=int, default=-1)
    parser.add_argument(
        "--record", type=Path, help="file to write: .csv or .parquet"
    )
    parser.add_argument(
        "--plot", type=Path, help="image of throughput and latency to write"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=2.0,
        help="polls per second (%(default)s)",
    )
    parser.add_argument(
        "--duration", type=float, help="seconds to run for; else until Ctrl-C"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        help="seconds that a server may be silent (%(default)s)",
    )
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    return parser
