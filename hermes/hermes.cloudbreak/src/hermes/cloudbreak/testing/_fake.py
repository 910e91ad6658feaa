"""The cloud itself: resources in a dictionary, and faults by call number."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    NotThere,
    Refused,
)
from hermes.cloudbreak.labels import OWNER, Stamp
from hermes.cloudbreak.specs import (
    Cause,
    Key,
    Kind,
    Observed,
    Spec,
    State,
)
from hermes.cloudbreak.waiting import Clock

__all__ = ("FakeCloud", "Fault", "Killed")


class Killed(BaseException):
    """The program ends here.

    As a fault it ends every later call, too, until `FakeCloud.revive`: nothing
    of a program that was killed calls a cloud, whatever it would do next.
    """


@dataclass(frozen=True)
class Fault:
    """What happens at a call.

    Attributes:
        error: What the caller gets.
        done: Whether the cloud has done what was asked for all the same: an
            answer that got lost.
    """

    error: BaseException
    done: bool = False


@dataclass
class _Resource:
    spec: Spec
    labels: Mapping[str, str]
    created: float
    ready_at: float
    where: str = ""
    gone_at: float = math.inf
    trouble: tuple[Cause, str] | None = None

    def is_running(self, today: float) -> bool:
        return self.ready_at <= today and self.gone_at == math.inf


class FakeCloud:
    """A `Cloud` in memory.

    Resources need their time to be created and to be deleted; names are
    unique; node pools need a cluster that is ready, and go with it. Several
    programs may use one at the same time.

    Args:
        clock: The time.
        seconds: How long each kind takes to be created, and half of it to be
            deleted.

    Attributes:
        calls: What was called, in order: verb and key.
        faults: What happens at the n-th call, from 1.
        troubles: Resources that break while they are created: for a name, or
            for a name and a zone, why.
        lag: Seconds until what was created is listed.
    """

    def __init__(
        self, clock: Clock, seconds: Mapping[Kind, float] | None = None
    ) -> None:
        self._clock = clock
        self._seconds = {
            Kind.CLUSTER: 300.0,
            Kind.NODE_POOL: 120.0,
            Kind.VM: 30.0,
            **(seconds or {}),
        }
        self._resources: dict[Key, _Resource] = {}
        self._lock = threading.Lock()
        self._is_dead = False
        self.calls: list[tuple[str, Key | None]] = []
        self.faults: dict[int, Fault] = {}
        self.troubles: dict[
            str | tuple[str, str], tuple[Cause, str] | CloudError
        ] = {}
        self.lag = 0.0

    def __repr__(self) -> str:
        return f"<FakeCloud, {len(self.resources)} resources>"

    @property
    def resources(self) -> tuple[Key, ...]:
        """All there is, whoever created it."""
        with self._lock:
            self._tidy()
            return tuple(self._resources)

    def revive(self) -> None:
        """Another program calls now, and has no faults."""
        self._is_dead = False
        self.faults.clear()

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """See `Cloud.observe`."""
        with self._lock:
            fault = self._call("observe", None)
            self._tidy()
            self._raise(fault)
            listed = self._clock.today() - self.lag
            return [
                self._look(key)
                for key, each in self._resources.items()
                if each.created <= listed
                and OWNER in each.labels
                and owner in {None, each.labels[OWNER]}
            ]

    def find(self, key: Key) -> Observed | None:
        """See `Cloud.find`."""
        with self._lock:
            fault = self._call("find", key)
            self._tidy()
            self._raise(fault)
            return self._look(key) if key in self._resources else None

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.create`."""
        self._do("create", spec.key, lambda: self.add(spec, stamp.labels))

    def update(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.update`."""
        self._do("update", spec.key, lambda: self._update(spec, stamp))

    def delete(self, key: Key) -> None:
        """See `Cloud.delete`."""
        self._do("delete", key, lambda: self._delete(key))

    def add(self, spec: Spec, labels: Mapping[str, str] | None = None) -> None:
        """Create something by another hand: without calls and faults."""
        key, today = spec.key, self._clock.today()
        if key in self._resources:
            raise AlreadyThere(f"{key} already exists")
        if key.parent is not None:
            parent = self._resources.get(key.parent)
            if parent is None or not parent.is_running(today):
                raise Refused(f"{key.parent} is not running")
        zone = next(iter(getattr(spec, "zones", ())), "")
        trouble = self.troubles.get(key.name) or self.troubles.get(
            (key.name, zone)
        )
        if isinstance(trouble, CloudError):
            raise trouble
        self._resources[key] = _Resource(
            spec,
            dict(labels or {}),
            today,
            today + self._seconds[key.kind],
            zone,
            trouble=trouble,
        )

    def _do(self, verb: str, key: Key, work: Callable[[], None]) -> None:
        with self._lock:
            fault = self._call(verb, key)
            self._tidy()
            if fault is None or fault.done:
                work()
            self._raise(fault)

    def _call(self, verb: str, key: Key | None) -> Fault | None:
        if self._is_dead:
            raise Killed
        self.calls.append((verb, key))
        fault = self.faults.get(len(self.calls))
        self._is_dead = fault is not None and isinstance(fault.error, Killed)
        return fault

    def _raise(self, fault: Fault | None) -> None:
        if fault is not None:
            raise fault.error

    def _update(self, spec: Spec, stamp: Stamp) -> None:
        found = self._resources.get(spec.key)
        if found is None or not stamp.is_on(found.labels):
            raise NotThere(f"{spec.key} of run {stamp.run} does not exist")
        found.spec = spec
        found.ready_at = self._clock.today() + self._seconds[spec.key.kind]

    def _delete(self, key: Key) -> None:
        resource = self._resources.get(key)
        if resource is None:
            raise NotThere(f"{key} does not exist")
        gone_at = self._clock.today() + self._seconds[key.kind] / 2
        for other, each in self._resources.items():
            if key in (other, other.parent):
                each.gone_at = min(each.gone_at, gone_at)

    def _tidy(self) -> None:
        today = self._clock.today()
        for key in [
            k for k, r in self._resources.items() if r.gone_at <= today
        ]:
            del self._resources[key]

    def _look(self, key: Key) -> Observed:
        each, today = self._resources[key], self._clock.today()
        found = Observed(
            key,
            State.CREATING,
            dict(each.labels),
            created=each.created,
            settings=each.spec.settings,
            where=each.where,
        )
        if each.gone_at < math.inf:
            return replace(found, state=State.DELETING)
        if today < each.ready_at:
            return found
        if each.trouble is None:
            return replace(found, state=State.READY)
        cause, reason = each.trouble
        return replace(found, state=State.BROKEN, cause=cause, reason=reason)
