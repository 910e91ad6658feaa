"""``hermes-serve``: serve a repository in the foreground, and around it."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import (
    AerielError,
    InvalidEndpoint,
    InvalidServeOption,
)
from hermes.aeriel.serve import __main__ as runtime
from hermes.aeriel.serve import _images
from hermes.aeriel.serve._checkup import checkup
from hermes.aeriel.serve._serve import Server, serve

__all__ = ("run",)

_POLL_SECONDS = 0.2

app = typer.Typer(
    name="hermes-serve",
    help="hermes-serve REPOSITORY [OPTIONS] [-- ARGUMENTS]: serve it with "
    "Triton, until Ctrl-C. `hermes-serve serve --help` lists the options.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_PASSED_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
_COMMANDS = ("serve", "install", "status", "pull", "check")


def run(words: Sequence[str]) -> int:
    """Run the command line; return its exit code.

    What follows ``--`` is for tritonserver. A first word that is no command
    is a repository to serve.
    """
    arguments, extra = _split(words)
    try:
        code = app(
            args=arguments,
            prog_name="hermes-serve",
            obj=extra,
            standalone_mode=False,
        )
    except (AerielError, OSError) as error:
        _fail(str(error))
        return 1
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except Exception as error:
        # click's own, which typer brings under another name
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return 2
    return int(code or 0)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our arguments, beginning with a command, and Triton's."""
    arguments = list(words)
    extra: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    is_help = arguments[:1] in ([], ["--help"])
    if not is_help and arguments[0] not in _COMMANDS:
        arguments.insert(0, "serve")
    return arguments, extra


@app.command("serve")
def serve_command(
    context: typer.Context,
    repositories: Annotated[
        list[str], typer.Argument(help="Model repositories: paths or URLs.")
    ],
    image: Annotated[
        str | None, typer.Option(help="Container image to run Triton in.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(help="GPUs, such as 0,1; none for no GPU."),
    ] = None,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Use any ports.")
    ] = False,
    endpoint_file: Annotated[
        Path | None,
        typer.Option(help="File that tells clients where it is (JSON)."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; 0.0.0.0 for every network.")
    ] = "127.0.0.1",
    advertise: Annotated[
        str | None, typer.Option(help="Host that clients are told.")
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="File for Triton's output.")
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option(help="source[:target[:ro]] that a container sees."),
    ] = None,
    model_control: Annotated[
        str, typer.Option(help="none, explicit or poll.")
    ] = "none",
    timeout: Annotated[
        float, typer.Option(help="Seconds it has to become ready.")
    ] = 300.0,
) -> None:
    """Serve until Ctrl-C; what follows -- is for tritonserver."""
    _check_place(endpoint_file)
    _say(f"starting Triton for {', '.join(repositories)} ...")
    with (
        _terminating(),
        serve(
            repositories,
            image,
            name,
            _gpus(gpus),
            context.obj,
            log_file,
            free_ports=free_ports,
            binds=bind or (),
            model_control=model_control,
            host=host,
            advertise=advertise,
        ) as server,
    ):
        server.wait(timeout)
        _show(server)
        with _published(server, endpoint_file):
            while server.poll() is None:
                time.sleep(_POLL_SECONDS)


@app.command(context_settings=_PASSED_ON)
def install(context: typer.Context) -> int:
    """Install the local runtime (no container)."""
    return runtime.main(["install", *context.args])


@app.command(context_settings=_PASSED_ON)
def status(context: typer.Context) -> int:
    """Say whether the local runtime is there."""
    return runtime.main(["status", *context.args])


@app.command()
def pull(
    source: Annotated[
        str, typer.Argument(help="Address of an image in a registry.")
    ] = _images.SOURCE,
    output: Annotated[
        Path | None, typer.Option(help="File or folder for it.")
    ] = None,
    definition: Annotated[
        Path | None,
        typer.Option(help="Build from this definition file instead."),
    ] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Build a folder, not a file.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there.")
    ] = False,
) -> None:
    """Get an image with Triton; NVIDIA's unless told otherwise."""
    if sandbox and definition is None:
        definition = _images.DEFINITION
    stem = source.rpartition("/")[2].replace(":", "_")
    if definition is not None:
        stem = definition.stem
    target = output or Path(stem if sandbox else f"{stem}.sif")
    target = target.expanduser().absolute()
    if definition is None:
        _images.pull_image(source, target, _say, force=force)
    else:
        _images.build_image(
            definition, target, _say, sandbox=sandbox, force=force
        )
    _say(f"{target} is ready: serve(repository, image={str(target)!r})")


@app.command()
def check(
    image: Annotated[
        str | None, typer.Option(help="Container image to serve with.")
    ] = None,
) -> int:
    """Say whether this node can serve, and what is missing."""
    marks = {True: "ok", None: "note", False: "MISSING"}
    findings = list(checkup(image, os.environ))
    for finding in findings:
        _say(f"{marks[finding.is_good]:8}{finding.what}: {finding.told}")
    return int(any(finding.is_good is False for finding in findings))


def _gpus(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [] if text in ("", "none") else text.split(",")


def _check_place(path: Path | None) -> None:
    """Find out before a server is started that its file cannot be written."""
    if path is not None and not os.access(path.parent, os.W_OK):
        raise InvalidServeOption(
            f"--endpoint-file {path}: {path.parent} is no folder that you can"
            " write to; make it first"
        )


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM leave everything in order, as Ctrl-C does."""

    def leave(number: int, _: object) -> None:
        raise typer.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _published(server: Server, path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    server.endpoint.save(path)
    try:
        yield
    finally:
        # Unless another server's has taken its place.
        with contextlib.suppress(OSError, InvalidEndpoint):
            if Endpoint.load(path) == server.endpoint:
                path.unlink()


def _show(server: Server) -> None:
    table = Table(title=repr(server), title_justify="left")
    for head in ("model", "version", "state"):
        table.add_column(head)
    for model in server.models():
        table.add_row(model.name, model.version, model.state)
    console = Console(soft_wrap=True, markup=False)
    console.print(table)
    endpoint = server.endpoint
    for what, address in vars(endpoint).items():
        console.print(f"{what:8}{address}")
    console.print("Ctrl-C ends it")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
