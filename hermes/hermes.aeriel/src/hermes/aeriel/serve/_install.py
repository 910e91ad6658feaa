"""Install the managed runtime: all of it or nothing.

Everything is built in a directory beside the prefix and renamed into place at
the end. A lock keeps two installations apart; what a killed one has left
behind is removed by the next.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hermes.aeriel.errors import InstallFailed, RuntimeUnusable
from hermes.aeriel.serve._extras import EXTRAS
from hermes.aeriel.serve._manifest import (
    MANIFEST,
    SOURCES,
    TRITON_VERSION,
    Manifest,
    digest,
    list_files,
)
from hermes.aeriel.serve._packages import (
    check_extras,
    lay_out,
    lay_out_extra,
    read_pins,
)
from hermes.aeriel.serve._requirements import Facts, findings
from hermes.aeriel.serve._runtimes import ManagedRuntime

__all__ = ("install", "try_out")

# What a prefix holds; a directory with anything else in it is not ours.
_PARTS = frozenset({"bin", "lib", "backends", "venv", MANIFEST})

# Where pip must not install to, whatever it is configured to do by default.
_PIP_TARGETS = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")


def install(
    prefix: Path,
    facts: Facts,
    report: Callable[[str], None],
    *,
    force: bool = False,
    extras: Collection[str] = (),
) -> None:
    """Install the runtime into ``prefix``.

    A whole and current runtime that is there already is kept, and one that
    lacks an extra is replaced by one that has all that it had, and the extra.

    Args:
        prefix: Directory to create.
        facts: Of this machine and interpreter.
        report: Called with a line of text at every step.
        force: Replace even a whole and current runtime.
        extras: What it is to serve with besides; see ``EXTRAS``.

    Raises:
        InstallFailed: If this machine lacks something, there is no such
            extra, a download fails, or the result does not run.
    """
    check_extras(extras)
    missing = findings(facts)
    if missing:
        raise InstallFailed(
            "this machine cannot run the local Triton runtime:\n  "
            + "\n  ".join(missing)
        )
    _check_prefix(prefix)
    with _locked(prefix, report):
        manifest = Manifest.read(prefix)
        had = manifest.extras if manifest else ()
        wanted = _wanted(had, extras)
        if not force and wanted == [*had] and _is_whole(prefix):
            report(f"{prefix} is installed already")
            return
        # what was downloaded once is there, unless it is not trusted
        sources = [*([] if force else [str(_site(prefix))]), *sys.path]
        _build(prefix, facts, report, wanted, sources)


def _wanted(had: Collection[str], asked: Collection[str]) -> list[str]:
    """Return the extras of a new runtime: no one's are lost, if they exist."""
    return sorted({*EXTRAS}.intersection((*had, *asked)))


def try_out(prefix: Path, extras: Collection[str] = ()) -> None:
    """Run the server and its Python for a moment.

    Args:
        prefix: The runtime.
        extras: What to import besides, which takes seconds.

    Raises:
        RuntimeUnusable: If one of them does not run.
    """
    help_text = _output_of(
        prefix, str(prefix / "bin" / "tritonserver"), "--help"
    )
    if "--model-repository" not in help_text:
        raise RuntimeUnusable(
            f"tritonserver does not run: {help_text.strip()[-500:]}"
        )
    # Each in a process of its own, as in a stub.
    for modules in ("numpy, onnxruntime", *extras):
        _import(prefix, modules)


def _import(prefix: Path, modules: str) -> None:
    done = "the stubs' packages work"
    code = f"import {modules}; print({done!r})"
    imported = _output_of(prefix, str(_python(prefix)), "-Ic", code)
    if done not in imported:
        raise RuntimeUnusable(
            f"the runtime's Python cannot import {modules}: "
            f"{imported.strip()[-500:]}"
        )


