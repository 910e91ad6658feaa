"""Delete what nobody will: what has passed its deadline, or lost its owner."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.labels import OWNER, Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key, Observed
from hermes.cloudbreak.waiting import Clock

__all__ = ("delete", "expired", "reap")


def expired(
    observed: Iterable[Observed], today: float, older_than: float | None = None
) -> list[Observed]:
    """Tell what may be deleted.

    Args:
        observed: Resources of a cloud.
        today: The time, in seconds since 1970.
        older_than: Also what was created more than so many seconds ago,
            whatever its deadline is.

    Returns:
        Those of them that carry a `Stamp` whose deadline has passed, or that
        are too old; who does not say when it was created is not old. Never
        one without a stamp: that is somebody else's.
    """
    return [
        each
        for each in observed
        if (stamp := Stamp.read(each.labels)) is not None
        and (
            stamp.deadline <= today
            or (
                older_than is not None
                and 0 < each.created <= today - older_than
            )
        )
    ]


def reap(
    cloud: Cloud,
    owner: str | None = None,
    *,
    older_than: float | None = None,
    dry_run: bool = False,
    timeout: float = 1200.0,
    clock: Clock | None = None,
) -> list[Key]:
    """Delete expired resources, and wait until they are gone.

    Args:
        cloud: The cloud.
        owner: Whose; None for everybody's.
        older_than: See `expired`.
        dry_run: Whether to tell only.
        timeout: Seconds until they have to be gone.
        clock: The time.

    Returns:
        Which.

    Raises:
        StillThere: If they are not gone in time; it names them.
        CloudError: If the cloud refuses to say what there is.
    """
    clock = clock or Clock()
    found = expired(cloud.observe(owner), clock.today(), older_than)
    if not dry_run:
        delete(cloud, found, timeout=timeout, clock=clock)
    return sorted((each.key for each in found), key=str)


def delete(
    cloud: Cloud,
    found: Iterable[Observed],
    *,
    timeout: float = 1200.0,
    clock: Clock | None = None,
    report: Callable[[Mapping[Key, str]], object] | None = None,
) -> None:
    """Delete what was found, and nothing else that has its name by then.

    Args:
        cloud: The cloud.
        found: What it has observed.
        timeout: Seconds until all has to be gone.
        clock: The time.
        report: Called with what is waited for, whenever that has changed.

    Raises:
        StillThere: If it is not gone in time; it names what is left.
    """
    clock = clock or Clock()
    deadline = clock.now() + timeout
    with contextlib.ExitStack() as stack:  # all are tried
        for each in _by_name(found):
            stack.callback(_delete, cloud, each, deadline, clock, report)


def _by_name(found: Iterable[Observed]) -> list[dict[Key, Observed]]:
    """Sort what was found so that no name is twice in a group."""
    groups: list[dict[Key, Observed]] = []
    for each in found:
        group = next((g for g in groups if each.key not in g), None)
        if group is None:
            groups.append(group := {})
        group[each.key] = each
    return groups


def _delete(
    cloud: Cloud,
    doomed: Mapping[Key, Observed],
    deadline: float,
    clock: Clock,
    report: Callable[[Mapping[Key, str]], object] | None,
) -> None:
    owners = {each.labels[OWNER] for each in doomed.values()}

    def is_ours(found: Observed) -> bool:
        # Not the name alone: it may be another's by the time that it is free.
        known = doomed.get(found.key)
        return known is not None and (known.labels, known.created) == (
            found.labels,
            found.created,
        )

    Reconciler(
        cloud,
        owner=owners.pop() if len(owners) == 1 else None,
        is_ours=is_ours,
        clock=clock,
        report=report,
    ).take_down(doomed, max(0.0, deadline - clock.now()))
