"""From what users give to what is watched; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hermes.aeriel.errors import InvalidMonitorOption
from hermes.aeriel.monitor._polling import Pace
from hermes.aeriel.monitor._targets import Address, find_targets
from hermes.aeriel.monitor._watch import Subject

__all__ = ("make_subject",)

_TIMEOUT = 5.0


def make_subject(
    model_name: str | None,
    ips: Address | Iterable[Address],
    *,
    model_version: int | None,
    max_request_rate: float,
    rate: float | None,
    grpc_port: int,
    metrics_port: int,
    grace: float,
) -> Subject:
    """What is watched, and how; the arguments are `ServerMonitor`'s.

    Raises:
        InvalidMonitorOption: If one of them has a value that cannot work.
    """
    shortest = 1 / _positive("max_request_rate", max_request_rate)
    interval = shortest if rate is None else 1 / _positive("rate", rate)
    grace = _positive("grace", grace)
    return Subject(
        targets=find_targets(ips, grpc_port, metrics_port),
        model=_name(model_name),
        version=_version(model_version),
        pace=Pace(max(interval, shortest), shortest, min(_TIMEOUT, grace)),
        grace=grace,
    )


def _name(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    msg = f"model_name must be the name of a model, got {value!r}"
    raise InvalidMonitorOption(msg)


def _version(value: object) -> int | None:
    if value in {None, -1}:
        return None
    if not isinstance(value, int) or value < 1:
        msg = (
            "model_version must be a version, or -1 for all of them, got"
            f" {value!r}"
        )
        raise InvalidMonitorOption(msg)
    return value


def _positive(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        msg = f"{name} must be a number above 0, got {value!r}"
        raise InvalidMonitorOption(msg)
    return value
