"""The monitor's process: what it is told, what it does, what it reports.

The two processes share two pipes. The parent writes one line with the
settings to ours, and a second line when it wants us to end; that pipe's end
means that the parent has. We answer with lines of JSON: that the monitor is
ready, what is worth a warning, and how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hermes.aeriel.errors import AerielError, MonitorDied
from hermes.aeriel.monitor._polling import Pace
from hermes.aeriel.monitor._record import Recorder
from hermes.aeriel.monitor._targets import Target
from hermes.aeriel.monitor._watch import Subject, Watch

__all__ = ("dump", "main")

_STDIN = 0
_TICK_SECONDS = 0.2
_TERMINATED = (
    "the monitor was ended by SIGTERM; what it measured until then is recorded"
)
Report = Callable[..., None]


def dump(subject: Subject, path: Path) -> dict[str, Any]:
    """The settings, as `main` takes them and JSON can hold them."""
    return {"subject": asdict(subject), "path": str(path), "ppid": os.getpid()}


def main(settings: Mapping[str, Any], reports: int) -> int:
    """Be the monitor until told to stop, or until the parent is gone.

    Args:
        settings: What `dump` made.
        reports: The descriptor to report to.

    Returns:
        The exit status.
    """
    report = partial(_report, reports)
    stop = threading.Event()
    terminated = _on_signals(stop)
    listener = threading.Thread(target=_listen, args=(stop,), daemon=True)
    listener.start()
    try:
        with Recorder(Path(settings["path"])) as recorder:
            subject = _subject(settings["subject"])
            _record(subject, recorder, stop, report, settings["ppid"])
    except AerielError as error:
        report(error=type(error).__name__, message=str(error))
        return 1
    if terminated.is_set():
        report(error=MonitorDied.__name__, message=_TERMINATED)
        return 1
    report(done=True)
    return 0


def _record(
    subject: Subject,
    recorder: Recorder,
    stop: threading.Event,
    report: Report,
    parent: int,
) -> None:
    """Write rows until ``stop`` is set or the parent is another one."""
    with Watch(subject, stop) as watch:
        report(ready=True)
        # A process that the parent forked may keep its pipe open.
        while not stop.is_set() and os.getppid() == parent:
            recorder.write(watch.take(_TICK_SECONDS))
        rows, problems = watch.finish()
        recorder.write(rows)
        for problem in problems:
            report(warning=problem)


def _on_signals(stop: threading.Event) -> threading.Event:
    """Let SIGTERM set ``stop``, and tell whether there was one."""
    terminated = threading.Event()

    def terminate(*_: object) -> None:
        terminated.set()
        stop.set()

    signal.signal(signal.SIGTERM, terminate)
    # The parent decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return terminated


def _report(descriptor: int, **message: object) -> None:
    """Tell the parent, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(message).encode() + b"\n")


def _listen(stop: threading.Event) -> None:
    # A word or the end of the pipe. No buffered file: the interpreter cannot
    # end while a thread waits in one.
    os.read(_STDIN, 1)
    stop.set()


def _subject(values: Mapping[str, Any]) -> Subject:
    targets = tuple(Target(**target) for target in values["targets"])
    pace = Pace(**values["pace"])
    return Subject(**{**values, "targets": targets, "pace": pace})
