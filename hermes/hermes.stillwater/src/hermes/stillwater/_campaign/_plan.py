"""Which unit is next, and on which server.

A unit that fails goes behind those that wait, so that it delays nobody, and
to the server that is next in its own order. Where an executor loses units
together, each is suspected of being the reason: it goes last, and alone, so
that what happens then is its own doing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ("Order", "Plan", "rank")


@dataclass(frozen=True)
class Order:
    """One attempt at a unit.

    Attributes:
        key: The unit's.
        attempt: From 1.
        server: Number of the server in the list.
    """

    key: str
    attempt: int
    server: int


class Plan:
    """Units that wait, and those in flight.

    Args:
        keys: Of units to do, in order.
        max_attempts: After which a unit has failed.
        attempts: Attempts that failed before.
        suspects: Units to do last, each alone.
        servers: Names of the servers.
        places: How many units each server may have in flight; None for any
            number.
    """

    def __init__(
        self,
        keys: Iterable[str],
        max_attempts: int,
        attempts: Mapping[str, int] | None = None,
        suspects: Collection[str] = (),
        servers: Sequence[str] = ("",),
        places: Sequence[int | None] = (None,),
    ) -> None:
        self._max_attempts = max_attempts
        self._attempts = dict(attempts or {})
        self._servers = servers
        self._places = places
        self._lanes: list[deque[str]] = [deque() for _ in servers]
        self._flying: list[set[str]] = [set() for _ in servers]
        self._suspects: deque[str] = deque()
        self._lone: str | None = None
        for key in keys:
            if key in suspects:
                self._suspects.append(key)
            else:
                self._queue(key)

    @property
    def num_waiting(self) -> int:
        """Units that are not in flight."""
        return sum(map(len, self._lanes)) + len(self._suspects)

    @property
    def num_flying(self) -> int:
        """Units in flight."""
        return sum(map(len, self._flying))

    def take(self, limit: int) -> list[Order]:
        """Give the units that may start now.

        Args:
            limit: How many may be in flight then.
        """
        if self._lone is not None:
            return []
        orders: list[Order] = []
        while self.num_flying < limit:
            free = [n for n in range(len(self._lanes)) if self._is_free(n)]
            if not free:
                break
            # The longest queue decides when all is done.
            server = max(free, key=lambda n: len(self._lanes[n]))
            orders.append(self._start(self._lanes[server].popleft(), server))
        return orders or self._take_suspect()

    def succeed(self, order: Order) -> None:
        """Take note that a unit is done."""
        self._land(order)

    def fail(self, order: Order, *, is_suspect: bool = False) -> bool:
        """Take note that an attempt failed.

        Args:
            order: Which.
            is_suspect: It was lost with its worker, which it may have killed,
                or another unit.

        Returns:
            Whether there will be another one.
        """
        self._land(order)
        self._attempts[order.key] = order.attempt
        if order.attempt >= self._max_attempts:
            return False
        if is_suspect:
            self._suspects.append(order.key)
        else:
            self._queue(order.key)
        return True

    def _take_suspect(self) -> list[Order]:
        if not self._suspects or self.num_flying or any(self._lanes):
            return []
        self._lone = self._suspects.popleft()
        return [self._start(self._lone, self._server_of(self._lone))]

    def _is_free(self, server: int) -> bool:
        places = self._places[server]
        return bool(self._lanes[server]) and (
            places is None or len(self._flying[server]) < places
        )

    def _start(self, key: str, server: int) -> Order:
        self._flying[server].add(key)
        return Order(key, self._attempts.get(key, 0) + 1, server)

    def _land(self, order: Order) -> None:
        self._flying[order.server].remove(order.key)
        self._lone = None

    def _queue(self, key: str) -> None:
        self._lanes[self._server_of(key)].append(key)

    def _server_of(self, key: str) -> int:
        ranked = rank(self._servers, key)
        return ranked[self._attempts.get(key, 0) % len(ranked)]


def rank(servers: Sequence[str], key: str) -> list[int]:
    """Order servers for a unit, always in the same way.

    The order of two servers does not depend on the others: where one is added
    or taken away, all units stay where they were that can.
    """

    def weight(number: int) -> bytes:
        text = f"{servers[number]} {key}"
        return hashlib.sha256(text.encode()).digest()

    if len(servers) == 1:
        return [0]
    return sorted(range(len(servers)), key=weight)
