"""``hermes-cloud``: what a file describes comes up, is looked at, and goes."""

import contextlib
import datetime as dt
import signal
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hermes.cloudbreak._planfile import KINDS, Plan, read_plan, rows, seconds
from hermes.cloudbreak._together import Together
from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.errors import CloudbreakError, InvalidSpec
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key, Kind, Observed
from hermes.cloudbreak.waiting import Clock

__all__ = ("MakeClouds", "make_clouds", "run")

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
        _fail(str(error))
        _tell_notes(error)
        return 1
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        _tell_notes(error)
        _tell_notes(error.__cause__ or error.__context__)
        return 128 + signal.SIGINT
    except Exception as error:
        # click's own, which typer brings under another name
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return 2
    return int(code or 0)


def make_clouds(plan: Plan) -> dict[Kind, Cloud]:
    """Reach the clouds of a plan: those of its resources and of its settings.

    Raises:
        InvalidSpec: If it names none.
        CloudbreakError: If there are no credentials for one.
    """
    wanted = {each.settings for each in KINDS.values()}
    named = {
        each.settings for each in KINDS.values() if each.kind in plan.kinds
    }
    named |= {name for name in wanted if plan.settings.get(name)}
    if not named:
        raise InvalidSpec(
            "the file names no cloud: write [google] or [kubernetes]"
        )
    clouds: dict[Kind, Cloud] = {}
    if "google" in named:
        clouds |= _make_google(plan.settings.get("google", {}))
    if "kubernetes" in named:
        clouds |= _make_kubernetes(plan.settings.get("kubernetes", {}))
    return clouds


def _make_google(settings: Mapping[str, str]) -> dict[Kind, Cloud]:
    from hermes.cloudbreak.clouds import google  # noqa: PLC0415
    from hermes.cloudbreak.clouds.google._manager import (  # noqa: PLC0415
        Accesses,
    )

    project, credentials = settings.get("project", ""), None
    if "credentials" in settings:
        credentials = str(Path(settings["credentials"]).expanduser())
    gke = google.GKECloud(project, credentials=credentials, nodes=Accesses())
    vms = google.ComputeCloud(project, credentials)
    return {Kind.CLUSTER: gke, Kind.NODE_POOL: gke, Kind.VM: vms}


def _make_kubernetes(settings: Mapping[str, str]) -> dict[Kind, Cloud]:
    from hermes.cloudbreak._access import Access  # noqa: PLC0415
    from hermes.cloudbreak._deployments import Deployments  # noqa: PLC0415

    access = Access.from_kubeconfig(
        settings.get("kubeconfig"),
        settings.get("context"),
        settings.get("namespace"),
    )
    return {Kind.DEPLOYMENT: Deployments(access)}


@app.command()
def plan(file: File = _HERE) -> None:
    """Show what would be created; asks no cloud."""
    wanted = _read(file)
    _show_plan(wanted, ())


@app.command()
def up(
    context: typer.Context,
    file: File = _HERE,
    *,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask.")
    ] = False,
) -> None:
    """Have there what the file describes, and nothing else of its run.

    Whatever goes wrong, what was asked for is deleted. What has come up
    stays, until `down`, or until its lifetime is over and somebody reaps.
    """
    wanted = _read(file)
    with _clouds(context, wanted) as (cloud, clock):
        there = _observe(cloud, wanted)
        _show_plan(wanted, there)
        if not yes:
            typer.confirm("Do it?", abort=True)
        reconciler = Reconciler(
            cloud,
            wanted.stamp(clock.today()),
            clock=clock,
            report=_report,
        )
        reconciler.bring_up(wanted.specs, wanted.timeout)
    _say(f"up: {len(wanted.specs)} resources of run {wanted.run}")


@app.command()
def down(context: typer.Context, file: File = _HERE) -> None:
    """Delete everything of the file's run, and wait until it is gone."""
    wanted = _read(file)
    with _clouds(context, wanted) as (cloud, clock):
        stamp = wanted.stamp(clock.today())
        keys = [each.key for each in _observe(cloud, wanted)]
        Reconciler(cloud, stamp, clock=clock, report=_report).take_down(keys)
    _say(f"down: {len(keys)} resources of run {wanted.run}")


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
    wanted = _read(file)
    with _clouds(context, wanted) as (cloud, _):
        if everything:
            _show(cloud.observe(None))
        else:
            _show(_observe(cloud, wanted))


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
        str, typer.Option(help="Whose; everybody's if not given.")
    ] = "",
    dry_run: Annotated[bool, typer.Option(help="Only tell.")] = False,
) -> None:
    """Delete what is past its lifetime, whatever run it is of."""
    age = seconds(older_than) if older_than else None
    with _clouds(context, _read(file)) as (cloud, clock):
        keys = reap(
            cloud,
            owner or None,
            older_than=age,
            dry_run=dry_run,
            clock=clock,
        )
    for key in keys:
        _say(f"{'would delete' if dry_run else 'deleted'} {key}")
    _say(f"{len(keys)} resources")


@app.command()
def logs(
    context: typer.Context,
    file: File = _HERE,
    name: Annotated[
        str, typer.Option(help="Of which resource; of all if not given.")
    ] = "",
) -> None:
    """Show what the programs of the file's run have written."""
    wanted = _read(file)
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
    except InvalidSpec as error:
        if is_only:
            raise
        _say(str(error))
        return
    for each, text in found.items():
        for line in text.splitlines():
            typer.echo(f"{each}: {line}")


def _read(file: Path) -> Plan:
    try:
        return read_plan(tomllib.loads(file.read_text()))
    except FileNotFoundError as error:
        raise InvalidSpec(f"there is no file {file}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{file} is no TOML: {error}") from error
    except InvalidSpec as error:
        raise InvalidSpec(f"{file}: {error}") from error


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


def _show_plan(wanted: Plan, there: Iterable[Observed]) -> None:
    table = _table("", "resource", "where", "settings")
    for each in rows(wanted, there):
        table.add_row(each.action, str(each.key), each.where, each.what)
    _print(table)
    hours = wanted.lifetime / 3600
    _say(
        f"run {wanted.run} of {wanted.owner}: may be deleted by anybody "
        f"{hours:g} h after it was created"
    )


def _show(observed: Iterable[Observed]) -> None:
    table = _table("resource", "state", "reason", "owner", "run", "until")
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
    _print(table)


def _time(moment: float) -> str:
    found = dt.datetime.fromtimestamp(moment, dt.UTC)
    return f"{found:%Y-%m-%d %H:%M} UTC"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for each in columns:
        table.add_column(each, overflow="fold")
    return table


def _print(table: Table) -> None:
    Console(soft_wrap=False, markup=False).print(table)


def _report(waited: Mapping[Key, str]) -> None:
    for key, state in waited.items():
        typer.echo(f"waiting for {key}: {state}", err=True)


def _say(text: str) -> None:
    typer.echo(text)


def _tell_notes(error: BaseException | None) -> None:
    """Tell such as what could not be deleted after it, and costs money."""
    for note in getattr(error, "__notes__", ()):
        _fail(note)


def _fail(text: str) -> None:
    typer.echo(f"hermes-cloud: {text}", err=True)
