"""What the caller may not ask for; each raises `InvalidRequest`."""

from __future__ import annotations

import numpy as np

from hermes.aeriel.client._link import MAX_SEQUENCE_ID
from hermes.aeriel.errors import InvalidRequest
from hermes.aeriel.specs import ModelSpec

__all__ = (
    "check_max_in_flight",
    "check_numbers",
    "check_seconds",
    "check_sequence",
)

# The kernel's clocks take no more than some hundred years.
_LONGEST = 1e9


def check_numbers(model_version: object, batch_size: object) -> None:
    """Refuse what is no version, or no number of rows."""
    if not _is_whole(model_version):
        msg = f"model_version={model_version!r} is no whole number"
        raise InvalidRequest(msg)
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        msg = f"batch_size={batch_size!r} is no whole number from 1"
        raise InvalidRequest(msg)


def check_seconds(**limits: object) -> None:
    """Refuse limits of time that are none."""
    for name, seconds in limits.items():
        is_number = isinstance(seconds, int | float | np.number)
        if not is_number or not 0 < float(seconds) <= _LONGEST:  # type: ignore[arg-type]
            msg = (
                f"{name}={seconds!r} is no number of seconds between 0 and"
                f" {_LONGEST:g}"
            )
            raise InvalidRequest(msg)


def check_max_in_flight(number: object) -> None:
    """Refuse what is no number of updates."""
    if not _is_whole(number) or number < 1:  # type: ignore[operator]
        msg = f"max_in_flight={number!r} is not at least 1"
        raise InvalidRequest(msg)


def check_sequence(spec: ModelSpec, sequence_id: int | None) -> None:
    """Refuse what is no sequence's id, or none where one is needed."""
    if sequence_id is None and spec.is_stateful:
        msg = (
            f"model {spec.name!r} keeps state between requests: send them"
            " through client.sequence(), or give a sequence_id"
        )
        raise InvalidRequest(msg)
    if sequence_id is None or (sequence_id == 0 and not spec.is_stateful):
        return
    if not _is_whole(sequence_id) or not 1 <= sequence_id <= MAX_SEQUENCE_ID:
        msg = (
            f"sequence_id={sequence_id!r} is no whole number between 1 and"
            " 2**63 - 1 (to Triton 0 means no sequence)"
        )
        raise InvalidRequest(msg)


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(
        number, bool
    )
