"""A table of a running pipeline; the only module that draws one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from hermes.stillwater._board import StageStatistics
from hermes.stillwater.errors import ExtraMissing

__all__ = ("show",)

# rich is imported where it is used: it is an extra.
_COLUMNS = ("stage", "taken", "given", "per second", "waiting", "busy")


@contextlib.contextmanager
def show(
    read: Callable[[], Iterable[StageStatistics]],
    file: TextIO | None,
    refresh_rate: float,
) -> Iterator[None]:
    """Draw a table for as long as the block lasts.

    Args:
        read: Gives a row for each stage.
        file: Where to; stderr if None.
        refresh_rate: Tables per second [Hz].

    Raises:
        ExtraMissing: If the extra is not installed.
    """
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
    except ModuleNotFoundError as error:
        msg = "a live table needs the extra 'progress' of hermes-stillwater"
        raise ExtraMissing(msg) from error

    def draw() -> Table:
        table = Table(*_COLUMNS, box=None)
        for row in read():
            table.add_row(*_cells(row))
        return table

    console = Console(file=file, stderr=file is None)
    options: dict[str, Any] = {"refresh_per_second": refresh_rate}
    with Live(get_renderable=draw, console=console, **options):
        yield


def _cells(row: StageStatistics) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.num_received:,}",
        f"{row.num_sent:,}",
        f"{row.rate:,.1f}",
        f"{row.queue_size:,}",
        f"{row.busy:.0%}",
    )
