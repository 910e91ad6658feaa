"""What a worker does with one unit.

What goes wrong comes back as a text, not as an exception: those of users may
not survive the way. What became of a unit is noted beside the outputs, too:
an executor may lose a result with the worker that holds it, repeat the unit
for that, and (Dask, when the repetition fails) never say anything again.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hermes.stillwater._campaign._output import Staging, publish
from hermes.stillwater._campaign._rows import Output
from hermes.stillwater._campaign._servers import borrow

__all__ = ("Report", "Task", "work")


@dataclass(frozen=True)
class Task:
    """One attempt at a unit.

    Attributes:
        key: The unit's.
        attempt: From 1.
        unit: What `run` gets first.
        run: The user's function.
        server: What `run` gets as its endpoint; None for nothing.
        staging: Where to write; gone if the campaign is.
        final: Where the output will be.
    """

    key: str
    attempt: int
    unit: Any
    run: Callable[..., Any]
    server: Any
    staging: Path
    final: Path


@dataclass(frozen=True)
class Report:
    """What became of it.

    Attributes:
        outputs: What it wrote.
        error: What went wrong.
        is_begun: False where the campaign had stopped before.
        seconds: How long it took.
        host: Where.
    """

    outputs: tuple[Output, ...] = ()
    error: str = ""
    is_begun: bool = True
    seconds: float = 0.0
    host: str = field(default_factory=socket.gethostname)

    def note(self, staging: Path, key: str, attempt: int) -> None:
        """Leave it for the campaign, if that is still there."""
        path = _note(staging, key, attempt)
        part = path.with_suffix(f".{os.urandom(8).hex()}")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(asdict(self)))
            part.replace(path)

    @classmethod
    def find(cls, staging: Path, key: str, attempt: int) -> Report | None:
        """Read what a worker has noted; None for nothing."""
        try:
            told = json.loads(_note(staging, key, attempt).read_text())
        except (OSError, ValueError):
            return None
        outputs = tuple(Output(**output) for output in told.pop("outputs"))
        return cls(outputs, **told)


def work(task: Task) -> Report:
    """Compute one unit and bring its output to its place."""
    noted = Report.find(task.staging, task.key, task.attempt)
    if noted is not None:
        return noted
    if Staging.is_stopped(task.staging):
        return Report(is_begun=False)
    report = _report(task)
    report.note(task.staging, task.key, task.attempt)
    return report


def _report(task: Task) -> Report:
    began = time.perf_counter()
    outputs: tuple[Output, ...] = ()
    error = ""
    try:
        outputs = _compute(task)
    except (Exception, SystemExit) as raised:  # noqa: BLE001  # any of users
        error = "".join(traceback.format_exception(raised))
    return Report(outputs, error, seconds=time.perf_counter() - began)


def _compute(task: Task) -> tuple[Output, ...]:
    # A name of its own for each: executors repeat what they believe lost,
    # and then there are two at work on the same unit.
    unique = f"{task.key[:100]}-{task.attempt}-{os.urandom(8).hex()}"
    folder = task.staging / unique
    folder.mkdir()
    staged = folder / task.final.name
    if task.server is None:
        task.run(task.unit, staged)
    else:
        with borrow(task.server) as endpoint:
            task.run(task.unit, staged, endpoint=endpoint)
    return publish(staged, task.final)


def _note(staging: Path, key: str, attempt: int) -> Path:
    return staging / f"{key}-{attempt}.report"
