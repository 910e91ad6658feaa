"""What may be deleted."""

from __future__ import annotations

from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import expired
from hermes.cloudbreak.specs import Key, Kind, Observed, State

NOW = 1.8e9


def vm(name: str, created: float, deadline: float = 2 * NOW) -> Observed:
    labels = Stamp("me", "night", int(deadline)).labels
    return Observed(Key(Kind.VM, name), State.READY, labels, created=created)


def test_what_is_too_old_and_what_has_expired_may_go() -> None:
    old, new = vm("old", NOW - 100), vm("new", NOW - 10)
    assert expired([old, new], NOW) == []
    assert expired([old, new], NOW, older_than=50) == [old]
    late = vm("late", NOW - 10, NOW - 1)
    assert expired([old, new, late], NOW) == [late]


def test_what_nobody_knows_the_age_of_is_not_old() -> None:
    unknown = vm("unknown", 0.0)
    assert expired([unknown], NOW, older_than=1) == []
    assert expired([vm("late", 0.0, NOW - 1)], NOW) != []
