"""The seam between the client and the wire.

Everything that the client asks of a server goes through `Transport`, in
terms of numpy and of the classes here; errors cross it as those of
`hermes.aeriel.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from hermes.aeriel.errors import ClientError

__all__ = ("Connection", "Parameter", "Request", "Response", "Transport")

Parameter = bool | int | float | str


@dataclass(frozen=True)
class Request:
    """One inference request.

    Attributes:
        model_name: Name of the model.
        model_version: Its version; None is the latest.
        id: Identifies the response; chosen by the client, unique among the
            requests in flight.
        inputs: Tensors by name; BF16 as two raw bytes each (dtype ``V2``).
        sequence_id: The sequence it belongs to; 0 means none.
        sequence_start: Whether it is the sequence's first.
        sequence_end: Whether it is the sequence's last.
        outputs: Names of the outputs to answer with; empty for all.
        parameters: More parameters for the model, by name.
    """

    model_name: str
    model_version: int | None
    id: str
    inputs: Mapping[str, npt.NDArray[Any]]
    sequence_id: int = 0
    sequence_start: bool = False
    sequence_end: bool = False
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """The answer to one request.

    Attributes:
        id: The request's; empty if the server did not say.
        outputs: Tensors by name.
        error: The server's message; None if all went well.
    """

    id: str
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    error: str | None = None


class Connection(Protocol):
    """A stream of requests in order, answered in order.

    One that the server cannot answer yet holds up those behind it.
    """

    def send(self, request: Request) -> None:
        """Send a request; returns before it is on the wire.

        Raises:
            StreamBroken: If the stream has ended.
        """

    def finish(self) -> None:
        """Let the stream end once the server has answered what was sent.

        Does not wait; may be called from ``on_response``.
        """

    def close(self, timeout: float) -> None:
        """End the stream; returns within about ``timeout`` seconds.

        What was sent is still written and answered within that time.
        """


class Transport(Protocol):
    """A way to one server. Its methods may be called from any thread."""

    def model_config(
        self, name: str, version: int | None, timeout: float
    ) -> Mapping[str, Any]:
        """Triton's ``ModelConfig`` as a mapping.

        Raises:
            ServerUnavailable: If nothing answers at the address.
            DeadlineExceeded: If the server does not answer in time.
            ModelNotFound: If the server has no such model ready.
        """

    def load_model(self, name: str, timeout: float) -> None:
        """Have the server load a model, and what it runs.

        Raises:
            ServerUnavailable: If nothing answers at the address.
            DeadlineExceeded: If the model is not loaded in time.
            ModelNotFound: If the server cannot or may not load it; with what
                it said as ``server_message``.
        """

    def connect(
        self,
        on_response: Callable[[Response], None],
        on_end: Callable[[ClientError | None], None],
    ) -> Connection:
        """Open a stream; returns at once, and connects anew if need be.

        Args:
            on_response: Called with each answer, one at a time, from a
                thread of the transport's.
            on_end: Called once, after the last answer, with the reason if
                it was not this end that wanted it.
        """

    def close(self) -> None:
        """Release the connection to the server."""
