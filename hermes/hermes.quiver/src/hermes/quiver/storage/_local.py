"""A repository in a directory."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from hermes.quiver.errors import (
    RepositoryNotFound,
    StorageForbidden,
    VersionExists,
)
from hermes.quiver.storage._base import CONFIG, Storage
from hermes.quiver.storage._failures import translated
from hermes.quiver.storage._location import Location
from hermes.quiver.storage._staging import stage

__all__ = ("LocalStorage",)

_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class LocalStorage(Storage):
    """A model repository in a local directory, made when it is needed.

    Everything is written beside the root and then renamed. Beyond what every
    storage promises, a new model appears whole with its configuration, also a
    version of many files appears whole, a model disappears at once, and a
    version is replaced at once where the filesystem can exchange two
    directories (those of Linux can; NFS cannot, there it is absent for a
    moment).

    Raises:
        RepositoryNotFound: If something else than a directory is there.
    """

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._directory = Path(location.path)
        if self._directory.exists() and not self._directory.is_dir():
            msg = f"{self.root} is not a directory; give one (or a new path)"
            raise RepositoryNotFound(msg)

    def check_writable(self) -> None:
        """See `Storage.check_writable`."""
        there = self._directory
        while not there.exists():
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK):
            msg = f"you may not write in {there}; give a directory of yours"
            raise StorageForbidden(msg)

    def add_version(
        self,
        model: str,
        version: int,
        files: Mapping[str, bytes],
        config: str,
        *,
        replace: bool = False,
    ) -> None:
        """See `Storage.add_version`."""

        def act(staging: Path) -> None:
            new, home = staging / model, self._directory / model
            for name, content in files.items():
                _write(new / str(version) / name, content)
            _write(new / CONFIG, config.encode())
            if not _rename(new, home):
                _add(new, home, str(version), replace=replace)

        self._stage(f"write version {version} of model {model!r}", act)

    def write_config(self, model: str, config: str) -> None:
        """See `Storage.write_config`."""

        def act(staging: Path) -> None:
            new, home = staging / model, self._directory / model
            _write(new / CONFIG, config.encode())
            if not _rename(new, home):
                (new / CONFIG).replace(home / CONFIG)

        self._stage(f"write the configuration of model {model!r}", act)

    def remove(self, model: str) -> None:
        """See `Storage.remove`."""

        def act(staging: Path) -> None:
            (self._directory / model).rename(staging / model)

        if (self._directory / model).exists():
            self._stage(f"remove model {model!r}", act)

    def remove_root(self) -> None:
        """See `Storage.remove_root`."""
        if self._directory.is_dir() and not any(self._directory.iterdir()):
            with translated(f"remove {self.root}"):
                self._directory.rmdir()

    def _stage(self, action: str, act: Callable[[Path], None]) -> None:
        with translated(f"{action} in {self.root}"):
            self._directory.mkdir(parents=True, exist_ok=True)
            stage(self._directory, act)


def _add(new: Path, home: Path, version: str, *, replace: bool) -> None:
    """Add a version and the configuration to a model that exists."""
    with ExitStack() as undo:
        if _rename(new / version, home / version):
            undo.callback((home / version).rename, new / version)
        elif replace:
            _exchange(new / version, home / version)
            undo.callback(_exchange, new / version, home / version)
        else:
            raise VersionExists(_exists(home / version))
        # Triton loads a model again when its configuration is touched.
        if not _same(new / CONFIG, home / CONFIG):
            (new / CONFIG).replace(home / CONFIG)
        undo.pop_all()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _rename(source: Path, target: Path) -> bool:
    """Rename a directory; False if the target is there."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        return False
    return True


def _exchange(one: Path, other: Path) -> None:
    """Exchange two directories, at once where that is possible."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    if rename is not None and not rename(
        _AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE
    ):
        return
    between = one.with_name(f"{one.name}-replaced")
    other.rename(between)
    try:
        one.rename(other)
    except BaseException:
        between.rename(other)
        raise
    between.rename(one)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _exists(target: Path) -> str:
    return (
        f"version {target.name} of model {target.parent.name!r} exists"
        f" already ({target}); leave version=None for the next free one"
    )
