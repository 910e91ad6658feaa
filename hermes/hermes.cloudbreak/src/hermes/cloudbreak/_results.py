"""What became of something on many machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hermes.cloudbreak.errors import CommandFailed, HostError, HostsFailed

__all__ = ("Result", "complain", "raise_failures")

_TOLD = 5  # machines whose trouble is told in a message


@dataclass(frozen=True)
class Result:
    """What became of a command, or of a copy, on one machine.

    Attributes:
        host: Its name.
        stdout: What the command wrote: the end of it, if it was a lot.
        stderr: What it wrote there.
        exit_code: None where it has not ended by itself.
        duration: How long it took [s].
        error: What went wrong, if anything did.
        num_dropped: Bytes of its output that are not in here.
    """

    host: str
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    duration: float = 0.0
    error: HostError | None = None
    num_dropped: int = 0


def complain(name: str, code: int, stderr: str) -> CommandFailed:
    """Say that a command has failed, with its last line."""
    last = stderr.strip().rpartition("\n")[2][-300:]
    return CommandFailed(f"{name}: exit code {code}: {last or 'no word'}")


def raise_failures(results: Mapping[str, Result]) -> None:
    """Raise if something went wrong on some machines.

    Raises:
        HostsFailed: With all results.
    """
    failed = [each.error for each in results.values() if each.error]
    if failed:
        more = f", and {n} more" if (n := len(failed) - _TOLD) > 0 else ""
        told = "; ".join(str(each) for each in failed[:_TOLD])
        raise HostsFailed(
            f"{len(failed)} of {len(results)} machines failed: {told}{more}",
            results,
        )
