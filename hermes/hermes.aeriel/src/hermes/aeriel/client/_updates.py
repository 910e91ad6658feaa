"""The updates of a sequence, and how they are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hermes.aeriel._transport import Parameter, Response
from hermes.aeriel.client._inflight import Pending
from hermes.aeriel.client._requests import Arrays
from hermes.aeriel.errors import ClientError

__all__ = ("Owner", "Policy", "Update")


class Owner(Protocol):
    """Who is told what becomes of an update, before its Future is."""

    def answered(self, update: Update) -> None:
        """Its answer has come."""

    def failed(self, update: Update, error: ClientError) -> None:
        """It ends with an error."""


@dataclass(frozen=True)
class Policy:
    """How a sequence is sent.

    Attributes:
        max_in_flight: Updates that wait for their answers at most.
        replay: Whether to recover from the loss of the server's state.
        stall_timeout: Seconds without an answer after which the server is
            given up; None to wait for as long as the updates may take.
        wire_id: The correlation ID.
        keeps_id: Whether that is so after a recovery too, since the model
            reads it; else it is a new one.
        outputs: Names of the outputs to ask for; empty for all.
        parameters: Parameters of each request.
    """

    max_in_flight: int
    replay: bool
    wire_id: int
    keeps_id: bool = False
    stall_timeout: float | None = None
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(slots=True, eq=False, kw_only=True)
class Update(Pending):
    """One update of a sequence, until it is answered and forgotten.

    Attributes:
        id: The request's id on the wire, the same in each replay.
        index: Its position in the sequence.
        tensors: What is sent.
        is_end: Whether it is the last.
        predictions: How many of its predictions are real; None for all.
        convert: Makes the Future's result of the response.
        sent: When it was sent for the last time, on the monotonic clock.
        is_done: Whether its answer has come.
    """

    id: str
    index: int
    tensors: Arrays
    is_end: bool
    predictions: int | None
    convert: Callable[[Update, Response], Any]
    group: Owner
    sent: float = 0.0
    is_done: bool = False

    def result(self, response: Response) -> Any:
        """See `Pending.result`."""
        self.group.answered(self)
        convert = self.convert
        # Kept for a replay, it must not keep the sequence that made it.
        del self.convert
        return convert(self, response)

    def failing(self, error: ClientError) -> None:
        """See `Pending.failing`."""
        self.group.failed(self, error)
