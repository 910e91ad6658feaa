"""What notebooks show: small tables, nothing but escaped text in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ("paragraph", "table")


def table(
    rows: Iterable[Sequence[object]],
    head: Sequence[object] = (),
    caption: str = "",
) -> str:
    """A table.

    Args:
        rows: Its cells; each is shown as its ``str``.
        head: Names of its columns.
        caption: What stands above it.
    """
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if head:
        parts.append(f"<thead>{_row(head, 'th')}</thead>")
    parts += ["<tbody>", *(_row(row, "td") for row in rows), "</tbody>"]
    return "".join([*parts, "</table>"])


def paragraph(strong: object, text: object = "") -> str:
    """A line, its first part set off."""
    rest = f" {escape(str(text))}" if str(text) else ""
    return f"<p><b>{escape(str(strong))}</b>{rest}</p>"


def _row(cells: Sequence[object], tag: str) -> str:
    inner = "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"
