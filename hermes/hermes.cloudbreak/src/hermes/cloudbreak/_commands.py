"""``hermes-cloud``: what a file describes comes up, is looked at, and goes."""

import contextlib
import signal
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hermes.cloudbreak._planfile import (
    Plan,
    read_plan,
    read_run,
    rows,
    seconds,
)
from hermes.cloudbreak._screen import (
    ask,
    fail,
    print_table,
    report,
    say,
    show,
    table_of,
    tell_notes,
)
from hermes.cloudbreak._together import (
    Together,
    make_clouds,
    raise_first,
    try_each,
)
from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudbreakError,
    InvalidSpec,
    NotThere,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import delete, expired
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key, Kind, Observed
from hermes.cloudbreak.waiting import Clock

__all__ = ("MakeClouds", "run")

# What has the resources of a plan: which cloud has which kind.
MakeClouds = Callable[[Plan], Mapping[Kind, Cloud]]

app = typer.Typer(
    name="hermes-cloud",
    help="Brings up what a file describes, and makes sure that it goes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
File = Annotated[Path, typer.Argument(help="What is wanted, as TOML.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_HERE = Path("hermes-cloud.toml")


def run(
    words: Sequence[str],
    make: MakeClouds | None = None,
    clock: Clock | None = None,
) -> int:
    """Run the command line; return its exit code.

    Args:
        words: The arguments.
        make: Who has the resources.
        clock: The time.
    """
    try:
        code = app(
            args=list(words),
            prog_name="hermes-cloud",
            obj=(make or make_clouds, clock or Clock()),
            standalone_mode=False,
        )
    except (CloudbreakError, ImportError, OSError) as error:
        fail(str(error))
        tell_notes(error)
        return 1
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        tell_notes(error)
        tell_notes(error.__cause__ or error.__context__)
        return 128 + signal.SIGINT
    except Exception as error:
        # click's own, which typer brings under another name
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return 2
    return int(code or 0)


@app.command()
def plan(
    context: typer.Context,
    file: File = _HERE,
    *,
    offline: Annotated[
        bool,
        typer.Option(help="Ask no cloud: as if nothing were there."),
    ] = False,
) -> None:
    """Show what `up` would create, change and delete; it does nothing."""
    wanted = _read(file)
    if offline:
        _show_plan(wanted, ())
        return
    with _clouds(context, wanted) as (cloud, _):
        _show_plan(wanted, _look_around(cloud, wanted))


@app.command()
def up(
    context: typer.Context,
    file: File = _HERE,
    *,
    yes: Yes = False,
) -> None:
    """Have there what the file describes, and nothing else of its run.

    What is there already is changed where that can be done while it is
    there; if anything cannot, nothing is touched. Whatever goes wrong, what
    was created is deleted. What has come up stays, until `down`, or until
    its lifetime is over and somebody reaps.
    """
    wanted = _read(file)
    with _clouds(context, wanted) as (cloud, clock):
        refused = _show_plan(wanted, _look_around(cloud, wanted))
        if refused:
            raise AlreadyThere(
                "nothing was touched, because some of it would have to be "
                f"another one: {'; '.join(refused)} (`hermes-cloud down`), or "
                "write what it is"
            )
        ask("Do it?", yes=yes)
        reconciler = Reconciler(
            cloud,
            wanted.stamp(clock.today()),
            clock=clock,
            report=report,
        )

        def check(deadline: float) -> None:
            for each in wanted.specs:
                cloud.check(each, clock, deadline)

        reconciler.bring_up(wanted.specs, wanted.timeout, check)
    say(f"up: {len(wanted.specs)} resources of run {wanted.run}")


@app.command()
def down(
    context: typer.Context, file: File = _HERE, *, yes: Yes = False
) -> None:
    """Delete everything of the file's run, and wait until it is gone."""
    wanted = _read_run(file)
    with _clouds(context, wanted) as (cloud, clock):
        stamp = wanted.stamp(clock.today())

        def take_down(one: Cloud, found: list[Observed]) -> None:
            made = Reconciler(one, stamp, clock=clock, report=report)
            made.take_down(each.key for each in found)

        found = _empty(
            cloud, lambda one: _observe(one, wanted), take_down, yes=yes
        )
    say(f"down: {len(found)} resources of run {wanted.run}")


@app.command()
def status(
    context: typer.Context,
    file: File = _HERE,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Everybody's, of all runs.")
    ] = False,
) -> None:
    """Show what is there."""
    wanted = _read_run(file)
    with _clouds(context, wanted) as (cloud, _):
        if everything:
            show(cloud.observe(None))
        else:
            show(_observe(cloud, wanted))


@app.command("reap")
def reap_command(
    context: typer.Context,
    file: File = _HERE,
    *,
    older_than: Annotated[
        str,
        typer.Option(help="Also what was created so long ago, such as 6h."),
    ] = "",
    owner: Annotated[
        str, typer.Option(help="Whose; the file's owner's if not given.")
    ] = "",
    all_owners: Annotated[
        bool, typer.Option("--all-owners", help="Everybody's.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only tell.")] = False,
    yes: Yes = False,
) -> None:
    """Delete what is past its lifetime, whatever run it is of."""
    age = seconds(older_than) if older_than else None
    wanted = _read_run(file)
    if owner and all_owners:
        raise InvalidSpec("--owner and --all-owners: give one of them")
    whose = None if all_owners else owner or wanted.owner
    with _clouds(context, wanted) as (cloud, clock):

        def remove(one: Cloud, found: list[Observed]) -> None:
            if not dry_run:
                delete(one, found, clock=clock, report=report)

        found = _empty(
            cloud,
            lambda one: expired(one.observe(whose), clock.today(), age),
            remove,
            yes=yes or dry_run,
        )
    for each in sorted(found, key=lambda each: str(each.key)):
        say(f"{'would delete' if dry_run else 'deleted'} {each.key}")
    say(f"{len(found)} resources of {whose or 'everybody'}")


@app.command()
def logs(
    context: typer.Context,
    file: File = _HERE,
    name: Annotated[
        str, typer.Option(help="Of which resource; of all if not given.")
    ] = "",
) -> None:
    """Show what the programs of the file's run have written."""
    wanted = _read_run(file)
    with _clouds(context, wanted) as (cloud, _):
        keys = [
            each.key
            for each in _observe(cloud, wanted)
            if name in {"", each.key.name}
        ]
        if not keys:
            raise InvalidSpec(
                f"nothing of run {wanted.run} is called {name!r}"
                if name
                else f"nothing is there of run {wanted.run}"
            )
        for key in keys:
            _show_logs(cloud, key, is_only=len(keys) == 1)


def _show_logs(cloud: Together, key: Key, *, is_only: bool) -> None:
    try:
        found = cloud.logs(key)
    except (InvalidSpec, NotThere) as error:
        if is_only:
            raise
        say(str(error))
        return
    for each, text in found.items():
        for line in text.splitlines():
            typer.echo(f"{each}: {line}")


def _read(
    file: Path, read: Callable[[Mapping[str, Any]], Plan] = read_plan
) -> Plan:
    try:
        return read(tomllib.loads(file.read_text()))
    except FileNotFoundError as error:
        raise InvalidSpec(f"there is no file {file}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{file} is no TOML: {error}") from error
    except InvalidSpec as error:
        raise InvalidSpec(f"{file}: {error}") from error


def _read_run(file: Path) -> Plan:
    """Read whose run it is, and where, whatever else is wrong."""
    found = _read(file, read_run)
    for each in found.troubles:
        fail(f"{file}: {each} (not needed here; `up` would refuse it)")
    return found


@contextlib.contextmanager
def _clouds(
    context: typer.Context, wanted: Plan
) -> Iterator[tuple[Together, Clock]]:
    make, clock = context.obj
    cloud = Together(make(wanted))
    try:
        yield cloud, clock
    finally:
        cloud.close()


def _observe(cloud: Cloud, wanted: Plan) -> list[Observed]:
    """List what is there of a plan's run."""
    return [
        each
        for each in cloud.observe(wanted.owner)
        if (stamp := Stamp.read(each.labels)) and stamp.run == wanted.run
    ]


def _look_around(cloud: Cloud, wanted: Plan) -> list[Observed]:
    """List that, and what the plan may use though it is not of its run."""
    found = _observe(cloud, wanted)
    known = {each.key for each in found}
    return found + [
        one
        for each in wanted.specs
        if each.exists_ok
        and each.key not in known
        and (one := cloud.find(each.key))
    ]


def _empty(
    cloud: Together,
    look: Callable[[Cloud], list[Observed]],
    delete: Callable[[Cloud, list[Observed]], object],
    *,
    yes: bool,
) -> list[Observed]:
    """Show what is there and delete it; give what that was.

    One cloud that does not answer keeps nothing of the others, which costs
    money; it is told at the end.
    """
    there, troubles = try_each(cloud.apart(), lambda one: (one, look(one)))
    found = [each for _, some in there for each in some]
    if found:
        show(found)
        for each in troubles:
            say(f"This is not all: {each}")
        ask("Delete all this?", yes=yes)
    _, more = try_each(there, lambda each: delete(*each))
    raise_first([*troubles, *more])
    return found


def _show_plan(wanted: Plan, there: Iterable[Observed]) -> list[str]:
    """Show what would be done; give what cannot be."""
    found = rows(wanted, there)
    table = table_of("", "resource", "where", "settings")
    for each in found:
        table.add_row(each.action, str(each.key), each.where, each.what)
    print_table(table)
    hours = wanted.lifetime / 3600
    say(
        f"run {wanted.run} of {wanted.owner}: may be deleted by anybody "
        f"{hours:g} h after it was created"
    )
    return [f"{e.key} {e.what}" for e in found if e.action == "refuse"]
