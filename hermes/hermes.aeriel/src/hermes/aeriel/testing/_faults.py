"""What can go wrong, as values; and which request it hits.

Fault
├── CloseStream   the stream ends, as if all were well
├── Drop          every connection is reset
├── Duplicate     the answer comes twice
├── Expire        the server forgets sequences
├── Fail          the request is answered with an error
├── Freeze        the server does nothing for a while
├── Garble        the answer is not what the model says
├── Kill          the server is gone until it is restarted
├── Lose          the answer never comes
├── Restart       the server is another one, which knows nothing
├── Slow          the answer takes longer
└── Swap          the answer comes after the next one
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from hermes.aeriel.testing._errors import InvalidFake

__all__ = (
    "CloseStream",
    "Drop",
    "Duplicate",
    "Expire",
    "Fail",
    "Fault",
    "Freeze",
    "Garble",
    "Kill",
    "Lose",
    "Restart",
    "Schedule",
    "Slow",
    "Swap",
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Base of all faults.

    Args:
        at: The request that it hits: the first since the fault was given to
            the server is 1.
        model: Count only requests to this model.
        num: How many requests it hits, one after another; None for all.

    Raises:
        InvalidFake: If it could hit no request.
    """

    at: int = 1
    model: str | None = None
    num: int | None = 1

    def __post_init__(self) -> None:
        if self.at < 1 or (self.num is not None and self.num < 1):
            raise InvalidFake(f"{self} hits no request: they count from 1")


@dataclass(frozen=True)
class CloseStream(Fault):
    """End the request's stream with no answer and no error.

    Requests behind it on the stream are not read. A request that is alone
    (unary) is refused as cancelled.
    """


@dataclass(frozen=True)
class Drop(Fault):
    """Reset all connections; the request is not seen by the model.

    What was answered before has left the server.
    """


@dataclass(frozen=True)
class Duplicate(Fault):
    """Answer twice; only on a stream."""


@dataclass(frozen=True)
class Expire(Fault):
    """Forget sequences before the request, as an idle timeout does.

    Args:
        sequence_id: The one to forget; None for all.
    """

    sequence_id: int | None = None


@dataclass(frozen=True)
class Fail(Fault):
    """Answer with an error; the model does not see the request.

    Args:
        message: What the server says.
        with_id: Whether it says of which request.
    """

    message: str = "the fake was told to fail"
    with_id: bool = True


@dataclass(frozen=True)
class Freeze(Fault):
    """Read nothing and answer nothing, as a process that is stopped.

    What was answered before has left the server. Clients can still connect
    and send, until buffers are full.

    Args:
        seconds: How long; None until `FakeTriton.thaw` is called.
    """

    seconds: float | None = None


@dataclass(frozen=True)
class Garble(Fault):
    """Answer with something else than the model gave.

    Args:
        outputs: Arrays by name, of any shape and dtype. None cuts the bytes
            of each output in half, so that they do not fill its shape.
    """

    outputs: Mapping[str, npt.NDArray[Any]] | None = None


@dataclass(frozen=True)
class Kill(Fault):
    """Be gone: `FakeTriton.kill`, with no answer to the request."""


@dataclass(frozen=True)
class Lose(Fault):
    """Never answer; the model has seen the request."""


@dataclass(frozen=True)
class Restart(Fault):
    """Be another server at once: `FakeTriton.restart`, with no answer."""


@dataclass(frozen=True)
class Slow(Fault):
    """Take longer for each answer; those behind it on its stream wait too.

    Args:
        seconds: How much longer.
        num: How many requests it hits; all by default.
    """

    seconds: float = 0.0
    num: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Swap(Fault):
    """Answer after the next request on the stream has been answered."""


class Schedule:
    """Faults that are still to come. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # each with the requests that it has counted
        self._armed: list[tuple[Fault, int]] = []

    def add(self, *faults: Fault) -> None:
        """Let them count from the next request on."""
        with self._lock:
            self._armed += [(fault, 0) for fault in faults]

    def clear(self) -> None:
        """Forget them."""
        with self._lock:
            self._armed.clear()

    @property
    def pending(self) -> tuple[Fault, ...]:
        """Those that may still hit a request."""
        with self._lock:
            return tuple(fault for fault, _ in self._armed)

    def due(self, model: str) -> list[Fault]:
        """Count a request, and say what hits it."""
        with self._lock:
            counted = [
                (fault, seen + (fault.model in {None, model}))
                for fault, seen in self._armed
            ]
            self._armed = [
                (fault, seen)
                for fault, seen in counted
                if fault.num is None or seen < fault.at + fault.num - 1
            ]
            return [
                fault
                for fault, seen in counted
                if seen >= fault.at and fault.model in {None, model}
            ]
