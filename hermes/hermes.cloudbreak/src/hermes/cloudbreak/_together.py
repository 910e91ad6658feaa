"""Several clouds as one, each with its kinds; and those of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from hermes.cloudbreak._planfile import KINDS, Plan
from hermes.cloudbreak.cloud import Cloud
from hermes.cloudbreak.errors import CloudbreakError, InvalidSpec
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Key, Kind, Observed, Spec
from hermes.cloudbreak.waiting import Clock

__all__ = ("Together", "make_clouds", "raise_first", "try_each")

_T = TypeVar("_T")
_R = TypeVar("_R")

_ORDER = (Kind.DEPLOYMENT, Kind.VM, Kind.NODE_POOL, Kind.CLUSTER)


class Together:
    """A `Cloud` of several.

    Args:
        clouds: Which cloud has which kind; one may have several.
    """

    def __init__(self, clouds: Mapping[Kind, Cloud]) -> None:
        self._clouds = dict(clouds)

    def __repr__(self) -> str:
        return f"<Together, {', '.join(map(repr, self._each()))}>"

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """See `Cloud.observe`."""
        return [o for each in self._each() for o in each.observe(owner)]

    def find(self, key: Key) -> Observed | None:
        """See `Cloud.find`."""
        return self._of(key).find(key)

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.create`."""
        self._of(spec.key).create(spec, stamp)

    def update(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.update`."""
        self._of(spec.key).update(spec, stamp)

    def delete(self, key: Key) -> None:
        """See `Cloud.delete`."""
        self._of(key).delete(key)

    def check(self, spec: Spec, clock: Clock, deadline: float) -> None:
        """Test one that is ready, where its cloud knows how.

        Args:
            spec: Which.
            clock: The time.
            deadline: Until when.
        """
        check: Callable[[Spec, Clock, float], None] | None = getattr(
            self._of(spec.key), "check", None
        )
        if check is not None:
            check(spec, clock, deadline)

    def logs(self, key: Key) -> dict[str, str]:
        """Read what programs of a resource have written, by their names.

        Raises:
            InvalidSpec: If nothing is kept of this kind.
        """
        read: Callable[[Key], dict[str, str]] | None = getattr(
            self._of(key), "logs", None
        )
        if read is None:
            raise InvalidSpec(f"{key}: no logs are kept of a {key.kind.value}")
        return read(key)

    def close(self) -> None:
        """End connections; nothing else."""
        for each in self._each():
            if (close := getattr(each, "close", None)) is not None:
                close()

    def apart(self) -> list[Together]:
        """Give each by itself, in the order in which they are emptied.

        A cluster is asked what is in it: it goes after that.
        """
        kinds = sorted(self._clouds, key=_ORDER.index)
        apart: dict[int, dict[Kind, Cloud]] = {}
        for kind in kinds:
            cloud = self._clouds[kind]
            apart.setdefault(id(cloud), {})[kind] = cloud
        return [Together(each) for each in apart.values()]

    def _of(self, key: Key) -> Cloud:
        try:
            return self._clouds[key.kind]
        except KeyError:
            raise InvalidSpec(
                f"{key}: no cloud is given that has a {key.kind.value}"
            ) from None

    def _each(self) -> list[Cloud]:
        return list({id(c): c for c in self._clouds.values()}.values())


def make_clouds(plan: Plan) -> dict[Kind, Cloud]:
    """Reach the clouds of a plan: those of its resources and of its settings.

    Raises:
        InvalidSpec: If it names none.
        CloudbreakError: If there are no credentials for one.
    """
    wanted = {each.settings for each in KINDS.values()}
    named = {
        each.settings for each in KINDS.values() if each.kind in plan.kinds
    }
    named |= wanted & plan.settings.keys()
    if not named:
        raise InvalidSpec(
            "the file names no cloud: write [google] or [kubernetes]"
        )
    clouds: dict[Kind, Cloud] = {}
    if "google" in named:
        clouds |= _make_google(plan.settings.get("google", {}))
    if "kubernetes" in named:
        clouds |= _make_kubernetes(plan.settings.get("kubernetes", {}))
    return clouds


def _make_google(settings: Mapping[str, str]) -> dict[Kind, Cloud]:
    from hermes.cloudbreak.clouds import google  # noqa: PLC0415
    from hermes.cloudbreak.clouds.google._accesses import (  # noqa: PLC0415
        Accesses,
    )

    project, credentials = settings.get("project", ""), None
    if "credentials" in settings:
        credentials = str(Path(settings["credentials"]).expanduser())
    gke = google.GKECloud(project, credentials=credentials, nodes=Accesses())
    vms = google.ComputeCloud(project, credentials)
    return {Kind.CLUSTER: gke, Kind.NODE_POOL: gke, Kind.VM: vms}


def _make_kubernetes(settings: Mapping[str, str]) -> dict[Kind, Cloud]:
    from hermes.cloudbreak._access import Access  # noqa: PLC0415
    from hermes.cloudbreak._deployments import Deployments  # noqa: PLC0415

    access = Access.from_kubeconfig(
        settings.get("kubeconfig"),
        settings.get("context"),
        settings.get("namespace"),
    )
    return {Kind.DEPLOYMENT: Deployments(access)}


def try_each(
    things: Iterable[_T], work: Callable[[_T], _R]
) -> tuple[list[_R], list[CloudbreakError]]:
    """Do something with each; give what came of it, and what went wrong."""
    done: list[_R] = []
    troubles: list[CloudbreakError] = []
    for each in things:
        try:
            done.append(work(each))
        except CloudbreakError as error:
            troubles.append(error)
    return done, troubles


def raise_first(troubles: list[CloudbreakError]) -> None:
    """Raise the first, if there is one, with the others as notes."""
    for each in troubles[1:]:
        troubles[0].add_note(str(each))
    if troubles:
        raise troubles[0]
