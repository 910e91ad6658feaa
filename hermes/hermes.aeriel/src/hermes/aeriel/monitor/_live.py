"""`live()`: watch servers in a table that changes."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from hermes.aeriel.monitor._options import make_subject
from hermes.aeriel.monitor._record import Recorder
from hermes.aeriel.monitor._rows import Row
from hermes.aeriel.monitor._summary import Summary, summarize
from hermes.aeriel.monitor._table import make_console, make_live, make_table
from hermes.aeriel.monitor._targets import Address
from hermes.aeriel.monitor._watch import Subject, Watch

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ("live",)

_logger = logging.getLogger("hermes.aeriel.monitor")

_TICK_SECONDS = 0.2
_POLLS_PER_SECOND = 2.0


def live(
    ips: Address | Iterable[Address],
    model_name: str | None = None,
    *,
    filename: str | os.PathLike[str] | None = None,
    duration: float | None = None,
    window: float = 5.0,
    rate: float | None = _POLLS_PER_SECOND,
    model_version: int = -1,
    max_request_rate: float = 10,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    grace: float = 30.0,
    console: Console | None = None,
) -> Summary:
    """Show what servers do, until Ctrl-C.

    Args:
        ips: The servers; see `ServerMonitor`.
        model_name: Model to watch, of an ensemble also its steps; None for
            all models.
        filename: File to record to, as `ServerMonitor` does; None for none.
        duration: Seconds after which to end; None for Ctrl-C only.
        window: Seconds that the table is about, the last ones.
        rate: Polls per second.
        model_version: See `ServerMonitor`.
        max_request_rate: See `ServerMonitor`.
        grpc_port: See `ServerMonitor`.
        metrics_port: See `ServerMonitor`.
        grace: See `ServerMonitor`.
        console: Where to show it; the program's output by default. In what
            is no terminal only the last table is shown.

    Returns:
        What the last table shows.

    Raises:
        ExtraMissing: If the extra ``cli`` is not installed.
        InvalidMonitorOption: If an argument has a value that cannot work.
        ModelNotFound: If a server has no such model.
        ServerUnavailable: If a server does not answer at its gRPC port
            within the grace period.
        MetricsUnavailable: If its metrics cannot be read for longer.
        RecordUnwritable: If the file cannot be written.
    """
    subject = make_subject(
        model_name,
        ips,
        model_version=model_version,
        max_request_rate=max_request_rate,
        rate=rate,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        grace=grace,
    )
    with ExitStack() as stack:
        display = _Display(console or make_console(), subject, window)
        recorder = None
        if filename is not None:
            recorder = stack.enter_context(Recorder(Path(filename)))
        watch = stack.enter_context(Watch(subject, threading.Event()))
        stack.enter_context(display)
        end = None if duration is None else monotonic() + duration
        try:
            while end is None or monotonic() < end:
                _show(watch.take(_TICK_SECONDS), display, recorder)
        except KeyboardInterrupt:
            pass  # how to end it
        rows, problems = watch.finish()
        _show(rows, display, recorder)
        for problem in problems:
            _logger.warning("%s", problem)
    return display.summary


class _Display:
    """A table of the last seconds.

    Args:
        console: Where it is shown.
        subject: What it is about.
        window: How many seconds.
    """

    def __init__(
        self, console: Console, subject: Subject, window: float
    ) -> None:
        servers = ", ".join(target.name for target in subject.targets)
        self._title = f"{subject.model or 'all models'} on {servers}"
        self._live = make_live(console)
        self._window = window
        self._rows: deque[Row] = deque()

    @property
    def summary(self) -> Summary:
        """What it shows."""
        return summarize(self._rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Show these, too."""
        self._rows.extend(rows)
        newest = self._rows[-1].timestamp
        while self._rows[0].timestamp < newest - self._window:
            self._rows.popleft()
        self._update()

    def __enter__(self) -> None:
        self._live.start()
        self._update()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _update(self) -> None:
        table = make_table(self.summary, self._title)
        self._live.update(table, refresh=True)


def _show(
    rows: list[Row], display: _Display, recorder: Recorder | None
) -> None:
    if not rows:
        return
    display.add(rows)
    if recorder is not None:
        recorder.write(rows)
