"""A bar for a campaign; the only importer of rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from hermes.stillwater._campaign._progress import Progress, Show

__all__ = ("bar",)


@contextmanager
def bar(stream: IO[str]) -> Iterator[Show]:
    """Draw a bar while it is entered."""
    columns = BarColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=Console(file=stream)) as drawn:
        task = drawn.add_task("", total=None)

        def show(progress: Progress) -> None:
            drawn.update(
                task,
                total=progress.total,
                completed=progress.done + progress.failed,
                description=str(progress),
            )

        yield show
