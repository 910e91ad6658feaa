"""Observe, decide, have it done, wait, again: until it is as wanted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from hermes.cloudbreak._choices import (
    are_final,
    deletes,
    refuse_failures,
    with_trouble,
)
from hermes.cloudbreak._hands import Book, Hands
from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.errors import (
    CloudUnavailable,
    StillThere,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconcile import (
    Action,
    Create,
    Move,
    Update,
    diff,
    leftovers,
    unready,
)
from hermes.cloudbreak.specs import Key, Observed, Spec, State
from hermes.cloudbreak.waiting import Clock, Pauses

__all__ = ("Reconciler",)

_log = logging.getLogger(__name__)

# How long a cloud is asked that only refuses to delete.
_REFUSED_SECONDS = 60.0


class Reconciler:
    """Makes a cloud have what is wanted of one run, and nothing else of it.

    Args:
        cloud: The cloud.
        stamp: What everything that is created carries; without one, nothing
            can be created.
        owner: Whose resources are looked at; the stamp's if it is given, and
            everybody's if neither is.
        is_ours: Which of them are to be deleted unless they are wanted; those
            of the stamp's run if None.
        clock: The time.
        report: Called with what is waited for, whenever that has changed.
        deletion_timeout: Seconds that resources may take to be deleted, also
            after an error.
        prunes: Whether what is of the run and not wanted is deleted as soon
            as anything is asked for; if not, only by `take_everything_down`,
            for programs that ask for one thing after the other.
    """

    def __init__(
        self,
        cloud: Cloud,
        stamp: Stamp | None = None,
        *,
        owner: str | None = None,
        is_ours: Callable[[Observed], bool] | None = None,
        clock: Clock | None = None,
        report: Callable[[Mapping[Key, str]], object] | None = None,
        deletion_timeout: float = 1200.0,
        prunes: bool = True,
    ) -> None:
        self._cloud = cloud
        self._stamp = stamp
        self._owner = stamp.owner if stamp else owner
        self._is_ours = is_ours or self._has_stamp
        self._clock = clock or Clock()
        self._report = report or _log_waiting
        self._deletion_timeout = deletion_timeout
        self._prunes = prunes
        self._unwanted: set[Key] = set()
        book = Book()
        self._plan, self._requested = book.plan, book.requested
        self._adopted, self._stuck = book.adopted, book.stuck
        self._asked: set[Key] = set()
        self._observed: list[Observed] = []
        self._hands = Hands(cloud, stamp, self._clock, self._is_ours, book)
        self._changing: dict[Key, str] = {}
        self._told: Mapping[Key, str] = {}

    @property
    def keys(self) -> tuple[Key, ...]:
        """What is wanted."""
        return tuple(self._plan)

    @property
    def adopted(self) -> frozenset[Key]:
        """What was there before, and is left as it was found."""
        return frozenset(self._adopted)

    def bring_up(
        self,
        specs: Iterable[Spec],
        timeout: float,
        check: Callable[[float], object] | None = None,
    ) -> None:
        """Have resources created, and wait until all are ready.

        Whatever goes wrong, also Ctrl-C: what was asked for by this call is
        deleted before the error is raised, and nothing else: what is there
        already, of the same run, stays. Of that, what differs and can be
        changed is changed; if anything cannot, nothing is touched. Changes
        are not taken back.

        Args:
            specs: What is wanted; what something is part of comes with it, or
                came before.
            timeout: Seconds until they have to be ready.
            check: Called when all are ready, with the time by which it has to
                be over; what it raises is like any other error.

        Raises:
            AlreadyThere: If a name is taken, and `exists_ok` is false; or if
                what is there has settings that cannot be changed.
            CloudError: If the cloud refuses one; see `Cloud.create`.
            ResourceFailed: If one will not become ready.
            WaitTimeout: If one is not ready in time; it says what it lacks.
            StillThere: If after such an error something could not be deleted.
        """
        wanted = {spec.key: spec for spec in specs}
        for key in wanted.keys() - self._plan.keys():
            # What was there once, and was taken down, is nobody's loss.
            if (request := self._requested.get(key)) and request.seen:
                del self._requested[key]
        for key in wanted.keys() & self._requested.keys():
            # What has failed before may be asked for again.
            self._requested[key] = replace(self._requested[key], updated=None)
        new = wanted.keys() - self._plan.keys()
        self._unwanted.difference_update(wanted)
        self._asked.clear()
        before = dict(self._plan)
        self._plan.update(wanted)
        deadline = self._clock.now() + timeout
        try:
            self._wait_ready(wanted.keys(), timeout)
            if check is not None:
                check(deadline)
        except BaseException as error:
            try:
                self._take_back(new)
            except Exception as trouble:  # noqa: BLE001 - the first one counts
                error.add_note(f"and afterwards: {trouble}")
            self._plan.update(before)
            raise

    def _take_back(self, new: set[Key]) -> None:
        """Delete what was asked for; what was there stays, ours or not."""
        there = {each.key for each in self._observed}
        for key in new - self._asked:
            if key in self._adopted or key not in there:
                self._plan.pop(key, None)
        if asked := new & self._asked:
            self.take_down(asked)
        self._adopted.intersection_update(self._plan)

    def take_down(
        self, keys: Iterable[Key], timeout: float | None = None
    ) -> None:
        """Delete resources, and what is part of them; wait until it is gone.

        What was asked for without an answer is waited for, too: it may yet
        appear. What was adopted is left as it was found.

        Args:
            keys: Which; those that are not there are no error.
            timeout: Seconds until they have to be gone; `deletion_timeout`
                if None.

        Raises:
            StillThere: If they are not gone in time, or the cloud only
                refuses for a minute; it names them, and says why.
        """
        timeout = self._deletion_timeout if timeout is None else timeout
        unwanted = set(keys)
        known = self._plan.keys() | self._requested.keys()
        unwanted |= {key for key in known if key.parent in unwanted}
        self._unwanted |= unwanted  # first: there may be a Ctrl-C
        for key in unwanted:
            self._plan.pop(key, None)
        unwanted |= self._unwanted  # and what one before has left to be done
        if not unwanted and not self._requested.keys() - self._plan.keys():
            return  # nor is anybody asked
        # An interrupted call may still be under way, with its own time limit.
        self._hands.wait(timeout)
        self._wait_gone(unwanted, timeout)
        for key in unwanted:
            self._requested.pop(key, None)
            self._adopted.discard(key)
        self._unwanted -= unwanted

    def take_everything_down(self) -> None:
        """Delete all that is wanted, and all else of the run.

        Raises:
            StillThere: If it is not gone in time; it names what is left.
        """
        self._prunes = True
        self.take_down(self._plan)

    def _wait_gone(self, keys: Collection[Key], timeout: float) -> None:
        begun, pauses = self._clock.now(), Pauses()
        moved, before = begun, None
        while True:
            trouble = self._step(deletes)
            now = self._clock.now()
            left = leftovers(self._plan, self._requested, self._observed, now)
            if not left and not trouble:
                return
            # Who is refused, and nothing moves, is not let in later either.
            if left != before or not are_final(trouble):
                moved, before = now, left
            left = with_trouble(left, keys, trouble)
            self._tell(left, pauses)
            deadline = begun + timeout
            if are_final(trouble):
                deadline = min(deadline, moved + _REFUSED_SECONDS)
            if not pauses.wait(self._clock, deadline):
                raise StillThere(
                    f"after {now - begun:g} s still there: {_list(left)}. "
                    "Delete them by hand, or with `hermes-cloud reap`"
                )

    def _wait_ready(self, keys: Collection[Key], timeout: float) -> None:
        deadline, pauses = self._clock.now() + timeout, Pauses()
        while True:
            trouble = self._step(lambda each: refuse_failures(each, keys))
            for error in trouble:
                if not isinstance(error, CloudUnavailable):
                    raise error
            wanted = {key: self._plan[key] for key in keys}
            # What was changed just now looked ready before.
            waited = self._changing | unready(wanted, self._observed)
            if not waited and not trouble:
                return
            self._tell(waited, pauses)
            if not pauses.wait(self._clock, deadline):
                raise WaitTimeout(
                    f"after {timeout:g} s not ready: {_list(waited)}"
                ) from (trouble[0] if trouble else None)

    def _step(
        self, choose: Callable[[list[Action]], list[Action]]
    ) -> list[Exception]:
        """Observe, decide, act; give what went wrong."""
        try:
            self._observed = self._observe()
        except Exception as error:  # noqa: BLE001 - who calls decides
            return [error]  # and what was seen last still holds
        for each in self._observed:
            if (request := self._requested.get(each.key)) is not None:
                was_ready = request.was_ready or each.state is State.READY
                self._requested[each.key] = replace(
                    request, seen=True, was_ready=was_ready
                )
        actions = diff(
            self._plan,
            self._requested,
            self._observed,
            adopted=self._adopted,
            stuck=self._stuck,
        )
        chosen = choose(actions)
        # Here, not in the threads: a Ctrl-C may be quicker than they are.
        self._asked |= {
            each.spec.key for each in chosen if isinstance(each, Create | Move)
        }
        self._changing = {
            each.spec.key: "to be changed"
            for each in chosen
            if isinstance(each, Update)
        }
        return self._hands.act(chosen)

    def _observe(self) -> list[Observed]:
        found = [
            each
            for each in self._cloud.observe(self._owner)
            if self._is_ours(each) and self._is_minded(each.key)
        ]
        known = {each.key for each in found}
        adopted = self._adopted & self._plan.keys() - known
        return found + [
            one for key in adopted if (one := self._cloud.find(key))
        ]

    def _has_stamp(self, observed: Observed) -> bool:
        stamp = self._stamp
        return stamp is not None and stamp.is_on(observed.labels)

    def _is_minded(self, key: Key) -> bool:
        """Whether it matters, though it may not be asked for yet."""
        known = self._plan.keys() | self._requested.keys() | self._unwanted
        return self._prunes or key in known or key.parent in self._unwanted

    def _tell(self, waited: Mapping[Key, str], pauses: Pauses) -> None:
        if waited != self._told:
            self._told = dict(waited)
            self._report(self._told)
            pauses.reset()


def _log_waiting(waited: Mapping[Key, str]) -> None:
    if waited:
        _log.info("waiting for %s", _list(waited))


def _list(waited: Mapping[Key, str]) -> str:
    return ", ".join(f"{key} ({state})" for key, state in waited.items())
