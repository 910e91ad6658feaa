"""What of a campaign is done, has failed, and is to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hermes.stillwater._campaign._rows import DONE, FAILED, LOST, Row

__all__ = ("Standing", "stand")


@dataclass
class Standing:
    """How units stand.

    Attributes:
        done: Those whose outputs are there.
        failed: The last rows of those that are given up.
        todo: The others, in order.
        attempts: How often those were tried.
        suspects: Those that may have killed a worker.
    """

    done: set[str] = field(default_factory=set)
    failed: dict[str, Row] = field(default_factory=dict)
    todo: list[str] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)


def stand(
    keys: Iterable[str],
    last: Mapping[str, Row],
    is_good: Callable[[Row], bool],
    *,
    retry_failed: bool = False,
) -> Standing:
    """See how units stand.

    Args:
        keys: Of the units, in order.
        last: The last row of each unit that has any.
        is_good: Whether the outputs of a row are there.
        retry_failed: Do those again that have failed, as if they had not.
    """
    found = Standing()
    for key in keys:
        row = last.get(key)
        if row is not None and row.status == DONE and is_good(row):
            found.done.add(key)
        elif row is not None and row.status == FAILED and not retry_failed:
            found.failed[key] = row
        else:
            found.todo.append(key)
            if row is not None and row.status not in {DONE, FAILED}:
                found.attempts[key] = row.attempt
            if row is not None and row.status == LOST:
                found.suspects.add(key)
    return found
