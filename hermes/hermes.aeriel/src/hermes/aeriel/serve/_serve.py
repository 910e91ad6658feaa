"""``serve()``: one Triton server, for as long as somebody uses it."""

import logging
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hermes.aeriel.errors import InvalidServeOption
from hermes.aeriel.serve._command import (
    ModelControl,
    Ports,
    check_server_args,
    grace,
)
from hermes.aeriel.serve._gpus import Gpus, count_on_host, visible_devices
from hermes.aeriel.serve._log import Log
from hermes.aeriel.serve._ports import numeric_address
from hermes.aeriel.serve._repository import Repositories, check_repositories
from hermes.aeriel.serve._runtimes import Bind, choose_runtime
from hermes.aeriel.serve._server import Server
from hermes.aeriel.serve._start import Start

__all__ = ("Server", "serve")

BindLike = str | os.PathLike[str] | tuple[str | os.PathLike[str], ...]

_logger = logging.getLogger(__name__)


def serve(
    model_repo_dir: Repositories,
    image: str | os.PathLike[str] | None = None,
    name: str | None = None,
    gpus: Gpus | None = None,
    server_args: Sequence[str] | None = None,
    log_file: str | os.PathLike[str] | None = None,
    wait: bool = False,
    free_ports: bool = False,
    binds: Sequence[BindLike] = (),
    env: Mapping[str, str] | None = None,
    model_control: str = "none",
    host: str = "127.0.0.1",
    *,
    advertise: str | None = None,
    repository_poll_secs: int | None = None,
    image_roots: Sequence[str | os.PathLike[str]] | None = None,
) -> Server:
    """Start a Triton server for a model repository.

    Args:
        model_repo_dir: Model repository: a path, ``gs://`` or ``s3://`` (for
            which Triton takes credentials from ``env`` or ours), an object
            with one as its ``root``, or a list of several.
        image: Container image to run Triton in, a ``.sif`` file or a folder;
            None for the local runtime.
        name: What the server is called in messages.
        gpus: GPUs that the server may use, as numbers that count those of our
            ``CUDA_VISIBLE_DEVICES``, or identifiers (``"GPU-..."``,
            ``"MIG-..."``); none if empty, all if None.
        server_args: More options for ``tritonserver``, as on its command
            line. Paths in them must be absolute.
        log_file: File that the server's output is appended to; None to keep
            it for ``logs()`` only.
        wait: Return only when the server is ready.
        free_ports: Use any free ports instead of 8000 (HTTP), 8001 (gRPC)
            and 8002 (metrics).
        binds: What else the container shows to the server: paths, or
            ``"source:target[:ro]"``, or tuples of these parts.
        env: Environment variables for the server, which win.
        model_control: Which models are loaded: all (``"none"``), those that
            ``load_model`` asks for (``"explicit"``), or all and what changes
            in the repository (``"poll"``).
        host: Address to bind to; ``"0.0.0.0"`` opens the server to the
            network.
        advertise: Host that clients are told; None for ``host``, or for this
            machine's name if that is a wildcard.
        repository_poll_secs: Seconds between two looks for changes, with
            ``model_control="poll"``.
        image_roots: Folders in which a relative ``image`` is looked up,
            besides the working directory; None for those of
            ``HERMES_IMAGE_ROOTS``, else cvmfs.

    Returns:
        The server, a context manager.

    Raises:
        RepositoryNotFound: If the repository is no directory, and no URL
            that Triton reads.
        RepositoryUnusable: If there is no model in it.
        ImageNotFound: If there is no such image.
        ImageUnusable: If it is none, damaged, or for other machines.
        RuntimeMissing: If no Triton, or nothing for images, is installed.
        BackendMissing: If the local runtime lacks what a model needs.
        RuntimeUnusable: If the local runtime is damaged or stale.
        PortTaken: If a port is in use.
        InvalidServeOption: If an option has a value that cannot work.
        ServerDied: If ``wait`` is set and the server ends.
        ServerTimeout: If ``wait`` is set and the server is not ready within
            five minutes.
        GpuMismatch: If ``wait`` is set and the server sees other GPUs.
    """
    _check_wait(wait)
    arguments = check_server_args(server_args)
    grace(arguments)
    control = ModelControl(model_control, repository_poll_secs)
    control = control.override(arguments)
    devices = visible_devices(gpus, os.environ)
    start = Start(
        binds=_check_binds(binds, image),
        repositories=check_repositories(
            model_repo_dir, may_be_empty=control.mode != "none"
        ),
        runtime=choose_runtime(image, os.environ, image_roots),
        server_id=f"{name or 'hermes'}-{uuid.uuid4().hex[:12]}",
        address=numeric_address(host),
        wanted=_ports(free_ports, arguments),
        advertise=_check_host(advertise),
        arguments=arguments,
        control=control,
        env={**devices, **_check_env(env, devices)},
        with_gpus=_with_gpus(gpus),
        devices=devices.get("CUDA_VISIBLE_DEVICES"),
    )
    return _started(start, log_file, wait=wait)


