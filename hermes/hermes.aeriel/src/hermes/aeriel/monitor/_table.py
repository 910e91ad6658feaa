"""Tables of what happens; the only importer of rich here, with the extra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hermes.aeriel.errors import ExtraMissing
from hermes.aeriel.monitor._summary import StepSummary, Summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

__all__ = ("make_console", "make_live", "make_table")

_HEAD = (
    "model",
    "req/s",
    "batch",
    "queue ms",
    "compute ms",
    "total ms",
    "pending",
    "failed",
)
_MISSING = (
    "tables need the extra 'cli' of hermes-aeriel: install it, or record with"
    " ServerMonitor, which does not need it"
)


def make_console() -> Console:
    """Where tables are shown: this program's output.

    Raises:
        ExtraMissing: If the extra ``cli`` is not installed.
    """
    try:
        from rich.console import Console  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(_MISSING) from error
    return Console()


def make_live(console: Console) -> Live:
    """A place for a table that changes; a context manager."""
    from rich.live import Live  # noqa: PLC0415

    return Live(console=console, auto_refresh=False)


def make_table(summary: Summary, title: str) -> Table:
    """The table of a summary; the bottleneck is marked.

    Args:
        summary: What it shows.
        title: What stands above it.
    """
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(
        title=escape(title),
        caption=escape(summary.verdict),
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column(_HEAD[0])
    for name in _HEAD[1:]:
        table.add_column(escape(name), justify="right")
    for step in summary.steps:
        is_slowest = step.model == summary.bottleneck
        table.add_row(
            *map(escape, _cells(step)), style="bold" if is_slowest else None
        )
    return table


def _cells(step: StepSummary) -> Iterator[str]:
    yield f"{step.model} (ensemble)" if step.is_ensemble else step.model
    yield f"{step.throughput:.1f}"
    yield "-" if step.batch_size is None else f"{step.batch_size:.1f}"
    for microseconds in step.queue, step.compute, step.request:
        yield "-" if microseconds is None else f"{microseconds / 1000:.2f}"
    yield "-" if step.pending is None else str(step.pending)
    yield str(step.num_failures)
