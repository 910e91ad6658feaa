"""Record and watch what Triton servers do.

General layout:
    _monitor.py   ServerMonitor: what users see; _process.py: its process
    _worker.py    what runs in that process
    _watch.py     polls become rows, a lost server an error
    _polling.py   a thread for each server; _fetch.py: one request
    _metrics.py   pure: text -> numbers; _rows.py: two readings -> rows
    _options.py   pure: what is given -> what is watched
    _targets.py   pure: servers, steps of ensembles; _models.py asks for them
    _record.py    files of rows; _parquet.py: those of pyarrow
    _summary.py   pure: rows -> rates, latencies, the bottleneck
    _live.py      live(); _table.py: with rich; _plot.py: with matplotlib
    _cli.py       hermes-monitor
"""

from hermes.aeriel.monitor._live import live
from hermes.aeriel.monitor._monitor import ServerMonitor
from hermes.aeriel.monitor._plot import plot
from hermes.aeriel.monitor._record import read
from hermes.aeriel.monitor._rows import Row
from hermes.aeriel.monitor._summary import StepSummary, Summary, summarize

__all__ = (
    "Row",
    "ServerMonitor",
    "StepSummary",
    "Summary",
    "live",
    "plot",
    "read",
    "summarize",
)
