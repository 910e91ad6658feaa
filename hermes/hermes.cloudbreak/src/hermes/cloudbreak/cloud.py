"""The seam to a cloud: five verbs, whatever the kind of resource."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Key, Observed, Spec

__all__ = ("Cloud",)


class Cloud(Protocol):
    """Somebody who has resources.

    No verb waits for a resource: each returns as soon as the cloud has taken
    the request, and has a time limit of its own for that.

    Everything may raise `CloudUnavailable` (try again: nobody knows whether
    it was done) and `Refused` (do not).
    """

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """List all resources that carry a `Stamp`.

        Args:
            owner: Whose; None for everybody's.
        """

    def find(self, key: Key) -> Observed | None:
        """Look one resource up, whoever created it."""

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """Ask for a resource that carries a stamp.

        What is there in part, with the same stamp, is completed.

        Raises:
            AlreadyThere: If there is one of that name.
            QuotaExceeded: If the project may not have it.
            StockOut: If there is none left in the first of its zones.
        """

    def update(self, spec: Spec, stamp: Stamp) -> None:
        """Ask for a resource to be as described, without creating it anew.

        Only what is `Spec.changeable` differs from what is there. It may be
        called again with the same description, also where an earlier program
        was killed half-way.

        Args:
            spec: What it has to be like.
            stamp: Whose it has to be.

        Raises:
            NotThere: If it is not there.
            CloudUnavailable: Also while one change waits for another.
            QuotaExceeded: If the project may not have so much.
            StockOut: If there is none left where it is.
        """

    def delete(self, key: Key) -> None:
        """Ask for the end of a resource, and of all that is part of it.

        Raises:
            NotThere: If it is not there.
        """
