"""The cloud of swarms: Compute Engine as a `Cloud`."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

from hermes.cloudbreak.clouds.google._compute import ComputeAPI
from hermes.cloudbreak.clouds.google._credentials import Credentials
from hermes.cloudbreak.clouds.google._scripts import wait_for_scripts
from hermes.cloudbreak.clouds.google._vm_bodies import (
    SIZE,
    SWARM,
    bulk_body,
    labels_of,
    look,
    names_filter,
    stamped_filter,
    zone_of,
)
from hermes.cloudbreak.clouds.google._vm_orders import (
    Order,
    Orders,
    Whose,
    order_of,
)
from hermes.cloudbreak.clouds.google._vm_specs import VMDescription
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    QuotaExceeded,
    Refused,
    ResourceFailed,
    StockOut,
)
from hermes.cloudbreak.labels import OWNER, RUN, Stamp
from hermes.cloudbreak.specs import Cause, Key, Kind, Observed, Spec, State
from hermes.cloudbreak.waiting import Clock, insist

__all__ = ("ComputeCloud",)

_log = logging.getLogger(__name__)

_AT_ONCE = 16  # machines that are deleted at the same time
_ENDING = {"DEPROVISIONING", "PENDING_STOP", "STOPPING"}
_ERRORS: Mapping[Cause, type[CloudError]] = {
    Cause.OTHER: Refused,
    Cause.QUOTA: QuotaExceeded,
    Cause.STOCK_OUT: StockOut,
}


class ComputeCloud:
    """Google Compute Engine, as far as it has virtual machines.

    A `VMDescription` is one resource of many machines: it is created by one
    call, all of it or nothing. That a swarm could not be created is told by an
    operation, which only who asked for it knows; everything else is told by
    the machines themselves, to everybody.

    Args:
        project: The project; that of the credentials if empty.
        credentials: The path of a key file, an object of google-auth, or None
            for what the environment has.
        endpoint: Where to call, if not Google.
        clock: The time.

    Raises:
        InvalidSpec: If no project is known.
        Refused: If there are no credentials.
    """

    def __init__(
        self,
        project: str = "",
        credentials: Any = None,
        *,
        endpoint: str = "",
        clock: Clock | None = None,
    ) -> None:
        known = Credentials(credentials)
        self._project = project or known.project
        if not self._project:
            raise InvalidSpec(
                "project='': these credentials belong to no project; name one"
            )
        self._api = ComputeAPI(self._project, known, endpoint)
        self._clock = clock or Clock()
        self._orders = Orders(self._api)
        # Whose is what was asked for here.
        self._ours: dict[Key, Whose] = {}

    def __repr__(self) -> str:
        return f"<ComputeCloud, project {self._project}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End connections; nothing else."""
        self._api.close()

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """See `Cloud.observe`."""
        # First: what is over by now has its machines in the list.
        orders = self._orders.look()
        listed = self._api.list_instances(stamped_filter(owner))
        found = []
        for (name, whose), instances in _by_run(listed).items():
            key = Key(Kind.VM, name, whose=whose)
            order = order_of(whose, orders.get(key))
            if order is not None:
                del orders[key]
            found.append(_combine(key, instances, order))
        return found + [
            each.observed()
            for each in orders.values()
            if owner in {None, each.labels[OWNER]}
        ]

    def find(self, key: Key) -> Observed | None:
        """See `Cloud.find`."""
        order = self._orders.look().get(key)
        listed = self._list(key)
        runs, wanted = _runs(key, listed), self._whose(key)
        if wanted not in runs:
            if order is not None:
                return order.observed()
            # Its name is taken, whoever has taken it.
            wanted = min(runs, default=None)
        key = replace(key, whose=wanted)
        if wanted is not None:
            return _combine(key, runs[wanted], order_of(wanted, order))
        return look(key, listed, is_coming=False) if listed else None

    def instances(self, key: Key) -> list[dict[str, Any]]:
        """List a swarm's machines, as Google describes them, by name.

        Raises:
            Refused: If there are several of that name, and this one is none
                of them that was observed or created here.
        """
        runs = _runs(key, self._list(key))
        if (wanted := self._whose(key)) is not None:
            return runs.get(wanted, [])
        if len(runs) > 1:
            raise Refused(
                f"{key} is there {len(runs)} times, of {sorted(runs)}: say "
                "whose, by a key that was observed"
            )
        return next(iter(runs.values()), [])

    def _list(self, key: Key) -> list[dict[str, Any]]:
        found = self._api.list_instances(names_filter(key.name))
        return sorted(found, key=lambda each: str(each["name"]))

    def _whose(self, key: Key) -> Whose | None:
        return key.whose or self._ours.get(key)

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.create`."""
        spec = _check(spec)
        key = replace(spec.key, whose=(stamp.owner, stamp.run))
        # Names are unique in a zone only; and an order is no machine yet.
        found = self.find(key)
        if found is None or found.key.whose == key.whose:
            self._ours[key] = (stamp.owner, stamp.run)
        if found is not None:
            raise AlreadyThere(f"{key} already exists")
        today, zone = self._clock.today(), spec.zones[0]
        labels = labels_of(spec, stamp, today)
        body = bulk_body(spec, stamp, labels, today)
        self._orders.place(spec, zone, labels, body)

    def update(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.update`: machines come and go, the others stay.

        They belong together: those that come have the deadline of the others.
        """
        spec, whose = _check(spec), (stamp.owner, stamp.run)
        key = replace(spec.key, whose=whose)
        order = order_of(whose, self._orders.look().get(key))
        if order is not None:
            self._refuse(key, order)
            raise CloudUnavailable(f"{key} is being changed")
        self._ours[key] = whose
        instances = self.instances(key)
        if not instances:
            raise NotThere(f"there is no {key} of run {stamp.run}")
        labels = {**instances[0]["labels"], SIZE: str(spec.num_vms)}
        there = {each["name"] for each in instances}
        if missing := [n for n in spec.vm_names if n not in there]:
            had, zone = Stamp.read(labels) or stamp, zone_of(instances[0])
            today = self._clock.today()
            body = bulk_body(spec, had, labels, today, missing)
            self._orders.place(spec, zone, labels, body)
            # All of them or none: until they are there, nothing else changes.
            raise CloudUnavailable(f"{len(missing)} machines of {key} to come")
        self._settle_size(spec, instances, labels)

    def _refuse(self, key: Key, order: Order) -> None:
        """Raise why machines could not be added, once."""
        if order.failure is None:
            return
        self._orders.drop(key)
        cause, reason = order.failure
        raise _ERRORS[cause](f"{key} stays as it was: {reason}")

    def _settle_size(
        self,
        spec: VMDescription,
        instances: list[dict[str, Any]],
        labels: Mapping[str, str],
    ) -> None:
        """Have no more machines than wanted, and all of them say so."""
        names = set(spec.vm_names)
        self._on_each(
            [
                each
                for each in instances
                if each["name"] not in names and each["status"] not in _ENDING
            ],
            self._end,
        )
        first, *others = [each for each in instances if each["name"] in names]
        self._on_each(
            [each for each in others if each["labels"] != labels],
            lambda each: self._api.set_labels(each, labels),
        )
        # Last, because it is the one that is asked.
        self._api.set_labels(first, labels)

    def delete(self, key: Key) -> None:
        """See `Cloud.delete`."""
        instances = self.instances(key)
        order = self._forget(key)
        if not instances and order is None:
            raise NotThere(f"{key} does not exist")
        doomed = [i for i in instances if i["status"] not in _ENDING]
        self._on_each(doomed, self._end)

    def _on_each(
        self,
        instances: Iterable[dict[str, Any]],
        work: Callable[[dict[str, Any]], None],
    ) -> None:
        with ThreadPoolExecutor(_AT_ONCE, "hermes-vms") as pool:
            for future in [pool.submit(work, each) for each in instances]:
                future.result()

    def _forget(self, key: Key) -> Order | None:
        """Forget what was asked for; give it, if that is what is deleted."""
        wanted, ours = self._whose(key), self._ours.get(key)
        if wanted != ours:
            return None
        return self._orders.forget(key)

    def check(self, spec: Spec, clock: Clock, deadline: float) -> None:
        """Wait until the start-up script of each machine has ended well.

        Args:
            spec: A swarm whose machines run.
            clock: The time.
            deadline: Until when.

        Raises:
            ResourceFailed: If one has failed; it is quoted.
            WaitTimeout: If one has not ended in time.
        """
        spec = _check(spec)
        if spec.startup_script:
            instances = insist(
                lambda: self.instances(spec.key), clock, deadline
            )
            if not instances:
                raise ResourceFailed(f"{spec.key} is gone: who deleted it?")
            wait_for_scripts(
                spec.key, instances, self.guest_attributes, clock, deadline
            )

    def guest_attributes(
        self, instance: Mapping[str, Any], namespace: str
    ) -> dict[str, str]:
        """Read what programs on a machine say of it, so far."""
        return self._api.guest_attributes(
            zone_of(instance), instance["name"], namespace
        )

    def logs(self, key: Key) -> dict[str, str]:
        """Read what each of a swarm's machines has written to its console.

        Raises:
            NotThere: If there is no such swarm.
        """
        instances = self.instances(key)
        if not instances:
            raise NotThere(f"{key} does not exist")
        return {
            each["name"]: self._api.serial_output(zone_of(each), each["name"])
            for each in instances
        }

    def _end(self, instance: Mapping[str, Any]) -> None:
        try:
            self._api.delete_instance(zone_of(instance), instance["name"])
        except NotThere:
            _log.debug("%s was gone already", instance["name"])


def _check(spec: Spec) -> VMDescription:
    if not isinstance(spec, VMDescription):
        raise Refused(f"{spec.key}: this is a cloud of virtual machines")
    return spec


def _by_run(
    instances: Iterable[dict[str, Any]],
) -> dict[tuple[str, Whose], list[dict[str, Any]]]:
    """Sort machines by swarm and run; without strangers' machines."""
    found: dict[tuple[str, Whose], list[dict[str, Any]]] = defaultdict(list)
    for each in instances:
        labels = each.get("labels", {})
        if SWARM in labels and OWNER in labels:
            whose = labels[OWNER], labels.get(RUN, "")
            found[labels[SWARM], whose].append(each)
    return found


def _runs(
    key: Key, instances: Iterable[dict[str, Any]]
) -> dict[Whose, list[dict[str, Any]]]:
    """Sort machines that have a swarm's names by run."""
    return {
        whose: machines
        for (name, whose), machines in _by_run(instances).items()
        if name == key.name
    }


def _combine(
    key: Key, instances: list[dict[str, Any]], order: Order | None
) -> Observed:
    found = look(key, instances, is_coming=order is not None)
    if order is None or order.failure is None:
        return found
    cause, reason = order.failure
    return replace(found, state=State.BROKEN, cause=cause, reason=reason)
