"""Triton in an image of Apptainer's or Singularity's: in the foreground.

No instance: those outlive us, their environment never reaches what is run in
them later, and they end a server with SIGKILL. ``exec`` is our own child, and
the lifeline's shell runs inside, next to the server.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel.errors import RuntimeMissing
from hermes.aeriel.serve._repository import is_remote, links_out_of
from hermes.aeriel.serve._runtimes._protocol import (
    SHELL_SAFE,
    Bind,
    Launch,
    Request,
)

__all__ = ("ApptainerRuntime", "container_command", "container_executable")

# What Triton, its backends and its storage clients read of our environment.
# Everything else stays here: a PYTHONPATH would reach the Python backend.
_WANTED = re.compile(
    r"(AWS|AZURE|GOOGLE|TRITON|NCCL|OMP|CUDA_MPS)_\w+"
    r"|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|TZ"
    r"|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY"
)

_FIXED = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
}

# Files with which Triton opens buckets.
_CREDENTIALS = (
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "TRITON_CLOUD_CREDENTIAL_PATH",
)


@dataclass(frozen=True)
class ApptainerRuntime:
    """Triton in a container image.

    Args:
        executable: Apptainer's or Singularity's program.
        image: A ``.sif`` file or a sandbox folder.
    """

    executable: Path
    image: Path

    def __str__(self) -> str:
        return f"{self.image}, run by {self.executable}"

    @contextmanager
    def launch(self, request: Request) -> Iterator[Launch]:
        """Prepare a start; see :class:`Runtime`."""
        handed = _handed(request)
        seen, binds = _shown(request.repositories)
        remote = any(map(is_remote, request.repositories))
        files = {handed[name] for name in _CREDENTIALS if name in handed}
        credentials = [
            Bind(path, path, read_only=True)
            for path in sorted(files)
            if Path(path).is_absolute() and Path(path).exists()
        ]
        yield Launch(
            argv=("tritonserver",),
            repositories=seen,
            env=request.environ,
            outer=container_command(
                self.executable,
                self.image,
                binds=[*binds, *credentials, *request.binds],
                with_gpus=request.with_gpus,
                # where credentials for buckets are
                with_home=remote,
            ),
            handed=handed,
            cwd="/",
        )


def container_command(
    executable: Path,
    image: Path,
    *,
    binds: Iterable[Bind],
    with_gpus: bool,
    with_home: bool,
) -> tuple[str, ...]:
    """Return what runs a command, to be appended, in a container.

    Args:
        executable: Apptainer's or Singularity's program.
        image: Absolute path of the image.
        binds: What of this machine it shows.
        with_gpus: Whether it has the GPUs' driver.
        with_home: Whether it shows the home directory.
    """
    return (
        str(executable),
        "exec",
        "--cleanenv",
        *(() if with_home else ("--no-home",)),
        *(("--nv",) if with_gpus else ()),
        "--pwd",
        "/",
        *(word for bind in binds for word in ("--mount", _mount(bind))),
        str(image),
    )


def container_executable(environ: Mapping[str, str]) -> Path:
    """Return Apptainer's or Singularity's program.

    Raises:
        RuntimeMissing: If there is none on the PATH.
    """
    for name in ("apptainer", "singularity"):
        found = shutil.which(name, path=environ.get("PATH", ""))
        if found:
            return Path(found).absolute()
    raise RuntimeMissing(
        "image= needs apptainer or singularity, and there is none on PATH; "
        "load its module, install it, or use image=None"
    )


def _mount(bind: Bind) -> str:
    # A CSV: --bind would take paths apart at colons and commas.
    fields = [
        "type=bind",
        f"source={bind.source}",
        f"destination={bind.target}",
        *(["ro"] if bind.read_only else []),
    ]
    return ",".join(
        '"' + field.replace('"', '""') + '"' if _is_odd(field) else field
        for field in fields
    )


def _is_odd(field: str) -> bool:
    return any(character in field for character in ',"\n\r')


def _handed(request: Request) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in request.environ.items()
        if _WANTED.fullmatch(name)
    }
    return {**inherited, **_FIXED, **request.env}


def _shown(
    repositories: Iterable[str],
) -> tuple[tuple[str, ...], list[Bind]]:
    """Return what the server is told of its repositories, and what it sees.

    Each is seen at its own path, so that messages name the user's files, and
    one whose path a shell would take apart at a plain one too.
    """
    seen, binds = [], []
    for number, repository in enumerate(repositories):
        name = repository
        if not is_remote(repository):
            shown = {repository, *links_out_of(Path(repository))}
            binds += [Bind(p, p, read_only=True) for p in sorted(shown)]
            if not SHELL_SAFE.fullmatch(repository):
                name = f"/mnt/hermes-models-{number}"
                binds.append(Bind(repository, name, read_only=True))
        seen.append(name)
    return tuple(seen), binds
