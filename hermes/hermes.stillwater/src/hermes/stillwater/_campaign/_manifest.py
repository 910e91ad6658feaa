"""The file of a manifest: one process writes it, line by line.

The lock is the kernel's, on the file itself: it goes with the process, and
nothing is left behind to be removed by hand.
"""

from __future__ import annotations

import fcntl
import logging
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from hermes.stillwater._campaign import _rows
from hermes.stillwater._campaign._rows import Header, Row
from hermes.stillwater.errors import (
    CampaignRunning,
    ManifestUnusable,
    ManifestUnwritable,
)

__all__ = ("Manifest", "look")

_logger = logging.getLogger(__name__)
_open: weakref.WeakSet[Manifest] = weakref.WeakSet()


class Manifest:
    """A manifest that is ours to write.

    Args:
        path: The file; made if it is not there.
        header: Ours.
        units: Digests of the campaign's units.

    Attributes:
        last: The last row of each unit.

    Raises:
        CampaignRunning: If another process has it.
        ManifestUnusable: If it is another campaign's, or damaged.
        ManifestUnwritable: If the file cannot be made or opened.
    """

    def __init__(
        self, path: Path, header: Header, units: Mapping[str, str]
    ) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise ManifestUnwritable(_advice(path, error)) from error
        try:
            self._lock()
            self.last = self._begin(header, units)
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows; they are on the disk when this returns.

        Raises:
            ManifestUnwritable: If they cannot be written.
        """
        rows = tuple(rows)
        if rows:
            self._write(b"".join(map(_rows.write, rows)))
            self.last |= _rows.latest(rows)

    def close(self) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = (
                f"{self._path} is being written by another process: wait for"
                " that campaign, stop it, or give another manifest"
            )
            raise CampaignRunning(msg) from error
        except OSError as error:  # a file system that has no locks
            _logger.warning(
                "%s cannot be locked (%s): see to it yourself that no other"
                " campaign writes to it",
                self._path,
                error,
            )

    def _begin(
        self, header: Header, units: Mapping[str, str]
    ) -> dict[str, Row]:
        content = _read(self._path)
        found, last, size = _understand(self._path, content, header, units)
        if size < len(content):
            _logger.warning("%s was torn, and is cut at its end", self._path)
            os.ftruncate(self._descriptor, size)
        if found is None:
            self._write(_rows.write(header))
            self._sync_folder()
        return last

    def _write(self, content: bytes) -> None:
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise ManifestUnwritable(_advice(self._path, error)) from error

    def _sync_folder(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def look(
    path: Path, header: Header, units: Mapping[str, str]
) -> dict[str, Row]:
    """Read a manifest that others may be writing.

    Returns:
        The last row of each unit; none where there is no manifest.

    Raises:
        ManifestUnusable: If it is another campaign's, or damaged.
    """
    if not path.exists():
        return {}
    return _understand(path, _read(path), header, units)[1]


def _understand(
    path: Path, content: bytes, header: Header, units: Mapping[str, str]
) -> tuple[Header | None, dict[str, Row], int]:
    try:
        found, rows, size = _rows.read(content)
        last = _rows.latest(rows)
        if found is not None:
            _rows.check(found, header, last, units)
    except ManifestUnusable as error:
        msg = (
            f"{path} is not this campaign's manifest: {error}. Give another"
            " path, or the units and the function that it is of"
        )
        raise ManifestUnusable(msg) from error
    return found, last, size


def _read(path: Path) -> bytes:
    if not path.is_file():  # a device would never end
        msg = f"{path} is no file: give the path of one, or of a new one"
        raise ManifestUnusable(msg)
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read ({error}): give a file of yours"
        raise ManifestUnusable(msg) from error


def _advice(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be written ({error}): make room, or give a path in a"
        " folder of yours; what is in it is safe"
    )


def _close_in_child() -> None:
    # A child that was forked would hold the lock for as long as it lives.
    for manifest in list(_open):
        manifest.close()


os.register_at_fork(after_in_child=_close_in_child)
