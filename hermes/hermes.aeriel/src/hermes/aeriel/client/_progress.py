"""A bar for streams that take a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from hermes.aeriel.errors import ExtraMissing

__all__ = ("track",)

T = TypeVar("T")


def track(results: Iterator[T], updates: Iterable[object]) -> Iterator[T]:
    """Yield the results, and show how many of the updates they answer.

    Raises:
        ExtraMissing: If the extra ``cli`` is not installed.
    """
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import track as bar  # noqa: PLC0415
    except ImportError as error:
        msg = (
            "a progress bar needs the extra 'cli' of hermes-aeriel: install"
            " it, or leave progress out"
        )
        raise ExtraMissing(msg) from error
    total = len(updates) if isinstance(updates, Sized) else None
    console = Console(stderr=True)
    return iter(
        bar(results, description="streaming", total=total, console=console)
    )
