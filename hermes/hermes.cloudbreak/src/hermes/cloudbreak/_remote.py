"""Pure: what is run on other machines, and what is kept of its output."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hermes.cloudbreak.errors import InvalidSpec

__all__ = ("GRACE", "Host", "Lines", "Tail", "fill", "guard", "per_host")

# Seconds between asking a program to end and ending it.
GRACE = 5

_PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)\}")

# Runs the command in a session of its own, which ends when our side of stdin
# does: at a time limit, and just so when we are killed or unreachable.
_GUARD = f"""
exec 3<&0 </dev/null
setsid sh -c "$1" 3<&- &
main=$!
(
    read -r line <&3
    trap "" TERM
    kill -TERM -$main
    sleep {GRACE}
    kill -KILL -$main
) >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait $main
code=$?
kill $watch 2>/dev/null
exit $code
"""


@dataclass(frozen=True)
class Host:
    """A machine, and how to know it again.

    Attributes:
        name: What it is called here.
        address: Where it is.
        port: Where its SSH server listens.
        keys: Its public host keys, as ``"ssh-ed25519 AAAA..."``: who has none
            of them is somebody else.
    """

    name: str
    address: str
    port: int = 22
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys: object = self.keys
        if (
            not isinstance(keys, tuple)
            or not keys
            or any(len(str(key).split()) < 2 for key in keys)
        ):
            raise InvalidSpec(
                f"keys={self.keys!r} of {self.name}: give its public host "
                'keys, as ("ssh-ed25519 AAAA...",); without one nobody could '
                "know who answers"
            )


def guard(command: str) -> str:
    """Wrap a command so that it ends when its stdin does."""
    return f"exec sh -c {shlex.quote(_GUARD)} sh {shlex.quote(command)}"


def per_host(
    values: Mapping[str, Sequence[object]], num_hosts: int
) -> list[dict[str, object]]:
    """Turn values for each host into what each host gets.

    Raises:
        InvalidSpec: If there is not one value for each host.
    """
    for name, each in values.items():
        if isinstance(each, (str, bytes)) or len(each) != num_hosts:
            raise InvalidSpec(
                f"{name}={each!r}: give a list of {num_hosts} values, one for "
                "each machine, in their order"
            )
    return [
        {name: each[index] for name, each in values.items()}
        for index in range(num_hosts)
    ]


def fill(template: str, values: Mapping[str, object], *, quote: bool) -> str:
    """Put values where their ``{names}`` stand; other braces stay.

    Args:
        template: A command for a shell, or a path.
        values: What to put there.
        quote: Whether it is for a shell.

    Raises:
        InvalidSpec: If a value has no place, or stands between quotes, where
            it could not be quoted.
    """
    places = [m for m in _PLACEHOLDER.finditer(template) if m[1] in values]
    if missing := values.keys() - {each[1] for each in places}:
        raise InvalidSpec(
            f"no place for {', '.join(sorted(missing))} in {template!r}: "
            f"write {{{min(missing)}}} where it goes"
        )
    for place in places if quote else ():
        if _inside_quotes(template[: place.start()]):
            raise InvalidSpec(
                f"{place[0]} stands between quotes in {template!r}: leave "
                "them out, values are quoted as they are put in"
            )

    def put(place: re.Match[str]) -> str:
        if place[1] not in values:
            return place[0]
        text = str(values[place[1]])
        return shlex.quote(text) if quote else text

    return _PLACEHOLDER.sub(put, template)


def _inside_quotes(text: str) -> bool:
    opened, escaped = "", False
    for letter in text:
        if escaped:
            escaped = False
        elif letter == "\\" and opened != "'":
            escaped = True
        elif opened:
            opened = "" if letter == opened else opened
        elif letter in "'\"":
            opened = letter
    return bool(opened) or escaped


class Tail:
    """The last bytes of a stream.

    Args:
        size: How many bytes are kept.

    Attributes:
        num_dropped: Bytes before them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self.num_dropped = 0

    def add(self, chunk: bytes) -> None:
        """Take what comes next."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        while (excess := self._held - self._size) > 0:
            first = self._chunks.popleft()
            if len(first) > excess:
                self._chunks.appendleft(first[excess:])
            dropped = min(excess, len(first))
            self._held -= dropped
            self.num_dropped += dropped

    @property
    def text(self) -> str:
        """What is kept."""
        return b"".join(self._chunks).decode(errors="replace")


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
