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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hermes.aeriel.errors import InstallFailed, RuntimeUnusable
from hermes.aeriel.serve._manifest import (
    MANIFEST,
    SOURCES,
    TRITON_VERSION,
    Manifest,
    digest,
    list_files,
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
) -> None:
    """Install the runtime into ``prefix``.

    A whole and current runtime that is there already is kept.

    Args:
        prefix: Directory to create.
        facts: Of this machine and interpreter.
        report: Called with a line of text at every step.
        force: Replace even a whole and current runtime.

    Raises:
        InstallFailed: If this machine lacks something, a download fails, or
            the result does not run.
    """
    missing = findings(facts)
    if missing:
        raise InstallFailed(
            "this machine cannot run the local Triton runtime:\n  "
            + "\n  ".join(missing)
        )
    _check_prefix(prefix)
    with _locked(prefix, report):
        if not force and _is_whole(prefix):
            report(f"{prefix} is installed already")
            return
        _build(prefix, facts, report)


def try_out(prefix: Path) -> None:
    """Run the server and its Python for a moment.

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
    done = "the stubs' packages work"
    code = f"import numpy, onnxruntime; print({done!r})"
    imported = _output_of(prefix, str(_python(prefix)), "-Ic", code)
    if done not in imported:
        raise RuntimeUnusable(
            f"the runtime's Python does not work: {imported.strip()[-500:]}"
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
            timeout=60,
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


def _build(prefix: Path, facts: Facts, report: Callable[[str], None]) -> None:
    partial = _beside(prefix, "partial")
    replaced = _beside(prefix, "old")
    try:
        _remove(partial)
        _remove(replaced)
        partial.mkdir()
        _fill(partial, facts, report)
        if prefix.exists():
            prefix.rename(replaced)
        partial.rename(prefix)
    except (OSError, RuntimeUnusable, zipfile.BadZipFile) as error:
        raise InstallFailed(f"cannot install: {error}") from error
    finally:
        _remove(partial)
        _remove(replaced)
    report(f"installed {prefix}")


def _fill(prefix: Path, facts: Facts, report: Callable[[str], None]) -> None:
    report("1/4 creating a virtual environment")
    _run([sys.executable, "-I", "-m", "venv", str(prefix / "venv")])
    report(f"2/4 downloading Triton {TRITON_VERSION}")
    triton, packages = _pins()
    wheel = _download(prefix, triton)
    _unpack(wheel, prefix, facts)
    shutil.rmtree(wheel.parent)
    report("3/4 installing its Python packages")
    _pip(prefix, "install", "--no-deps", "--only-binary=:all:", *packages)
    _pip(prefix, "uninstall", "--yes", "--quiet", "pip")
    report("4/4 trying it out")
    shutil.copytree(
        SOURCES / "backends",
        prefix / "backends",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    try_out(prefix)
    Manifest(
        digest=digest(),
        triton=TRITON_VERSION,
        python=".".join(map(str, facts.python)),
        libpython=str(facts.libpython) if facts.needs_libpython else "",
        files=list_files(prefix),
    ).write(prefix)


def _pins() -> tuple[str, list[str]]:
    """Return the pin of Triton's wheel, and those of Python packages."""
    lines = (SOURCES / "pins.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    triton = [pin for pin in pins if pin.startswith("nvidia-pytriton==")]
    return triton[0], [pin for pin in pins if pin not in triton]


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


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.parent / f".{prefix.name}.{suffix}"


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
