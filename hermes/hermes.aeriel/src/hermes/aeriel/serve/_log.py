"""The server's output, in the user's file or in one that has no name."""

import os
import tempfile
from pathlib import Path
from typing import IO

from hermes.aeriel.errors import InvalidServeOption

__all__ = ("Log",)


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        return Path(path).open("ab+")
    except OSError as error:
        raise InvalidServeOption(
            f"log_file={os.fspath(path)!r} cannot be written: {error}"
        ) from error


class Log:
    """Where the server writes, and we read.

    Args:
        path: The user's file, to which the server appends; None for a file
            without a name, which is gone when nobody has it open.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.file: IO[bytes]
        if path is None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115
        else:
            self.file = _open(path)
        self._begin = os.fstat(self.file.fileno()).st_size
        self._seen = self._begin

    def begin_again(self) -> None:
        """Forget what was written, for another server writes from now on."""
        self._begin = self._seen = os.fstat(self.file.fileno()).st_size

    def read(self) -> str:
        """Return everything that this server wrote."""
        return self._read(self._begin).decode("utf-8", "replace")

    def read_new(self) -> str:
        """Return the lines that were finished since the last call."""
        content = self._read(self._seen)
        finished = content[: content.rfind(b"\n") + 1]
        self._seen += len(finished)
        return finished.decode("utf-8", "replace")

    def _read(self, begin: int) -> bytes:
        # Not file.read(): the server writes at the same file position.
        descriptor = self.file.fileno()
        size = max(os.fstat(descriptor).st_size - begin, 0)
        return os.pread(descriptor, size, begin)

    def close(self) -> None:
        """Forget the file."""
        self.file.close()
