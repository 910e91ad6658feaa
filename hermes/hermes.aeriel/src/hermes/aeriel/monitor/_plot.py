"""Plots of a record; the only importer of matplotlib, behind the extra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hermes.aeriel.errors import (
    ExtraMissing,
    RecordUnreadable,
    RecordUnwritable,
)
from hermes.aeriel.monitor._rows import Row
from hermes.aeriel.monitor._summary import Course, courses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ("plot", "require")


def require() -> type[Figure]:
    """Return matplotlib's Figure, which needs no display.

    Raises:
        ExtraMissing: If it is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        msg = "a plot needs the extra 'plot' of hermes-aeriel: install it"
        raise ExtraMissing(msg) from error
    return Figure


def plot(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Draw throughput and stacked latency against time.

    The latency of each step is in two parts, queue (light) and compute, and
    the steps are stacked: where they follow each other the upper edge is
    what a request takes.

    Args:
        rows: Such as `hermes.aeriel.monitor.read` returns.
        path: File to write; its ending decides on the format.

    Raises:
        RecordUnreadable: If there are no rows.
        RecordUnwritable: If the file cannot be written.
        ExtraMissing: If the extra ``plot`` is not installed.
    """
    figure = require()(figsize=(8, 6), layout="constrained")
    found = courses([row for row in rows if not row.is_ensemble])
    if not found:
        msg = "there is nothing to plot: the record has no rows"
        raise RecordUnreadable(msg)
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_throughput(above, found)
    _draw_latency(below, found)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        # matplotlib says ValueError of an ending that it does not know.
        msg = f"cannot write the plot {os.fspath(path)}: {error}"
        raise RecordUnwritable(msg) from error


def _draw_throughput(axes: Axes, found: Sequence[Course]) -> None:
    # Steps that follow each other have one line: let it show all colours.
    for number, course in enumerate(found):
        axes.plot(
            course.times,
            course.throughput,
            label=course.model,
            linestyle=(3 * number, (3, 3 * len(found) - 3)),
        )
    axes.set_ylabel("requests per second")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _draw_latency(axes: Axes, found: Sequence[Course]) -> None:
    parts, labels, colors = [], [], []
    for number, course in enumerate(found):
        for name, values, alpha in (
            ("queue", course.queue, 0.4),
            ("compute", course.compute, 0.9),
        ):
            parts.append([value / 1000 for value in values])
            labels.append(f"{course.model}: {name}")
            colors.append((f"C{number % 10}", alpha))
    axes.stackplot(
        found[0].times, parts, labels=labels, colors=colors, step="mid"
    )
    axes.set_ylabel("latency per request [ms]")
    axes.set_xlabel("time [s]")
    axes.legend(fontsize="small", reverse=True)