def _output_of(prefix: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(prefix / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        return subprocess.run(
            command,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=180,  # what is linked has no bytecode yet
            encoding="utf-8",
            errors="replace",
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _is_whole(prefix: Path) -> bool:
    try:
        ManagedRuntime(prefix).check()
    except RuntimeUnusable:
        return False
    return True


def _check_prefix(prefix: Path) -> None:
    if set(":\n") & set(str(prefix)):
        raise InstallFailed(
            f"{prefix} cannot be used: a library path has no way to spell a "
            "colon or a line break"
        )
    if prefix.is_dir():
        foreign = {path.name for path in prefix.iterdir()} - _PARTS
        if foreign:
            raise InstallFailed(
                f"{prefix} holds something else ({min(foreign)}); "
                "choose a directory that does not exist"
            )
    elif prefix.exists():
        raise InstallFailed(f"{prefix} is not a directory")


@contextmanager
def _locked(prefix: Path, report: Callable[[str], None]) -> Iterator[None]:
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        lock = _beside(prefix, "lock").open("w")
    except OSError as error:
        raise InstallFailed(
            f"cannot write beside {prefix}: {error}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another installation to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(
    prefix: Path,
    facts: Facts,
    report: Callable[[str], None],
    extras: Sequence[str],
    sources: Sequence[str],
) -> None:
    partial = _beside(prefix, "partial")
    replaced = _beside(prefix, "old")
    try:
        _remove(partial)
        _remove(replaced)
        partial.mkdir()
        _fill(partial, facts, report, extras, sources)
        if prefix.exists():
            prefix.rename(replaced)
        partial.rename(prefix)
    except (OSError, RuntimeUnusable, zipfile.BadZipFile) as error:
        raise InstallFailed(f"cannot install: {error}") from error
    finally:
        _remove(partial)
        _remove(replaced)
    report(f"installed {prefix}")


def _fill(
    prefix: Path,
    facts: Facts,
    report: Callable[[str], None],
    extras: Sequence[str],
    sources: Sequence[str],
) -> None:
    report("1/4 creating a virtual environment")
    _run([sys.executable, "-I", "-m", "venv", str(prefix / "venv")])
    report(f"2/4 downloading Triton {TRITON_VERSION}")
    (triton, *_), *pins = read_pins("pins.txt", facts.python)
    wheel = _download(prefix, str(triton))
    _unpack(wheel, prefix, facts)
    shutil.rmtree(wheel.parent)
    report(f"3/4 installing {', '.join(('its Python packages', *extras))}")
    lay_out(pins, _site(prefix), sources, _downloader(prefix))
    shutil.copytree(
        SOURCES / "backends",
        prefix / "backends",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    plain = list_files(prefix)
    for name in extras:
        lay_out_extra(
            name, facts.python, _site(prefix), sources, _downloader(prefix)
        )
    _pip(prefix, "uninstall", "--yes", "--quiet", "pip")
    report("4/4 trying it out")
    try_out(prefix, extras)
    _write_manifest(prefix, facts, extras, plain)


def _write_manifest(
    prefix: Path, facts: Facts, extras: Sequence[str], plain: Collection[str]
) -> None:
    """Write what is there; ``plain`` are the files that extras found there."""
    files = list_files(prefix)
    Manifest(
        digest=digest(),
        triton=TRITON_VERSION,
        python=".".join(map(str, facts.python)),
        libpython=str(facts.libpython) if facts.needs_libpython else "",
        files={name: size for name, size in files.items() if name in plain},
        extras=extras,
        extra_files={
            name: size for name, size in files.items() if name not in plain
        },
    ).write(prefix)


def _downloader(prefix: Path) -> Callable[[Sequence[str]], None]:
    def download(pins: Sequence[str]) -> None:
        _pip(prefix, "install", "--no-deps", "--only-binary=:all:", *pins)

    return download


def _download(prefix: Path, pin: str) -> Path:
    target = prefix / ".download"
    _pip(
        prefix,
        "download",
        "--no-deps",
        "--only-binary=:all:",
        f"--dest={target}",
        pin,
    )
    return next(target.glob("*.whl"))


def _unpack(wheel: Path, prefix: Path, facts: Facts) -> None:
    """Lay Triton's binaries out as its own images do, and leave the rest."""
    version = ".".join(map(str, facts.python))
    libraries = "nvidia_pytriton.libs/"
    places = {
        "pytriton/tritonserver/bin/": "bin",
        "pytriton/tritonserver/backends/python/": "backends/python",
        f"pytriton/tritonserver/python_backend_stubs/{version}/": (
            "backends/python"
        ),
        libraries: "lib",
    }
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            directory, _, name = member.filename.rpartition("/")
            place = places.get(directory + "/")
            unneeded = facts.needs_libpython and "libpython" in name
            if not name or place is None or unneeded:
                continue
            target = prefix / place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
            target.chmod(0o755)
    if facts.needs_libpython and facts.libpython is not None:
        (prefix / "lib" / facts.libpython.name).symlink_to(facts.libpython)


def _pip(prefix: Path, command: str, *arguments: str) -> None:
    pip = [str(_python(prefix)), "-I", "-m", "pip", command]
    _run([*pip, "--disable-pip-version-check", *arguments])


def _run(command: Sequence[str]) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _PIP_TARGETS
    }
    try:
        # Its output is the progress that the user sees.
        subprocess.run(command, env=environment, check=True)
    except subprocess.CalledProcessError as error:
        raise InstallFailed(
            f"`{' '.join(command)}` failed with exit code {error.returncode}; "
            "its own message is above"
        ) from error


def _python(prefix: Path) -> Path:
    return prefix / "venv" / "bin" / "python3"


def _site(prefix: Path) -> Path:
    major, minor = sys.version_info[:2]
    version = f"python{major}.{minor}"
    return prefix / "venv" / "lib" / version / "site-packages"


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.parent / f".{prefix.name}.{suffix}"


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
