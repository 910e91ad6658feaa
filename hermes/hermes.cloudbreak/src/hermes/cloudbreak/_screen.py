"""What ``hermes-cloud`` says, and what it asks."""

import datetime as dt
import sys
from collections.abc import Iterable, Mapping

import typer
from rich.console import Console
from rich.table import Table

from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Key, Observed

__all__ = (
    "ask",
    "fail",
    "print_table",
    "report",
    "say",
    "show",
    "table_of",
    "tell_notes",
)


def ask(question: str, *, yes: bool) -> None:
    """Ask, unless it was said before; end the program if the answer is no."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        fail("nobody can be asked, because this is no terminal: give --yes")
        raise typer.Exit(2)
    typer.confirm(question, abort=True)


def show(observed: Iterable[Observed]) -> None:
    table = table_of("resource", "state", "reason", "owner", "run", "until")
    for each in sorted(observed, key=lambda each: str(each.key)):
        stamp = Stamp.read(each.labels)
        table.add_row(
            str(each.key),
            each.state.value,
            each.reason,
            stamp.owner if stamp else "",
            stamp.run if stamp else "",
            _time(stamp.deadline) if stamp else "",
        )
    print_table(table)


def _time(moment: float) -> str:
    found = dt.datetime.fromtimestamp(moment, dt.UTC)
    return f"{found:%Y-%m-%d %H:%M} UTC"


def table_of(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for each in columns:
        table.add_column(each, overflow="fold")
    return table


def print_table(table: Table) -> None:
    Console(soft_wrap=False, markup=False).print(table)


def report(waited: Mapping[Key, str]) -> None:
    for key, state in waited.items():
        typer.echo(f"waiting for {key}: {state}", err=True)


def say(text: str) -> None:
    typer.echo(text)


def tell_notes(error: BaseException | None) -> None:
    """Tell such as what could not be deleted after it, and costs money."""
    for note in getattr(error, "__notes__", ()):
        fail(note)


def fail(text: str) -> None:
    typer.echo(f"hermes-cloud: {text}", err=True)
