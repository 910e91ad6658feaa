"""Pure: which of what was decided is done, going up and going down."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hermes.cloudbreak.errors import AlreadyThere, Refused, ResourceFailed
from hermes.cloudbreak.reconcile import Action, Delete, Fail, Update
from hermes.cloudbreak.specs import Key

__all__ = ("are_final", "deletes", "refuse_failures", "with_trouble")


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


def are_final(trouble: Collection[Exception]) -> bool:
    """Tell whether a cloud has only refused: it will do so again."""
    return bool(trouble) and all(isinstance(e, Refused) for e in trouble)


def with_trouble(
    left: Mapping[Key, str], keys: Iterable[Key], trouble: list[Exception]
) -> dict[Key, str]:
    """Say what is waited for, and what keeps it.

    Args:
        left: What is known to be left.
        keys: What has to go.
        trouble: What went wrong.
    """
    if not trouble:
        return dict(left)
    known = left or dict.fromkeys(keys, "perhaps there")
    return {key: f"{state}; {trouble[0]}" for key, state in known.items()}
