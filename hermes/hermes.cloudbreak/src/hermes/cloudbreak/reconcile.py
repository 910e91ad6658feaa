"""What to do next, decided without a cloud.

Three sets: what is wanted, what was asked for, what is there. A program that
remembers only what it was answered leaks what was created while the answer
got lost; so what was *asked for* counts as ours from before the request is
sent until the cloud has long been silent about it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hermes.cloudbreak._settings import differences, say_changes
from hermes.cloudbreak.specs import Cause, Key, Observed, Spec, State

__all__ = (
    "Action",
    "Create",
    "Delete",
    "Fail",
    "Move",
    "Request",
    "Update",
    "diff",
    "leftovers",
    "unready",
)

# A request may take effect for so long after it was sent.
SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class Request:
    """That a resource was asked for.

    Attributes:
        sent: When, by the clock of those who decide [s].
        answered: Whether the cloud has said that it took the request.
        seen: Whether the resource was ever there.
        was_ready: Whether it was ever ready.
        updated: What the cloud has last agreed to change it to.
    """

    sent: float
    answered: bool = False
    seen: bool = False
    was_ready: bool = False
    updated: Spec | None = None

    def may_appear(self, now: float) -> bool:
        """Whether it may yet be there, though nobody has seen it."""
        return not self.seen and now < self.sent + SETTLE_SECONDS


@dataclass(frozen=True)
class Create:
    """Ask for a resource."""

    spec: Spec


@dataclass(frozen=True)
class Delete:
    """Ask for its end."""

    key: Key


@dataclass(frozen=True)
class Move:
    """Delete it, and create it in the next of its zones."""

    key: Key
    spec: Spec


@dataclass(frozen=True)
class Update:
    """Change it where it is."""

    spec: Spec


@dataclass(frozen=True)
class Fail:
    """Give up on it.

    Attributes:
        key: On what.
        reason: Why.
        is_conflict: Whether it is there as something else, and works.
    """

    key: Key
    reason: str
    is_conflict: bool = False


Action = Create | Delete | Fail | Move | Update


def diff(
    plan: Mapping[Key, Spec],
    requested: Mapping[Key, Request],
    observed: Iterable[Observed],
    *,
    adopted: Collection[Key] = (),
    stuck: Collection[Key] = (),
) -> list[Action]:
    """Decide what to do next.

    Args:
        plan: What is wanted.
        requested: What was asked for by us.
        observed: What is there of ours.
        adopted: What of it was there before us.
        stuck: What the cloud refuses to delete.

    Returns:
        What to do, in order. That there is nothing to do does not mean that
        there is nothing to wait for: see `unready` and `leftovers`.
    """
    there = {each.key: each for each in observed}
    actions: list[Action] = []
    for key in there:
        actions += _away(key, plan, there, stuck)
    for spec in plan.values():
        is_ours = spec.key not in adopted
        actions += _toward(spec, requested.get(spec.key), there, is_ours)
    return actions


def unready(
    plan: Mapping[Key, Spec], observed: Iterable[Observed]
) -> dict[Key, str]:
    """Tell what is wanted and not ready, and what is known of it."""
    there = {each.key: each for each in observed}
    return {
        key: _say(there.get(key))
        for key in plan
        if key not in there or there[key].state is not State.READY
    }


def leftovers(
    plan: Mapping[Key, Spec],
    requested: Mapping[Key, Request],
    observed: Iterable[Observed],
    now: float,
) -> dict[Key, str]:
    """Tell what is not wanted and there, or may yet be.

    Args:
        plan: What is wanted.
        requested: What was asked for by us.
        observed: What is there of ours.
        now: The time [s].
    """
    there = {each.key: each for each in observed}
    left = {
        key: "asked for, and may yet appear"
        for key, request in requested.items()
        if key not in plan and request.may_appear(now)
    }
    return left | {k: _say(each) for k, each in there.items() if k not in plan}


def _away(
    key: Key,
    plan: Mapping[Key, Spec],
    there: Mapping[Key, Observed],
    stuck: Collection[Key],
) -> Iterator[Action]:
    if key in plan or there[key].state is State.DELETING:
        return
    # It goes with what it is a part of, where that goes.
    parent = key.parent
    if parent in there and parent not in plan and parent not in stuck:
        return
    yield Delete(key)


def _toward(
    spec: Spec,
    request: Request | None,
    there: Mapping[Key, Observed],
    is_ours: bool,
) -> Iterator[Action]:
    key = spec.key
    found = there.get(key)
    if found is None:
        if request is not None and request.seen:
            yield Fail(key, "it was there, and somebody has deleted it")
        # Without an answer it is asked for again: a name is given once only.
        elif _has_parent(key, there) and not (request and request.answered):
            yield Create(spec)
    elif found.state is State.PARTIAL and is_ours:
        yield Create(spec)
    elif found.state is not State.DELETING and (
        change := _change(spec, request, found, is_ours)
    ):
        yield change
    elif found.state is State.BROKEN:
        yield _give_up(spec, request, found, is_ours)


def _change(
    spec: Spec, request: Request | None, found: Observed, is_ours: bool
) -> Action | None:
    """Choose what to do with one that is there, and is something else."""
    changes = differences(spec, found)
    if found.state is State.BROKEN:
        changes.pop("zones", None)  # it is about to go from there
    if not changes or (request is not None and request.updated == spec):
        return None
    fixed = {n: c for n, c in changes.items() if n not in spec.changeable}
    if is_ours and not fixed:
        return Update(spec)
    if is_ours:
        cure = "cannot be changed while it is there: delete it first"
    else:
        fixed, cure = changes, "it is not ours to be changed"
    reason = f"is there with other settings: {say_changes(fixed)}; {cure}"
    return Fail(spec.key, reason, is_conflict=True)


def _give_up(
    spec: Spec, request: Request | None, found: Observed, is_ours: bool
) -> Action:
    reason = found.reason or found.cause.value
    if not is_ours:
        return Fail(spec.key, f"{reason}; it was there before us")
    if request is not None and request.was_ready:
        # Somebody uses what is left of it.
        return Fail(spec.key, f"{reason}; it was ready before")
    if found.cause is Cause.STOCK_OUT and request is None:
        return Delete(spec.key)  # still listed, where it was moved from
    if found.cause is Cause.STOCK_OUT and (further := spec.elsewhere()):
        return Move(spec.key, further)
    return Fail(spec.key, reason)


def _has_parent(key: Key, there: Mapping[Key, Observed]) -> bool:
    if key.parent is None:
        return True
    parent = there.get(key.parent)
    return parent is not None and parent.state is State.READY


def _say(found: Observed | None) -> str:
    if found is None:
        return "not there yet"
    return f"{found.state.value} {found.reason}".strip()
