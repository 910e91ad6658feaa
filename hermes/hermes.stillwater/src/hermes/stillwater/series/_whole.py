"""Files that appear whole or not at all.

What is written goes to a temporary file beside the target, which gets the
target's name when it is complete. The writer holds a lock on it. A temporary
file without one was left by a process that was killed; the next writer of the
same target removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from pathlib import Path

from hermes.stillwater._sync import sync_folder
from hermes.stillwater.errors import SinkUnwritable

__all__ = ("WholeFile", "check_target", "sweep")


class WholeFile:
    """A file that is being written.

    Args:
        target: What it will be called.
        overwrite: Whether it may replace another file.

    Attributes:
        temporary: What it is called until then.

    Raises:
        SinkUnwritable: If it cannot be written.
    """

    def __init__(self, target: Path, overwrite: bool) -> None:
        check_target(target, overwrite)
        self._target = target
        self._overwrite = overwrite
        try:
            sweep(glob.escape(str(target)))
            self.temporary, self._lock = _make(target)
        except OSError as error:
            raise SinkUnwritable(_refused(target, error)) from error

    def commit(self) -> None:
        """Give it its name; afterwards it is on the disk.

        Raises:
            SinkUnwritable: If that fails.
        """
        try:
            os.fsync(self._lock)
            self._rename()
            sync_folder(self._target.parent)
        except OSError as error:
            raise SinkUnwritable(_refused(self._target, error)) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written, unless it has its name."""
        if self._lock < 0:
            return
        self.temporary.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def _rename(self) -> None:
        if self._overwrite:
            self.temporary.replace(self._target)
            return
        try:
            # Unlike a rename it never replaces what another has written.
            os.link(self.temporary, self._target)
        except FileExistsError:
            raise SinkUnwritable(_exists(self._target)) from None
        except OSError:  # a file system without links
            check_target(self._target, overwrite=False)
            self.temporary.replace(self._target)


def check_target(target: Path, overwrite: bool) -> None:
    """Make sure that a file can be written.

    Raises:
        SinkUnwritable: If not, or if it is there and must not be replaced.
    """
    if target.is_dir():
        msg = f"{target} is a folder: give the path of a file in it"
        raise SinkUnwritable(msg)
    if target.exists() and not overwrite:
        raise SinkUnwritable(_exists(target))
    if not target.parent.is_dir():
        msg = f"{target} cannot be written: make the folder {target.parent}"
        raise SinkUnwritable(msg)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        msg = (
            f"{target} cannot be written: you may not write to the folder"
            f" {target.parent}; give another path"
        )
        raise SinkUnwritable(msg)


def _make(target: Path) -> tuple[Path, int]:
    """Make a temporary file and lock it."""
    while True:
        name = f".{target.name}.{secrets.token_hex(8)}.partial"
        temporary = target.with_name(name)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        lock = os.open(temporary, flags, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # It may have been swept between these two lines.
        if os.fstat(lock).st_nlink:
            return temporary, lock
        os.close(lock)


def sweep(pattern: str) -> None:
    """Remove what killed writers left.

    Args:
        pattern: Their targets, with wildcards as `glob` has them.
    """
    targets = Path(pattern)
    hidden = f".{targets.name}.{'[0-9a-f]' * 16}.partial"
    # pathlib has wildcards for one name only
    for path in glob.iglob(str(targets.with_name(hidden))):  # noqa: PTH207
        _remove_unlocked(Path(path))


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # somebody is writing it
        finally:
            os.close(lock)


def _exists(target: Path) -> str:
    return (
        f"{target} is there already: remove it, give another path, or say"
        " overwrite=True"
    )


def _refused(target: Path, error: OSError) -> str:
    return f"{target} cannot be written: {error.strerror or error}"