def _check_wait(wait: object) -> None:
    if wait not in (True, False):
        msg = (
            f"wait={wait!r} is neither True nor False; for a limit of your own"
            " call wait(seconds) of the server that you get"
        )
        raise InvalidServeOption(msg)


def _started(
    start: Start, log_file: str | os.PathLike[str] | None, *, wait: bool
) -> Server:
    log = Log(log_file)
    try:
        server = Server(start, log)
    except BaseException:
        log.close()
        raise
    if wait:
        try:
            server.wait()
        except BaseException:
            server.stop()
            raise
    return server


def _ports(free_ports: bool, arguments: Sequence[str]) -> Ports:
    wanted = Ports(0, 0, 0) if free_ports else Ports()
    return wanted.override(arguments)


def _with_gpus(gpus: Gpus | None) -> bool:
    if gpus is not None and not gpus:
        return False
    if count_on_host():
        return True
    level = logging.INFO if gpus is None else logging.WARNING
    _logger.log(level, "no NVIDIA GPU on this machine: Triton uses its CPU")
    return False


def _check_env(
    env: Mapping[str, str] | None, devices: Mapping[str, str]
) -> Mapping[str, str]:
    items: Iterable[tuple[object, object]] = (env or {}).items()
    for name, value in items:
        if not (
            isinstance(name, str)
            and isinstance(value, str)
            and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
            and "\0" not in value
        ):
            raise InvalidServeOption(
                f"env must map names to strings, got {name!r}: {value!r}"
            )
    if "CUDA_VISIBLE_DEVICES" in (env or {}) and devices:
        raise InvalidServeOption(
            "gpus= and CUDA_VISIBLE_DEVICES in env= say the same; leave one "
            "of them out"
        )
    return env or {}


def _check_host(advertise: str | None) -> str | None:
    if advertise is not None and not re.fullmatch(
        r"[\w.-]+", str(advertise), re.ASCII
    ):
        raise InvalidServeOption(
            "advertise must be a host name or an IPv4 address, without a "
            f"port, got {advertise!r}"
        )
    return advertise


def _check_binds(binds: Sequence[BindLike], image: object) -> tuple[Bind, ...]:
    if binds and image is None:
        raise InvalidServeOption(
            "binds= is for containers; without image= the server sees "
            "everything that you see"
        )
    if isinstance(binds, str):
        raise InvalidServeOption(
            f"binds must be a sequence such as ['/data'], got {binds!r}"
        )
    return tuple(_bind(bind) for bind in binds)


def _bind(bind: BindLike) -> Bind:
    if isinstance(bind, str):
        parts: Sequence[str | os.PathLike[str]] = bind.split(":")
    else:
        parts = bind if isinstance(bind, tuple) else (bind,)
    words = [os.fspath(part) for part in parts]
    source, target, mode = [*words, "", "", ""][:3]
    path = Path(source).expanduser().absolute()
    target = target or str(path)
    if (
        len(words) > 3
        or not (source and path.exists())
        or not target.startswith("/")
        or mode not in ("", "ro", "rw")
    ):
        raise InvalidServeOption(
            "binds must be paths that exist, or 'source:target[:ro|rw]' with "
            f"an absolute target, got {bind!r}"
        )
    return Bind(str(path), target, read_only=mode == "ro")
