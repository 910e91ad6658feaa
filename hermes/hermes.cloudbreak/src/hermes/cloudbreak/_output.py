"""What is kept, and told, of the output of a command."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ("Lines", "Output", "Tail", "Teller")


class Tail:
    """The last bytes of a stream.

    Args:
        size: How many bytes are kept.

    Attributes:
        num_dropped: Bytes before them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = bytearray()
        self.num_dropped = 0

    def add(self, chunk: bytes) -> None:
        """Take what comes next."""
        self._kept += chunk
        if (excess := len(self._kept) - self._size) > 0:
            del self._kept[:excess]
            self.num_dropped += excess

    @property
    def text(self) -> str:
        """What is kept."""
        return self._kept.decode(errors="replace")


class Lines:
    """Cuts a stream into lines.

    Args:
        longest: Bytes after which a line is cut.
    """

    def __init__(self, longest: int = 65536) -> None:
        self._longest = longest
        self._rest = b""

    def add(self, chunk: bytes) -> list[str]:
        """Give the lines that a chunk has completed."""
        *whole, rest = (self._rest + chunk).split(b"\n")
        while len(rest) > self._longest:
            whole.append(rest[: self._longest])
            rest = rest[self._longest :]
        self._rest = rest
        return [each.decode(errors="replace") for each in whole]

    def end(self) -> list[str]:
        """Give what is left."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


class Teller:
    """Hands lines to somebody, who hears of one machine at a time."""

    def __init__(
        self,
        name: str,
        on_line: Callable[[str, str], object],
        lock: threading.Lock,
    ) -> None:
        self._name, self._on_line, self._lock = name, on_line, lock
        self._lines = {"stdout": Lines(), "stderr": Lines()}

    def take(self, stream: str, chunk: bytes) -> None:
        """Take what comes next of a stream."""
        self._tell(self._lines[stream].add(chunk))

    def end(self) -> None:
        """Tell what no line has ended."""
        for each in self._lines.values():
            self._tell(each.end())

    def _tell(self, lines: list[str]) -> None:
        with self._lock:
            for line in lines:
                self._on_line(self._name, line)


class Output:
    """What is kept of the output of one command.

    Args:
        keep: Bytes of each stream.
        teller: Who is told of it as it comes.
    """

    def __init__(self, keep: int, teller: Teller | None) -> None:
        self._tails = {"stdout": Tail(keep), "stderr": Tail(keep)}
        self._teller = teller

    def take(self, stream: str, chunk: bytes) -> None:
        """Take what comes next of a stream."""
        self._tails[stream].add(chunk)
        if self._teller is not None:
            self._teller.take(stream, chunk)

    def text(self, stream: str) -> str:
        """Give what is kept of a stream."""
        return self._tails[stream].text

    def end(self) -> int:
        """Tell what was not told; give how many bytes are not kept."""
        if self._teller is not None:
            self._teller.end()
        return sum(each.num_dropped for each in self._tails.values())
