"""Deployments of Triton on a cluster, as a `Cloud`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hermes.cloudbreak import _pods, manifests
from hermes.cloudbreak._access import (
    EVENT,
    NODE,
    POD,
    SERVICE,
    STATEFUL_SET,
    Access,
    Type,
)
from hermes.cloudbreak._answers import Manifest
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    Refused,
)
from hermes.cloudbreak.labels import OWNER, Stamp
from hermes.cloudbreak.specs import Cause, Key, Kind, Observed, Spec, State

__all__ = ("Deployments", "Seen", "is_owned", "judge")


@dataclass(frozen=True)
class Seen:
    """What is seen of one deployment.

    Attributes:
        head: The Service that owns the rest.
        stateful_set: What makes its pods; None if it is not there.
        services: Its other Services.
        pods: Its pods.
        events: Events of its namespace.
        nodes: The nodes of the cluster.
        logs: Ends of the logs of containers that have ended, by pod.
    """

    head: Manifest
    stateful_set: Manifest | None = None
    services: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    events: tuple[Manifest, ...] = ()
    nodes: tuple[Manifest, ...] = ()
    logs: Mapping[str, str] = field(default_factory=dict)


class Deployments:
    """A `Cloud` whose resources are deployments in one namespace.

    Args:
        access: The cluster.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._budget_version = ""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Deployments by {self._access!r}>"

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """See `Cloud.observe`."""
        wanted = f"{OWNER}={owner}" if owner else OWNER
        services = self._access.list(SERVICE, wanted)
        heads = [each for each in services if _is_head(each)]
        if not heads:
            return []
        sets = self._access.list(STATEFUL_SET, wanted)
        pods = self._access.list(POD, wanted)
        troubled = any(not _pods.is_ready(each) for each in pods)
        all_ready = _count(sets) <= len(pods) and not troubled
        events = () if all_ready else tuple(self._access.list(EVENT))
        nodes = self._list_nodes() if troubled else ()
        return [
            judge(
                Seen(
                    head,
                    next(iter(_owned(head, sets)), None),
                    tuple(_owned(head, services)),
                    tuple(mine := _owned(head, pods)),
                    events,
                    nodes,
                    self._read_logs(mine),
                )
            )
            for head in heads
        ]

    def find(self, key: Key) -> Observed | None:
        """See `Cloud.find`."""
        try:
            head = self._access.get(SERVICE, key.name)
        except NotThere:
            return None
        stamp = Stamp.read(head["metadata"].get("labels") or {})
        if stamp is None or not _is_head(head):
            return judge(Seen(head))
        listed = self.observe(stamp.owner)
        return next((each for each in listed if each.key == key), None)

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.create`."""
        if not isinstance(spec, TritonSpec):
            raise InvalidSpec(
                f"{spec.key} is no deployment: give a TritonSpec"
            )
        try:
            head = self._access.create(manifests.head(spec, stamp))
        except AlreadyThere:
            head = self._find_partial(spec, stamp)
        uid = head["metadata"]["uid"]
        version = self._find_budget_version()
        for each in manifests.parts(spec, stamp, uid, version):
            self.ensure(each, uid)

    def delete(self, key: Key) -> None:
        """See `Cloud.delete`."""
        head = self._access.get(SERVICE, key.name)
        if not _is_head(head):
            raise NotThere(f"the Service {key.name} is no deployment")
        # Not the name alone: it may be another's by now.
        uid = head["metadata"]["uid"]
        self._access.delete(SERVICE, key.name, uid=uid)

    def ensure(self, manifest: Manifest, uid: str) -> None:
        """Create a part, unless an earlier request of ours has done so.

        Args:
            manifest: The part.
            uid: The identity of the Service that owns it.

        Raises:
            Refused: If there is something of that name which is not ours.
            CloudUnavailable: If ours is about to go.
        """
        try:
            self._access.create(manifest)
        except AlreadyThere:
            type_ = Type(manifest["apiVersion"], manifest["kind"])
            name = manifest["metadata"]["name"]
            try:
                meta = self._access.get(type_, name)["metadata"]
            except NotThere as error:
                raise CloudUnavailable(f"{name} has just gone") from error
            if not is_owned(meta, uid):
                raise Refused(
                    f"there is a {type_.kind} {name} already, which belongs "
                    "to something else: give the deployment another name"
                ) from None
            if "deletionTimestamp" in meta:
                raise CloudUnavailable(
                    f"the {type_.kind} {name} is being deleted"
                ) from None

    def _find_partial(self, spec: TritonSpec, stamp: Stamp) -> Manifest:
        """Find what an earlier request of this run has begun."""
        try:
            head = self._access.get(SERVICE, spec.name)
        except NotThere as error:
            raise CloudUnavailable(f"{spec.key} has just gone") from error
        meta = head["metadata"]
        # The same run may have another deadline, when it is started again.
        is_ours = stamp.is_on(meta.get("labels") or {})
        if is_ours and _is_head(head) and "deletionTimestamp" not in meta:
            try:
                self._access.get(STATEFUL_SET, spec.name)
            except NotThere:
                return self._renew(head, manifests.head(spec, stamp))
        raise AlreadyThere(f"{spec.key} is there already")

    def _renew(self, head: Manifest, wanted: Manifest) -> Manifest:
        """Have a head say what is wanted now."""
        fields = ("labels", "annotations")
        change = {each: wanted["metadata"][each] for each in fields}
        if all(
            change[each].items() <= (head["metadata"].get(each) or {}).items()
            for each in fields
        ):
            return head
        change["uid"] = head["metadata"]["uid"]  # and no other's
        name = head["metadata"]["name"]
        try:
            return self._access.patch(SERVICE, name, {"metadata": change})
        except NotThere as error:
            raise CloudUnavailable(f"{name} has just gone") from error

    def _find_budget_version(self) -> str:
        with self._lock:
            if not self._budget_version:
                today, before = "policy/v1", "policy/v1beta1"
                has_it = self._access.supports(today)
                self._budget_version = today if has_it else before
            return self._budget_version

    def _list_nodes(self) -> tuple[Manifest, ...]:
        # Whoever may only use a namespace may not see the nodes.
        with contextlib.suppress(CloudError):
            return tuple(self._access.list(NODE))
        return ()

    def _read_logs(self, pods: Iterable[Manifest]) -> dict[str, str]:
        logs = {}
        for each in pods:
            name = each["metadata"]["name"]
            if _pods.is_ready(each) or not _pods.has_ended_before(each):
                continue
            # A log may be gone with its node.
            with contextlib.suppress(CloudError):
                logs[name] = self._access.logs(
                    name, num_lines=20, previous=_pods.is_waiting(each)
                )
        return logs


def is_owned(meta: Manifest, uid: str) -> bool:
    """Tell from metadata whether something belongs to that Service."""
    owners = meta.get("ownerReferences") or []
    return uid in [each["uid"] for each in owners]


def judge(seen: Seen) -> Observed:
    """Tell what becomes of a deployment: pure."""
    meta = seen.head["metadata"]
    key = Key(Kind.DEPLOYMENT, meta["name"])
    # A part of another deployment carries our labels, too.
    labels = dict(meta.get("labels") or {}) if _is_head(seen.head) else {}
    created = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()

    def say(
        state: State, reason: str = "", cause: Cause = Cause.OTHER
    ) -> Observed:
        return Observed(key, state, labels, cause, reason, created)

    if not _is_head(seen.head):
        return say(
            State.BROKEN, "a Service of that name, which is no deployment"
        )
    if "deletionTimestamp" in meta:
        return say(State.DELETING)
    if seen.stateful_set is None:
        return say(State.PARTIAL)
    troubles = _find_troubles(seen)
    for each in troubles:
        if each.is_final:
            return say(State.BROKEN, each.text, each.cause)
    if troubles:
        return say(State.CREATING, "; ".join(each.text for each in troubles))
    return say(State.READY)


def _find_troubles(seen: Seen) -> list[_pods.Trouble]:
    assert seen.stateful_set is not None  # noqa: S101 - for the type
    found = [
        _pods.diagnose(
            pod,
            seen.events,
            seen.nodes,
            seen.logs.get(pod["metadata"]["name"], ""),
        )
        for pod in seen.pods
    ]
    wanted = seen.stateful_set["spec"]["replicas"]
    if len(seen.pods) < wanted:
        name = seen.stateful_set["metadata"]["name"]
        missing = f"{wanted - len(seen.pods)} of {wanted} pods to be created"
        found.append(
            _pods.refused(seen.events, name) or _pods.Trouble(missing)
        )
    if len(seen.pods) > wanted:
        found.append(_pods.Trouble(f"{len(seen.pods) - wanted} pods to go"))
    found += [
        _pods.Trouble(f"{each['metadata']['name']} has no address yet")
        for each in seen.services
        if each["spec"].get("type") == "LoadBalancer"
        and not each.get("status", {}).get("loadBalancer", {}).get("ingress")
    ]
    return [each for each in found if each is not None]


def _is_head(service: Manifest) -> bool:
    labels = service["metadata"].get("labels") or {}
    return labels.get(manifests.PART) == manifests.HEAD


def _owned(head: Manifest, objects: Iterable[Manifest]) -> list[Manifest]:
    """Choose what belongs to a deployment, apart from its head."""
    name = head["metadata"]["name"]
    return [
        each
        for each in objects
        if each["metadata"]["labels"].get(manifests.INSTANCE) == name
        and not _is_head(each)
    ]


def _count(sets: Iterable[Manifest]) -> int:
    return sum(each["spec"]["replicas"] for each in sets)
