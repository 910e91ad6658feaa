"""What servers leave in ``/dev/shm`` when nothing of them was left to tidy up.

A lifeline removes its server's entries. One that is killed together with its
server and its owner, as batch systems do at the end of a job's time, cannot:
the next server does it. A locked file beside the entries says that their owner
lives, to every process on the node, whatever container it is in.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

__all__ = ("hold", "sweep")

SHM = Path("/dev/shm")  # noqa: S108
_LOCK = "lock"
_SECONDS = 60.0


def hold(prefix: str, folder: Path = SHM) -> Callable[[], None]:
    """Say that the entries of a prefix are in use, for as long as we live.

    Args:
        prefix: How their names begin.
        folder: Where they are.

    Returns:
        What to call when they are not in use any more.
    """
    lock = folder / f"{prefix}{_LOCK}"
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    try:
        descriptor = os.open(lock, flags, 0o600)
    except OSError:
        return lambda: None
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # The file stays, for as long as there is anything that it tells of.
    return partial(os.close, descriptor)


def sweep(kind: str, folder: Path = SHM, age: float = _SECONDS) -> None:
    """Remove our own entries that are nobody's any more.

    Args:
        kind: How their prefixes begin.
        folder: Where they are.
        age: Seconds since their server's start that they have to be old.
    """
    with contextlib.suppress(OSError):
        for lock in list(folder.glob(f"{kind}*_{_LOCK}")):
            with contextlib.suppress(OSError):
                if _is_abandoned(lock, age):
                    _remove(lock)


def _is_abandoned(lock: Path, age: float) -> bool:
    status = lock.stat()
    if status.st_uid != os.geteuid() or status.st_mtime > time.time() - age:
        return False
    with _opened(lock) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _remove(lock: Path) -> None:
    prefix = lock.name.removesuffix(_LOCK)
    for entry in list(lock.parent.glob(f"{prefix}*")):
        entry.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
