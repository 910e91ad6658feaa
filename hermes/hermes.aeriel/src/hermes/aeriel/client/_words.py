"""Triton's words for what the client has to tell apart; pure.

Triton's errors on a stream have no codes that would, so it takes their texts.
"""

from __future__ import annotations

from hermes.aeriel.errors import (
    ClientError,
    InferenceError,
    SequenceLost,
    ServerUnavailable,
)

__all__ = ("explain", "explain_loss", "is_lost", "is_stopping")

# To a request of a sequence that the server does not know: it idled for
# longer than max_sequence_idle_microseconds, or the server is another one.
_FORGOTTEN = "must specify the START flag"
# While the server shuts down, or unloads the model.
_STOPPING = "Server is stopping"


def is_lost(said: str) -> bool:
    """Whether the sequence has lost its state, whoever's fault it is."""
    return _FORGOTTEN in said or _STOPPING in said


def is_stopping(said: str) -> bool:
    """Whether the server, or the model there, is on its way out."""
    return _STOPPING in said


def explain(said: str) -> ClientError:
    """The error for what the server said to a request."""
    if _STOPPING in said:
        msg = f"the server is stopping, or unloads the model ({said})"
        return ServerUnavailable(msg, server_message=said)
    return InferenceError(said, server_message=said)


def explain_loss(said: str) -> ClientError:
    """The error for what the server said to an update of a sequence."""
    if _FORGOTTEN in said:
        msg = (
            "the server does not know the sequence any more: it idled for"
            " longer than the model's max_sequence_idle_microseconds, or the"
            f" server was restarted ({said})"
        )
        return SequenceLost(msg, server_message=said)
    return explain(said)
