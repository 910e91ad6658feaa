"""Pure: which of what was decided is done, going up and going down."""

from __future__ import annotations

from collections.abc import Collection

from hermes.cloudbreak.errors import AlreadyThere, ResourceFailed
from hermes.cloudbreak.reconcile import Action, Delete, Fail, Update
from hermes.cloudbreak.specs import Key

__all__ = ("deletes", "refuse_failures")


def deletes(actions: list[Action]) -> list[Action]:
    """Give what deletes."""
    return [each for each in actions if isinstance(each, Delete)]


def refuse_failures(
    actions: list[Action], keys: Collection[Key]
) -> list[Action]:
    """Raise what fails of what is asked for; give the rest.

    Raises:
        AlreadyThere: If that is only what is there as something else.
        ResourceFailed: Else.
    """
    failures = [
        each for each in actions if isinstance(each, Fail) and each.key in keys
    ]
    if failures:
        only_conflicts = all(each.is_conflict for each in failures)
        raise (AlreadyThere if only_conflicts else ResourceFailed)(
            "; ".join(f"{each.key}: {each.reason}" for each in failures)
        )
    # What others asked for may have been changed on purpose meanwhile.
    return [
        each
        for each in actions
        if not isinstance(each, Update) or each.spec.key in keys
    ]
