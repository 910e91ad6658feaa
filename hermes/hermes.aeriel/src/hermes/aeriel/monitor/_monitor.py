"""`ServerMonitor`: what users see of the monitor's process."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from hermes.aeriel.errors import AerielError, MonitorMisused
from hermes.aeriel.monitor import _parquet
from hermes.aeriel.monitor._options import make_subject
from hermes.aeriel.monitor._process import Process
from hermes.aeriel.monitor._record import is_parquet
from hermes.aeriel.monitor._targets import Address
from hermes.aeriel.monitor._worker import dump

__all__ = ("ServerMonitor",)

_logger = logging.getLogger("hermes.aeriel.monitor")

# Beyond what it grants its servers, a process needs this long to start.
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class ServerMonitor:
    """Record what Triton servers do, for as long as this is open.

    A context manager. It works in a process of its own, which ends with this
    one however that happens. All that is done between entering and leaving is
    recorded: entering returns after the first reading of every server, and
    leaving makes a last one.

    Of each server and model a row is written for each poll, with what was
    done since the poll before. An ensemble is recorded as its steps.

    Args:
        model_name: Model to watch; of an ensemble all its steps.
        ips: Where the servers are, one or several: a host, ``"host:port"`` of
            its metrics, or an endpoint such as ``server.endpoint``.
        filename: File to write, replaced if it is there: CSV, or Parquet with
            more columns if it ends in ``.parquet``.
        model_version: Version of the model to count; -1 for all of them.
        max_request_rate: Polls per second that a server gets at most.
        name: What this monitor is called in messages.
        rate: Polls per second; None for ``max_request_rate``.
        grpc_port: gRPC port of servers that are given without one.
        metrics_port: Metrics port of servers that are given without one.
        grace: Seconds for which a server may not answer, for instance while
            it is restarted. After that the monitor ends with an error.

    Raises:
        InvalidMonitorOption: If an argument has a value that cannot work.
        ExtraMissing: If the file is Parquet and the extra ``parquet`` is not
            installed.
    """

    def __init__(
        self,
        model_name: str,
        ips: Address | Iterable[Address],
        filename: str | os.PathLike[str],
        model_version: int = -1,
        max_request_rate: float = 10,
        name: str = "monitor",
        rate: float | None = None,
        grpc_port: int = 8001,
        metrics_port: int = 8002,
        *,
        grace: float = 30.0,
    ) -> None:
        self.name = name
        self.filename = Path(filename)
        self._subject = make_subject(
            model_name,
            ips,
            model_version=model_version,
            max_request_rate=max_request_rate,
            rate=rate,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            grace=grace,
        )
        if is_parquet(self.filename):
            _parquet.require()
        self._process: Process | None = None
        self._lock = threading.RLock()
        self._is_stopped = False

    def start(self) -> Self:
        """Begin to record; what entering the context does.

        Raises:
            ModelNotFound: If a server has no such model.
            ServerUnavailable: If a server does not answer at its gRPC port
                within the grace period.
            MetricsUnavailable: If its metrics cannot be read within it.
            RecordUnwritable: If the file cannot be written.
            MonitorDied: If the process ends, or hangs.
            MonitorMisused: If the monitor was started before.
        """
        with self._lock:
            if self._process is not None:
                msg = f"{self!r} was started already; make another one"
                raise MonitorMisused(msg)
            settings = dump(self._subject, self.filename.absolute())
            self._process = Process(self.name, settings)
            # Each server may use up its grace twice: as gRPC, as metrics.
            patience = self._subject.grace * (len(self._subject.targets) + 1)
            try:
                self._process.wait_until_ready(patience + _START_SECONDS)
            except BaseException:
                self._is_stopped = True
                self._process.kill()
                raise
        return self

    def check(self) -> None:
        """Raise the error that has ended the monitor, if one has.

        Does not wait, and may be called as often as one likes.

        Raises:
            MetricsUnavailable: If a server did not answer for longer than
                the grace period.
            RecordUnwritable: If the file could not be written.
            MonitorDied: If the process has ended otherwise.
        """
        with self._lock:
            if self._process is not None:
                self._process.check()

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Take a last reading, complete the file and end the process.

        A monitor that was stopped before, or not started, is left alone, but
        for the error that has ended it.

        Args:
            timeout: Seconds after which the process is killed.

        Raises:
            AerielError: As `check`.
        """
        with self._lock:
            if self._process is None:
                return
            try:
                self._process.stop(timeout)
            finally:
                if self._process.is_ours:
                    self._is_stopped = True
                    self._warn(self._process)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except AerielError as ours:
            if error is None:
                raise
            # What happened in the block is worth more, and may be the same.
            if error is not ours:
                error.add_note(f"{self.name}: {ours}")

    def __repr__(self) -> str:
        servers = ", ".join(t.name for t in self._subject.targets)
        return (
            f"<ServerMonitor {self._subject.model} on {servers} to"
            f" {self.filename}, {self._state()}>"
        )

    def __del__(self) -> None:
        # Not there if __init__ was not reached.
        process = getattr(self, "_process", None)
        if process is None or self._is_stopped or not process.is_ours:
            return
        warnings.warn(
            f"{self!r} was not stopped",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        process.release()

    def _state(self) -> str:
        if self._process is None:
            return "not started"
        if self._is_stopped:
            return "stopped"
        if not self._process.is_ours:
            return "another process's"
        if not self._process.is_running:
            return "ended"
        return f"running as process {self._process.pid}"

    def _warn(self, process: Process) -> None:
        while process.warnings:
            _logger.warning("%s: %s", self.name, process.warnings.pop(0))
