"""Find a Triton."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hermes.aeriel.errors import RuntimeMissing, RuntimeUnusable
from hermes.aeriel.serve._image_files import (
    check_image,
    find_image,
    image_roots_of,
)
from hermes.aeriel.serve._runtimes._apptainer import (
    ApptainerRuntime,
    container_executable,
)
from hermes.aeriel.serve._runtimes._managed import (
    ManagedRuntime,
    install_command,
    is_managed,
    managed_prefix,
)
from hermes.aeriel.serve._runtimes._protocol import Runtime
from hermes.aeriel.serve._runtimes._system import SystemRuntime

__all__ = ("choose_runtime", "find_runtime")

_SYSTEM = Path("/opt/tritonserver/bin/tritonserver")


def choose_runtime(
    image: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    image_roots: Sequence[str | os.PathLike[str]] | None = None,
) -> Runtime:
    """Return what will run the server.

    Args:
        image: A container image; None for a Triton of this machine.
        environ: Our environment.
        image_roots: Where relative images are looked up, besides the working
            directory; None for those of ``HERMES_IMAGE_ROOTS``, else the
            usual ones.

    Raises:
        ImageNotFound: If there is no such image.
        ImageUnusable: If it is none, or for another kind of machine.
        RuntimeMissing: If nothing is there to run it with.
        RuntimeUnusable: If ``HERMES_TRITON`` points to something else.
    """
    if image is None:
        return find_runtime(environ)
    roots = image_roots_of(environ) if image_roots is None else image_roots
    found = find_image(image, roots)
    check_image(found)
    return ApptainerRuntime(container_executable(environ), found)


def find_runtime(environ: Mapping[str, str]) -> SystemRuntime | ManagedRuntime:
    """Return the Triton of this machine to use.

    It is the one that ``HERMES_TRITON`` points to, else ``tritonserver`` on
    the PATH, else the one at ``/opt/tritonserver``, else the managed one.

    Raises:
        RuntimeMissing: If there is none.
        RuntimeUnusable: If ``HERMES_TRITON`` points to something else.
    """
    chosen = environ.get("HERMES_TRITON")
    if chosen:
        return _runtime_at(Path(chosen).expanduser().absolute())
    on_path = shutil.which("tritonserver", path=environ.get("PATH", ""))
    if on_path:
        return SystemRuntime(Path(on_path))
    if _is_executable(_SYSTEM):
        return SystemRuntime(_SYSTEM)
    prefix = managed_prefix(environ)
    if not prefix.exists():
        raise RuntimeMissing(
            f"no Triton runtime on this machine ({prefix} does not exist, and "
            "there is no tritonserver on PATH or at /opt/tritonserver); run "
            f"`{install_command()}`"
        )
    return ManagedRuntime(prefix)


def _runtime_at(location: Path) -> SystemRuntime | ManagedRuntime:
    server = location / "bin" / "tritonserver"
    if not location.exists():
        raise RuntimeMissing(
            f"HERMES_TRITON points to {location}, which does not exist; run "
            f"`{install_command(location)}`, or unset HERMES_TRITON"
        )
    if location.is_file() and _is_executable(location):
        home = location.resolve().parent.parent
        managed = is_managed(home)
        return ManagedRuntime(home) if managed else SystemRuntime(location)
    if is_managed(location):
        return ManagedRuntime(location)
    if _is_executable(server):
        return SystemRuntime(server)
    raise RuntimeUnusable(
        f"HERMES_TRITON points to {location}, which is neither a tritonserver "
        "nor a directory with bin/tritonserver; run "
        f"`{install_command(location)}`, or unset HERMES_TRITON"
    )


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
