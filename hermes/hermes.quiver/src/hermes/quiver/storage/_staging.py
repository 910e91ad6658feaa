"""Directories in which something is made before it is renamed into place.

Triton takes every directory in a repository's root for a model, a hidden one
too, and one that it cannot load makes the whole server unready; a change of
anything below a model's directory makes it load the model again. So staging
happens outside of the root where possible.

Renaming needs one filesystem, so "outside" is the directory beside the root.
Where that may not be written, or is another filesystem, there is no other
place than the root itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

__all__ = ("stage",)

T = TypeVar("T")

_ELSEWHERE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV}


def stage(root: Path, act: Callable[[Path], T]) -> T:
    """Call ``act`` with an empty directory from which it can rename.

    The directory is removed afterwards, with all that is left in it. One
    whose process was killed is removed by the next call.
    """
    prefix = f".{root.name}.hermes-"
    try:
        with _directory(root.parent, prefix) as staging:
            return act(staging)
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
    with _directory(root, prefix) as staging:
        return act(staging)


@contextlib.contextmanager
def _directory(parent: Path, prefix: str) -> Iterator[Path]:
    _sweep(parent, prefix)
    path, descriptor = _make(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new directory and the lock that tells others that it is in use."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Until it is locked another process may sweep it away.
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        # Some network filesystems lock no directories: nobody sweeps there.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _sweep(parent: Path, prefix: str) -> None:
    for path in list(parent.iterdir()):
        if path.name.startswith(prefix):
            with contextlib.suppress(OSError):
                _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(descriptor)
