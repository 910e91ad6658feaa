"""A unit's files: written aside, then renamed, so that they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from hermes.stillwater._campaign._rows import Output, Row
from hermes.stillwater._sync import sync_folder
from hermes.stillwater.errors import ManifestUnwritable, OutputMissing

__all__ = ("Staging", "are_there", "publish")

_STOPPED = "stopped"
_BLOCK = 2**20


class Staging:
    """Where the units of one run write, beside the outputs.

    Opening it removes what earlier runs left. Their workers, wherever they
    are, may then go on writing, but can neither begin a unit nor finish one.

    Args:
        outputs: Folder of the outputs.
        name: The manifest's, for there may be several beside each other.

    Raises:
        ManifestUnwritable: If it cannot be made.
    """

    def __init__(self, outputs: Path, name: str) -> None:
        self._root = outputs / f".{name}.partial"
        self.folder = self._root / uuid.uuid4().hex
        self.close()
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            msg = (
                f"outputs cannot be written to {outputs} ({error}): give a"
                " folder of yours, or make room"
            )
            raise ManifestUnwritable(msg) from error

    def stop(self) -> None:
        """Have workers begin nothing more."""
        with contextlib.suppress(OSError):
            (self.folder / _STOPPED).touch()

    def close(self) -> None:
        """Remove it."""
        # Orphans may still be writing: what is new meanwhile is next time's.
        shutil.rmtree(self._root, ignore_errors=True)

    @staticmethod
    def is_stopped(folder: Path) -> bool:
        """Whether a worker is not to begin a unit there."""
        return (folder / _STOPPED).exists()


def are_there(outputs: Path, row: Row) -> bool:
    """Whether a unit's files are there, in their sizes."""
    for output in row.outputs:
        try:
            if (outputs / output.path).stat().st_size != output.size:
                return False
        except OSError:
            return False
    return True


def publish(staged: Path, final: Path) -> tuple[Output, ...]:
    """Bring a file or a folder from where it was written to its place.

    Both the content and the name are on the disk when this returns.

    Raises:
        OutputMissing: If nothing was written.
    """
    if not staged.exists():
        raise OutputMissing(_missing(staged))
    found = tuple(_outputs(staged, final.name))
    _replace(staged, final)
    sync_folder(final.parent)
    return found


def _outputs(staged: Path, name: str) -> Iterator[Output]:
    """Sync files and folders, and describe them as they will be."""
    if not staged.is_dir():
        yield _seal(staged, name)
        return
    for path in sorted(staged.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            relative = path.relative_to(staged).as_posix()
            yield _seal(path, f"{name}/{relative}")
    sync_folder(staged)


def _seal(path: Path, name: str) -> Output:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
        os.fsync(file.fileno())
    return Output(name, size, digest.hexdigest())


def _replace(staged: Path, final: Path) -> None:
    if staged.is_dir() or final.is_dir():
        # A folder cannot take the place of another one: the old goes first.
        # It has no row, or its row was found wrong, so nobody counts on it.
        with contextlib.suppress(FileNotFoundError):
            final.rename(staged.with_name(f"{staged.name}.replaced"))
    staged.replace(final)


def _missing(staged: Path) -> str:
    msg = f"nothing was written to the path {staged.name!r} that run() got"
    others = sorted(path.name for path in staged.parent.iterdir())
    if others:
        msg += f", but beside it: {', '.join(others[:3])}"
    return f"{msg}. Some functions add a suffix of their own: give suffix="
