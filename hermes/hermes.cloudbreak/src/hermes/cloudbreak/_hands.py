"""Who acts on a cloud: several requests at once, and what came of them."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    Refused,
    StockOut,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconcile import (
    Action,
    Create,
    Delete,
    Move,
    Request,
    Update,
)
from hermes.cloudbreak.specs import Key, Observed, Spec
from hermes.cloudbreak.waiting import Clock

__all__ = ("Book", "Hands")

_log = logging.getLogger(__name__)

_AT_ONCE = 16


@dataclass
class Book:
    """What a program knows beside what the cloud tells.

    Attributes:
        plan: What is wanted.
        requested: What was asked for.
        adopted: What of it was there before.
        stuck: What the cloud refuses to delete.
    """

    plan: dict[Key, Spec] = field(default_factory=dict)
    requested: dict[Key, Request] = field(default_factory=dict)
    adopted: set[Key] = field(default_factory=set)
    stuck: set[Key] = field(default_factory=set)


class Hands:
    """Acts, and writes down what came of it.

    Args:
        cloud: The cloud.
        stamp: What everything that is created carries; without one, nothing
            can be created.
        clock: The time.
        is_ours: Whether something is of the same run.
        book: Where it is written down.
    """

    def __init__(
        self,
        cloud: Cloud,
        stamp: Stamp | None,
        clock: Clock,
        is_ours: Callable[[Observed], bool],
        book: Book,
    ) -> None:
        self._cloud = cloud
        self._stamp = stamp
        self._clock = clock
        self._is_ours = is_ours
        self._plan, self._requested = book.plan, book.requested
        self._adopted, self._stuck = book.adopted, book.stuck
        self._running: list[Future[None]] = []

    def wait(self, timeout: float) -> None:
        """Wait for what was going on when Ctrl-C came."""
        concurrent.futures.wait(self._running, timeout)

    def act(self, actions: Iterable[Action]) -> list[Exception]:
        """Act, several at once; all are tried before anybody gives up.

        Returns:
            What went wrong.
        """
        pool = ThreadPoolExecutor(_AT_ONCE, "hermes-cloud")
        futures = [pool.submit(self._act_on, each) for each in actions]
        try:
            concurrent.futures.wait(futures)
        finally:
            # Ctrl-C: what has not begun never does, and the rest is waited for
            # before anything is taken for gone.
            pool.shutdown(wait=False, cancel_futures=True)
            self._running = [
                each for each in (*self._running, *futures) if not each.done()
            ]
        errors = []
        for future in futures:
            try:
                future.result()
            except Exception as error:  # noqa: BLE001 - who calls decides
                errors.append(error)
        return errors

    def _act_on(self, action: Action) -> None:
        match action:
            case Create(spec):
                self._create(spec)
            case Update(spec):
                self._update(spec)
            case Delete(key):
                self._delete(key)
            case Move(key, spec):
                _log.warning("%s: none left there, on to %s", key, spec)
                # First: whatever becomes of the call, this zone is done with.
                self._requested.pop(key, None)
                self._replan(spec)
                self._delete(key)

    def _create(self, spec: Spec) -> None:
        key, stamp = spec.key, self._need_stamp(spec.key)
        before = self._requested.get(key)
        # From here on it may exist, whatever we hear of it.
        self._requested[key] = Request(self._clock.now())
        try:
            self._cloud.create(spec, stamp)
        except AlreadyThere:
            self._adopt(spec, before)
        except StockOut:
            self._forget(key, before)
            if not self._move_on(spec, before):
                raise
        except CloudUnavailable:
            # It may take effect from now on, however long the call took.
            self._requested[key] = Request(self._clock.now())
            raise
        except CloudError:
            self._forget(key, before)
            raise
        else:
            self._requested[key] = Request(self._clock.now(), answered=True)
            self._adopted.discard(key)

    def _update(self, spec: Spec) -> None:
        key = spec.key
        self._cloud.update(spec, self._need_stamp(key))
        known = self._requested.get(key) or Request(self._clock.now())
        self._requested[key] = replace(
            known, answered=True, seen=True, was_ready=True, updated=spec
        )

    def _need_stamp(self, key: Key) -> Stamp:
        if self._stamp is None:
            raise InvalidSpec(f"{key}: nothing is created without a stamp")
        return self._stamp

    def _move_on(self, spec: Spec, before: Request | None) -> bool:
        """Want it elsewhere; tell whether there is an elsewhere."""
        further = spec.elsewhere()
        if further is None:
            return False
        if before is not None and before.may_appear(self._clock.now()):
            raise CloudUnavailable(
                f"{spec.key} may yet appear where none is left now"
            )
        _log.warning("%s: none left there, on to %s", spec.key, further)
        self._replan(further)
        return True

    def _forget(self, key: Key, before: Request | None) -> None:
        """Take back a request that was refused, not an earlier one."""
        if before is None:
            del self._requested[key]
        else:
            self._requested[key] = before

    def _replan(self, spec: Spec) -> None:
        if spec.key in self._plan:  # and not given up meanwhile
            self._plan[spec.key] = spec

    def _adopt(self, spec: Spec, before: Request | None) -> None:
        key = spec.key
        found = self._cloud.find(key)
        if found is None:
            raise CloudUnavailable(f"{key} is there, and cannot be found yet")
        if self._is_ours(found):
            # An earlier request of ours, whose answer got lost.
            self._requested[key] = replace(self._requested[key], answered=True)
            return
        self._forget(key, before)
        if not spec.exists_ok:
            raise AlreadyThere(
                f"there is a {key} already, and it is not of this run: give "
                "another name, delete it, or use it with exists_ok=True"
            )
        self._adopted.add(key)

    def _delete(self, key: Key) -> None:
        try:
            self._cloud.delete(key)
        except NotThere:
            _log.debug("%s was gone already", key)
        except Refused:
            self._stuck.add(key)
            raise
        self._stuck.discard(key)
