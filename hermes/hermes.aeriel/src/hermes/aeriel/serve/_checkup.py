"""Can this node serve? What there is, and what is missing."""

import os
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel.errors import PortTaken, ServeError
from hermes.aeriel.serve._command import Ports
from hermes.aeriel.serve._gpus import (
    ask_driver,
    count_on_host,
    uuids_on_host,
)
from hermes.aeriel.serve._ports import Reservation
from hermes.aeriel.serve._runtimes import (
    ManagedRuntime,
    choose_runtime,
)

__all__ = ("Finding", "checkup")

# Triton's Python backend takes one megabyte, and more as it grows, for each
# instance of a model.
_SHM_MEGABYTES = 64
_NUM_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """One thing that a server needs.

    Args:
        what: Its name.
        is_good: Whether it is as it should be; None if it may do.
        told: What was found.
    """

    what: str
    is_good: bool | None
    told: str


def checkup(
    image: str | None, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield what this node has of what a server needs.

    Args:
        image: The container image to serve with; None for the local runtime.
        environ: Our environment.
    """
    yield _triton(image, environ)
    if image is not None:
        yield _namespaces()
    yield _gpus(environ)
    yield _ports()
    yield _shm(Path("/dev/shm"))  # noqa: S108
    yield _files()
    yield _name(socket.gethostname())


def _triton(image: str | None, environ: Mapping[str, str]) -> Finding:
    try:
        runtime = choose_runtime(image, environ)
        if isinstance(runtime, ManagedRuntime):
            runtime.check()
    except ServeError as error:
        return Finding("Triton", is_good=False, told=str(error))
    return Finding("Triton", is_good=True, told=str(runtime))


def _namespaces(
    limit: Path = Path("/proc/sys/user/max_user_namespaces"),
) -> Finding:
    what = "user namespaces"
    if os.geteuid() == 0:
        return Finding(what, is_good=True, told="not needed by root")
    try:
        number = int(limit.read_text("ascii"))
    except (OSError, ValueError):
        return Finding(what, is_good=None, told=f"{limit} does not tell")
    told = f"{number} at most" if number else "none; ask who runs this node"
    # an installation with the setuid bit does without
    return Finding(what, is_good=True if number else None, told=told)


def _gpus(environ: Mapping[str, str]) -> Finding:
    number = count_on_host()
    if not number:
        return Finding("GPUs", is_good=True, told="none: Triton uses the CPU")
    known = uuids_on_host(environ.get("PATH"))
    version = _driver(environ.get("PATH"))
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    told = f"{number}, driver {version or 'unknown'}"
    if shown is not None:
        told += f", CUDA_VISIBLE_DEVICES={shown}"
    good = len(known) == number
    if not good:
        told += f"; nvidia-smi tells of {len(known)}: is the driver loaded?"
    return Finding("GPUs", is_good=good or None, told=told)


def _driver(path: str | None) -> str:
    return (ask_driver("driver_version", path) or [""])[0].strip()


def _ports() -> Finding:
    try:
        Reservation("127.0.0.1", Ports()).close()
    except PortTaken as error:
        return Finding("ports", is_good=None, told=str(error))
    return Finding("ports", is_good=True, told="8000, 8001 and 8002 are free")


def _shm(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free >> 20
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        return Finding(str(folder), is_good=False, told=str(error))
    told = f"{free} MB are free" if writable else "cannot be written"
    good = writable and free >= _SHM_MEGABYTES
    if writable and not good:
        told += "; Triton's Python backend may not start"
    return Finding(str(folder), is_good=good, told=told)


def _files() -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = limit == resource.RLIM_INFINITY or limit >= _NUM_FILES
    told = f"{limit} at once" if good else f"{limit} at once; see ulimit -n"
    return Finding("open files", is_good=good or None, told=told)


def _name(host: str) -> Finding:
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        told = f"{host} has no address ({error}); use advertise="
        return Finding("host name", is_good=None, told=told)
    if address.startswith("127."):
        told = f"{host} is {address}; other nodes need advertise="
        return Finding("host name", is_good=None, told=told)
    return Finding("host name", is_good=True, told=f"{host}, {address}")
