"""``python -m hermes.aeriel.serve``: install the local Triton runtime."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hermes.aeriel.errors import RuntimeUnusable, ServeError
from hermes.aeriel.serve._extras import EXTRAS, platforms
from hermes.aeriel.serve._install import install, try_out
from hermes.aeriel.serve._manifest import TRITON_VERSION
from hermes.aeriel.serve._requirements import Facts, findings, gather
from hermes.aeriel.serve._runtimes import (
    ManagedRuntime,
    find_runtime,
    managed_prefix,
)

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None for ``sys.argv``.

    Returns:
        The exit code.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "install":
            return _install(
                options.prefix, force=options.force, extras=options.extras
            )
        if options.command == "status":
            return _status(options.prefix)
    except ServeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was installed\n")
        return 130
    parser.print_help()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hermes.aeriel.serve",
        description="Manage the local Triton runtime: serve() without a "
        "container.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    installer = commands.add_parser(
        "install", help="download Triton and set it up"
    )
    installer.add_argument(
        "--force", action="store_true", help="replace a whole runtime too"
    )
    installer.add_argument(
        "--with",
        action="append",
        default=[],
        dest="extras",
        metavar="EXTRA",
        help="serve with it, too, may be repeated: "
        + ", ".join(f"{n} ({e.platform})" for n, e in EXTRAS.items()),
    )
    status = commands.add_parser(
        "status", help="say what is there and what is missing"
    )
    for command in (installer, status):
        command.add_argument(
            "--prefix",
            type=Path,
            help="its directory (default: HERMES_TRITON, else below the "
            "user's cache directory)",
        )
    return parser


def _install(
    prefix: Path | None, *, force: bool, extras: Sequence[str]
) -> int:
    target = managed_prefix(os.environ) if prefix is None else prefix
    install(
        target.expanduser().absolute(),
        gather(),
        _say,
        force=force,
        extras=extras,
    )
    return 0


def _status(prefix: Path | None) -> int:
    facts = gather()
    environ = dict(os.environ)
    if prefix is not None:
        environ["HERMES_TRITON"] = str(prefix)
    missing = findings(facts)
    _say(f"Triton     {TRITON_VERSION}")
    _say(f"machine    {_describe(facts)}")
    for finding in missing:
        _say(f"missing    {finding}")
    served = "what its backends serve"
    try:
        runtime = find_runtime(environ)
        if isinstance(runtime, ManagedRuntime):
            served = ", ".join(platforms(runtime.check().extras))
            try_out(runtime.prefix)
    except RuntimeUnusable as error:
        _say(f"runtime    {error}")
        return 1
    _say(f"runtime    {runtime}")
    _say(f"serves     {served}")
    _say("status     ready")
    return 0


def _describe(facts: Facts) -> str:
    glibc = ".".join(map(str, facts.glibc)) if facts.glibc else "none"
    python = ".".join(map(str, facts.python))
    return (
        f"{facts.system} {facts.machine}, glibc {glibc}, Python {python}, "
        f"libpython {facts.libpython or 'none'}"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
