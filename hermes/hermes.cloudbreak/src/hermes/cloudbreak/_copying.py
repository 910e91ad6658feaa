"""A file over SFTP: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes.cloudbreak._ssh import Sftp

__all__ = ("get", "put", "say")

# Called with bytes so far, and in all.
_Check = Callable[[int, int], object]


def put(sftp: Sftp, local: Path, remote: str, check: _Check) -> None:
    """Copy a file there, with its mode.

    Raises:
        OSError: If that was not possible; nothing of it is there.
    """
    found = local.stat()
    mode, wanted = found.st_mode & 0o777, found.st_size
    aside = str(PurePosixPath(remote).with_name(_unused()))
    try:
        # Before anything is in it that not all may read.
        sftp.open(aside, "x").close()
        sftp.chmod(aside, mode | stat.S_IWUSR)
        sftp.put(str(local), aside, callback=check, confirm=False)
        _check_whole(sftp.stat(aside).st_size or 0, wanted)
        sftp.chmod(aside, mode)
        sftp.posix_rename(aside, remote)
    except BaseException:
        with contextlib.suppress(Exception):
            sftp.remove(aside)
        raise


def get(sftp: Sftp, remote: str, local: Path, check: _Check) -> None:
    """Copy a file here, with as much of its mode as new files have here.

    Raises:
        OSError: If that was not possible; nothing of it is here.
    """
    found = sftp.stat(remote)
    mode, wanted = (found.st_mode or 0o666) & 0o777, found.st_size or 0
    local.parent.mkdir(parents=True, exist_ok=True)
    aside = local.with_name(_unused())
    new = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(new, "wb") as file:
            _check_whole(sftp.getfo(remote, file, callback=check), wanted)
        aside.replace(local)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def say(error: Exception) -> str:
    """Say what went wrong, also where SFTP has one word for all that may."""
    said = str(error) or type(error).__name__
    if said == "Failure":
        return "it does not say why: is its disk full, or that a folder?"
    return said


def _check_whole(size: int, wanted: int) -> None:
    if size < wanted:  # it may have grown meanwhile
        raise OSError(
            f"only {size} of {wanted} bytes have come: was it cut short "
            "meanwhile, or is the disk full?"
        )


def _unused() -> str:
    """Name what is not whole yet; short, whatever it will be called."""
    return f".{uuid.uuid4().hex}.part"
