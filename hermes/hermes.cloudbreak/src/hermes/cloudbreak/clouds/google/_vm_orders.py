"""What was asked of Compute Engine here, and what came of it.

Only who has placed an order is told that it has failed; machines that are
there tell of themselves.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hermes.cloudbreak.clouds.google._compute import ComputeAPI
from hermes.cloudbreak.clouds.google._vm_bodies import CREATED, why_failed
from hermes.cloudbreak.clouds.google._vm_specs import VMDescription
from hermes.cloudbreak.errors import CloudUnavailable, NotThere
from hermes.cloudbreak.labels import OWNER, RUN
from hermes.cloudbreak.specs import Cause, Key, Observed, State

__all__ = ("Order", "Orders", "Whose", "order_of")

# Owner and run.
Whose = tuple[str, str]


@dataclass(frozen=True)
class Order:
    """That a swarm was asked for, and what came of it."""

    spec: VMDescription
    zone: str
    operation: str
    labels: Mapping[str, str]
    failure: tuple[Cause, str] | None = None

    @property
    def whose(self) -> Whose:
        """Whose it is."""
        return self.labels[OWNER], self.labels[RUN]

    def observed(self) -> Observed:
        """Tell of its swarm, as long as no machine does."""
        cause, reason = self.failure or (Cause.OTHER, "")
        return Observed(
            replace(self.spec.key, whose=self.whose),
            State.BROKEN if self.failure else State.CREATING,
            dict(self.labels),
            cause,
            reason,
            float(self.labels[CREATED]),
        )


class Orders:
    """Orders, from when they are placed. Threads may share it.

    Args:
        api: The wire.
    """

    def __init__(self, api: ComputeAPI) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._orders: dict[Key, Order] = {}
        self._request_ids: dict[tuple[Key, str], str] = {}

    def place(
        self,
        spec: VMDescription,
        zone: str,
        labels: Mapping[str, str],
        body: Mapping[str, Any],
    ) -> None:
        """Ask for machines.

        Args:
            spec: What they are like.
            zone: Where.
            labels: Their labels.
            body: The request, as Google has it.

        Raises:
            CloudUnavailable: Without an answer: it may have been placed.
            CloudError: If it was refused.
        """
        # The same again where no answer came: Google then does it once.
        with self._lock:
            request_id = self._request_ids.setdefault(
                (spec.key, zone), str(uuid.uuid4())
            )
        try:
            operation = self._api.bulk_insert(zone, body, request_id)
        except CloudUnavailable:
            raise
        except Exception:
            with self._lock:
                self._request_ids.pop((spec.key, zone), None)
            raise
        order = Order(spec, zone, operation["name"], labels)
        with self._lock:
            self._request_ids.pop((spec.key, zone), None)
            self._orders[spec.key] = order

    def drop(self, key: Key) -> None:
        """Forget one that has failed, and was told."""
        with self._lock:
            self._orders.pop(key, None)

    def forget(self, key: Key) -> Order | None:
        """Have what is asked for next be another one; give what was."""
        with self._lock:
            for each in [k for k in self._request_ids if k[0] == key]:
                del self._request_ids[each]  # what comes later is another
            order = self._orders.get(key)
            if order is not None and order.failure is not None:
                del self._orders[key]
        return order

    def look(self) -> dict[Key, Order]:
        """Give what is under way, or has failed."""
        with self._lock:
            orders = dict(self._orders)
        for key, order in orders.items():
            if order.failure is None:
                self._settle(key, order, self._ask(order))
        with self._lock:
            return dict(self._orders)

    def _settle(self, key: Key, order: Order, after: Order | None) -> None:
        with self._lock:
            if self._orders.get(key) is not order:
                return  # and another thread knows better
            if after is None:
                del self._orders[key]
            else:
                self._orders[key] = after

    def _ask(self, order: Order) -> Order | None:
        """Ask how it goes; None when it is done, and its machines tell."""
        try:
            found = self._api.get_operation(order.zone, order.operation)
        except NotThere:
            return None
        if found.get("status") != "DONE":
            return order
        failure = why_failed(found, order.spec, order.zone)
        return replace(order, failure=failure) if failure else None


def order_of(whose: Whose, order: Order | None) -> Order | None:
    """Give an order, if it is of that owner and run."""
    return order if order is not None and order.whose == whose else None
