"""Pure: which machines there are, and what is run on them."""

from __future__ import annotations

import shlex
import uuid
from dataclasses import dataclass

from hermes.cloudbreak.errors import InvalidSpec

__all__ = ("GRACE", "Host", "guard", "place")

# Seconds between asking programs to end and ending them.
GRACE = 5

# What a kernel takes as one argument [bytes].
_LONGEST = 131_071

# Runs the command in a session of its own, which ends when our side of stdin
# does: at a time limit, and just so when we are killed or unreachable. What
# has left the session still has the mark in its environment.
_GUARD = f"""
exec 3<&0 </dev/null
HERMES_COMMAND=$2 setsid sh -c "$1" 3<&- &
main=$!
mark=$2
members() {{
    {{
        grep -ls "HERMES_COMMAND=$mark" /proc/[0-9]*/environ | cut -d/ -f3
        for each in /proc/[0-9]*/stat; do
            read -r found <"$each" || continue
            set -- ${{found##*) }}
            if [ "$4" = $main ] && [ "$1" != Z ]; then
                found=${{each%/stat}}
                echo "${{found#/proc/}}"
            fi
        done
    }} | sort -u
}}
(
    read -r line <&3
    trap "" TERM
    found=$(members)
    kill -TERM ${{found:--$main}}  # to each once: it may take a moment
    turn=0
    while [ $turn -lt {2 * GRACE} ] && [ "$(members)" ]; do
        sleep 0.5
        turn=$((turn + 1))
    done
    for turn in 1 2 3; do
        found=$(members)
        [ "$found" ] || break
        kill -KILL $found
        sleep 0.1
    done
) >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait $main
code=$?
kill $watch 2>/dev/null
wait $watch 2>/dev/null
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
        if self.name in {"", ".", ".."} or {*"/\0"} & {*self.name}:
            raise InvalidSpec(
                f"name={self.name!r} of a machine: give a name for a folder; "
                "what is copied from there has one"
            )
        if not self.address:
            raise InvalidSpec(
                f"address='' of {self.name}: give an address, or a name"
            )
        port: object = self.port
        if not isinstance(port, int) or not 1 <= port <= 65535:
            raise InvalidSpec(
                f"port={port!r} of {self.name}: give a port from 1 to 65535"
            )
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


def guard(command: str) -> bytes:
    """Wrap a command so that it ends, with all it began, when its stdin does.

    Raises:
        InvalidSpec: If no machine could run it: it is too long, or has a
            character that no program can be told of.
    """
    mark = uuid.uuid4().hex
    text = f"exec sh -c {shlex.quote(_GUARD)} sh {shlex.quote(command)} {mark}"
    try:
        # As names of files are read that are in no encoding.
        wrapped = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        wrapped = b"\0"
    if b"\0" in wrapped:
        raise InvalidSpec(
            "the command has a character that no program can be told of, "
            "such as NUL: leave it out, or put it into a file with `put`"
        )
    if len(wrapped) > _LONGEST:
        raise InvalidSpec(
            f"the command has {len(command)} characters, with its values; "
            f"as it is sent, {len(wrapped)} bytes, and machines take "
            f"{_LONGEST}: put it, or its input, into a file with `put`"
        )
    return wrapped


def place(host: Host) -> str:
    """Say where a machine is."""
    address = f"[{host.address}]" if ":" in host.address else host.address
    return f"{address}:{host.port}"
