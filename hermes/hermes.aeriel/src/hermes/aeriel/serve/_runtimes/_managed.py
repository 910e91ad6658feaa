"""The Triton that ``python -m hermes.aeriel.serve install`` installs."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hermes.aeriel.errors import (
    BackendMissing,
    RepositoryUnusable,
    RuntimeStale,
    RuntimeUnusable,
)
from hermes.aeriel.serve._command import server_environment
from hermes.aeriel.serve._extras import EXTRAS, extras_needed
from hermes.aeriel.serve._manifest import (
    MANIFEST,
    Manifest,
    default_prefix,
    digest,
)
from hermes.aeriel.serve._repository import is_remote
from hermes.aeriel.serve._runtimes._protocol import (
    SHELL_SAFE,
    Launch,
    Request,
)

__all__ = (
    "ManagedRuntime",
    "install_command",
    "is_managed",
    "managed_prefix",
)


@dataclass(frozen=True)
class ManagedRuntime:
    """The runtime that ``python -m hermes.aeriel.serve install`` creates.

    Args:
        prefix: Its directory.
    """

    prefix: Path

    def __str__(self) -> str:
        return f"{self.prefix}, managed"

    def check(self, *, extras: bool = True) -> Manifest:
        """Look whether everything is there.

        Args:
            extras: Whether to look at what was installed with ``--with``, too.

        Returns:
            What it was installed with.

        Raises:
            RuntimeStale: If another version of aeriel installed it.
            RuntimeUnusable: If something is missing.
        """
        manifest = Manifest.read(self.prefix)
        if manifest is None:
            raise RuntimeUnusable(
                f"the Triton runtime in {self.prefix} is incomplete; run "
                f"`{install_command(self.prefix)}`"
            )
        if manifest.digest != digest():
            raise RuntimeStale(
                f"the Triton runtime in {self.prefix} was installed by "
                "another version of hermes-aeriel; run "
                f"`{install_command(self.prefix)}`"
            )
        found = manifest.missing(self.prefix, extras=extras)
        missing = [*islice(found, 3)]
        if missing:
            raise RuntimeUnusable(
                f"the Triton runtime in {self.prefix} is damaged "
                f"(missing or changed: {', '.join(missing)}); run "
                f"`{install_command(self.prefix)}`"
            )
        self._check_python(manifest)
        return manifest

    def _check_python(self, manifest: Manifest) -> None:
        again = f"run `{install_command(self.prefix)}`"
        python = self.prefix / "venv" / "bin" / "python3"
        if not python.exists():
            raise RuntimeUnusable(
                f"the Python {manifest.python} that the Triton runtime in "
                f"{self.prefix} was installed with is gone; {again}"
            )
        libpython = Path(manifest.libpython)
        if (
            manifest.libpython
            and not (self.prefix / "lib" / libpython.name).exists()
        ):
            raise RuntimeUnusable(
                f"libpython is missing: {libpython}, which the "
                f"Triton runtime in {self.prefix} needs, is gone (Debian's "
                f"package is libpython{manifest.python}); install it or "
                f"{again}"
            )

    def _check_for(self, request: Request) -> None:
        """Look at what these models need, and at nothing else."""
        needed = dict(_needed(request))
        manifest = self.check(extras=bool(needed))
        for extra, model in needed.items():
            if extra not in manifest.extras:
                raise BackendMissing(
                    f"model {model!r} is {EXTRAS[extra].platform}, and the "
                    f"Triton runtime in {self.prefix} has no {extra}; run "
                    f"`{install_command(self.prefix)} --with {extra}`"
                )

    @contextmanager
    def launch(self, request: Request) -> Iterator[Launch]:
        """Prepare a start; see :class:`Runtime`."""
        self._check_for(request)
        with ExitStack() as stack:
            fds: list[int] = []
            backends = self.prefix / "backends"
            yield Launch(
                argv=(str(self.prefix / "bin" / "tritonserver"),),
                repositories=tuple(
                    _seen(repository, stack, fds)
                    for repository in request.repositories
                ),
                backend_directory=_shell_safe(backends, stack, fds),
                env=server_environment(
                    request.environ,
                    self._environment(request.environ),
                    request.env,
                    isolate=True,
                ),
                # The stubs look for modules in their working directory first:
                # ours may hold a numpy.py.
                cwd=str(backends / "python"),
                pass_fds=tuple(fds),
                # Triton takes more than a second for each stub's end.
                may_be_killed=not any(map(_has_code, request.repositories)),
            )

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        path = environ.get("PATH", os.defpath)
        return {
            "PATH": f"{self.prefix / 'venv' / 'bin'}{os.pathsep}{path}",
            # libpython is linked into the same directory
            "LD_LIBRARY_PATH": str(self.prefix / "lib"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
        }


def managed_prefix(environ: Mapping[str, str]) -> Path:
    """Return where ``install`` puts the runtime unless told otherwise."""
    chosen = environ.get("HERMES_TRITON")
    if chosen:
        return Path(chosen).expanduser().absolute()
    major, minor = sys.version_info[:2]
    return default_prefix(environ, f"{major}.{minor}")


def install_command(prefix: Path | None = None) -> str:
    """Return the command that installs the runtime, to be typed."""
    command = "python -m hermes.aeriel.serve install"
    if prefix is None:
        return command
    return f"{command} --prefix {shlex.quote(str(prefix))}"


def _seen(repository: str, stack: ExitStack, fds: list[int]) -> str:
    """Return what the server is told of a repository."""
    if is_remote(repository):
        return repository
    _check_names(Path(repository))
    return _shell_safe(Path(repository), stack, fds)


def _has_code(repository: str) -> bool:
    """Whether a model's own Python may have to finish something."""
    return is_remote(repository) or any(Path(repository).glob("*/*/model.py"))


def _needed(request: Request) -> Iterator[tuple[str, str]]:
    """Yield the extras that models need which are loaded, and one of each."""
    for repository in request.repositories if request.loads_all else ():
        if not is_remote(repository):
            for model, extra in extras_needed(Path(repository)):
                yield extra, model


def _check_names(repository: Path) -> None:
    for entry in repository.iterdir():
        if entry.is_dir() and not SHELL_SAFE.fullmatch(entry.name):
            raise RepositoryUnusable(
                f"model {entry.name!r} in {repository} cannot be served by "
                "the local runtime: its Python backend takes names of letters "
                "and digits and ./@%+=,-_ only"
            )


def is_managed(location: Path) -> bool:
    """Whether it is one of ours, even one with half of it deleted."""
    return (location / MANIFEST).exists() or (location / "venv").is_dir()


def _shell_safe(path: Path, stack: ExitStack, fds: list[int]) -> str:
    """Return a name of ``path`` that a shell does not take apart."""
    if SHELL_SAFE.fullmatch(str(path)):
        return str(path)
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    fds.append(descriptor)
    return f"/proc/self/fd/{descriptor}"
