"""What every implementation of `Cloud` has to do, as tests to be inherited.

class TestMyCloud(CloudSuite):
@pytest.fixture
def cloud(self): ...

@pytest.fixture
def clock(self): ...

@pytest.fixture
def specs(self): ...
"""

# ruff: noqa: S101 - tests assert

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from hermes.cloudbreak._settings import differences
from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.errors import AlreadyThere, CloudUnavailable, NotThere
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Key, Observed, Spec, State
from hermes.cloudbreak.waiting import Clock, Pauses

__all__ = ("CloudSuite",)

_SECONDS = 3600.0


class CloudSuite:
    """Tests of a `Cloud`; fixtures say which.

    ``cloud`` gives it, without resources; ``clock`` its `Clock`; ``specs``
    descriptions of one resource of each of its kinds, what others are part of
    first.
    """

    def test_what_is_created_becomes_ready(
        self, cloud: Cloud, clock: Clock, specs: Sequence[Spec]
    ) -> None:
        """Created, seen at once by its owner with its stamp, then ready."""
        stamp = _stamp(clock)
        for spec in specs:
            cloud.create(spec, stamp)
            (found,) = _of(cloud, spec.key)
            assert found.state in {State.CREATING, State.READY}
            assert Stamp.read(found.labels) == stamp
            assert abs(found.created - clock.today()) < _SECONDS
            ready = _wait(cloud, clock, spec.key, {State.READY, State.BROKEN})
            assert ready is not None
            assert ready.state is State.READY, ready
            assert cloud.find(spec.key) == ready

    def test_only_its_owner_is_told(
        self, cloud: Cloud, clock: Clock, specs: Sequence[Spec]
    ) -> None:
        """Another owner does not see it; who asks for everybody's does."""
        key = specs[0].key
        cloud.create(specs[0], _stamp(clock))
        assert _of(cloud, key, "somebody-else") == []
        assert len(_of(cloud, key, None)) == 1

    def test_a_name_is_given_once(
        self, cloud: Cloud, clock: Clock, specs: Sequence[Spec]
    ) -> None:
        """The second request for it is refused, by whomever it is."""
        cloud.create(specs[0], _stamp(clock))
        for owner in ("suite", "another"):
            with _raises(AlreadyThere):
                cloud.create(specs[0], _stamp(clock, owner))
        (found,) = _of(cloud, specs[0].key)
        assert Stamp.read(found.labels) == _stamp(clock)

    def test_what_is_deleted_goes_with_what_is_part_of_it(
        self, cloud: Cloud, clock: Clock, specs: Sequence[Spec]
    ) -> None:
        """Until it is gone it is seen, and then its name is free again."""
        for spec in specs:
            cloud.create(spec, _stamp(clock))
            _wait(cloud, clock, spec.key, {State.READY})
        for key in [s.key for s in specs if s.key.parent is None]:
            cloud.delete(key)
        for spec in specs:
            assert _wait(cloud, clock, spec.key, set()) is None
            assert cloud.find(spec.key) is None
        cloud.create(specs[0], _stamp(clock))

    def test_what_can_be_changed_is_changed_where_it_is(
        self, cloud: Cloud, clock: Clock, specs: Sequence[Spec]
    ) -> None:
        """It says what it is like, and becomes what is wanted instead."""
        stamp = _stamp(clock)
        for spec in specs:
            cloud.create(spec, stamp)
            ready = _wait(cloud, clock, spec.key, {State.READY})
            assert ready is not None
            assert differences(spec, ready) == {}
            if (other := _change(spec)) is None:
                continue
            assert differences(other, ready).keys() <= spec.changeable
            _update(cloud, clock, other, stamp)
            changed = _wait(cloud, clock, spec.key, {State.READY})
            assert changed is not None
            assert differences(other, changed) == {}
            assert changed.created == ready.created

    def test_what_is_not_there_cannot_be_deleted(
        self, cloud: Cloud, clock: Clock, specs: Sequence[Spec]
    ) -> None:
        """It is said, and not taken for done."""
        with _raises(NotThere):
            cloud.delete(specs[0].key)
        with _raises(NotThere):
            cloud.update(specs[0], _stamp(clock))
        assert cloud.find(specs[0].key) is None


def _change(spec: Spec) -> Spec | None:
    """Want more of something that can be changed; None if there is none."""
    numbers = [
        name
        for name in sorted(spec.changeable & spec.settings.keys())
        if type(spec.settings[name]) is int
    ]
    if not numbers:
        return None
    more = {numbers[-1]: spec.settings[numbers[-1]] + 1}
    return cast("Spec", replace(cast("Any", spec), **more))


def _update(cloud: Cloud, clock: Clock, spec: Spec, stamp: Stamp) -> None:
    deadline, pauses = clock.now() + _SECONDS, Pauses()
    while True:
        try:
            cloud.update(spec, stamp)
        except CloudUnavailable:
            if not pauses.wait(clock, deadline):
                raise
        else:
            return


def _stamp(clock: Clock, owner: str = "suite") -> Stamp:
    return Stamp(
        owner, "suite-run", round(clock.today()) // 10_000 * 10_000 + 100_000
    )


def _of(cloud: Cloud, key: Key, owner: str | None = "suite") -> list[Observed]:
    return [each for each in cloud.observe(owner) if each.key == key]


def _wait(
    cloud: Cloud, clock: Clock, key: Key, states: set[State]
) -> Observed | None:
    """Wait for one of some states, or until it is gone."""
    deadline, pauses = clock.now() + _SECONDS, Pauses()
    while clock.now() < deadline:
        found = next(iter(_of(cloud, key)), None)
        if found is None or found.state in states:
            return found
        clock.sleep(pauses())
    raise AssertionError(f"{key} is still there, and in no state of {states}")


@contextlib.contextmanager
def _raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")
