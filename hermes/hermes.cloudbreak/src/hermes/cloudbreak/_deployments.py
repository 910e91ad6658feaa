"""Deployments of Triton on a cluster, as a `Cloud`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

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
from hermes.cloudbreak._judge import Seen, is_head, judge, surplus
from hermes.cloudbreak._replicas import infer_zeros
from hermes.cloudbreak._servers import Servers
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
from hermes.cloudbreak.specs import Key, Observed, Spec
from hermes.cloudbreak.waiting import Clock

__all__ = ("Deployments",)


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

    def close(self) -> None:
        """Close the connections to the cluster."""
        self._access.close()

    def check(self, spec: Spec, clock: Clock, deadline: float) -> None:
        """Have each server infer zeros, through the cluster's own server.

        Args:
            spec: What was deployed.
            clock: The time.
            deadline: Until when.

        Raises:
            ResourceFailed: If a model does not infer.
            WaitTimeout: If a server is not ready in time.
        """
        spec = _check(spec)
        servers = Servers(spec, self._access, clock, infer_zeros)
        try:
            servers.add(range(spec.replicas), deadline)
        finally:
            servers.close()

    def observe(self, owner: str | None = None) -> Iterable[Observed]:
        """See `Cloud.observe`."""
        wanted = f"{OWNER}={owner}" if owner else OWNER
        services = self._access.list(SERVICE, wanted)
        heads = [each for each in services if is_head(each)]
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
        if stamp is None or not is_head(head):
            return judge(Seen(head))
        listed = self.observe(stamp.owner)
        return next((each for each in listed if each.key == key), None)

    def create(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.create`."""
        spec = _check(spec)
        try:
            head = self._access.create(manifests.head(spec, stamp))
        except AlreadyThere:
            head = self._find_partial(spec, stamp)
        self._ensure_parts(head, spec, stamp)

    def update(self, spec: Spec, stamp: Stamp) -> None:
        """See `Cloud.update`; servers are started anew one by one."""
        spec = _check(spec)
        head = self._access.get(SERVICE, spec.name)
        labels = head["metadata"].get("labels") or {}
        # Its own: by another deadline, all servers would be started anew.
        had = Stamp.read(labels)
        if had is None or not stamp.is_on(labels) or not is_head(head):
            raise NotThere(f"there is no {spec.key} of run {stamp.run}")
        self._ensure_parts(head, spec, had)
        self.trim(spec.key)
        # Last: until then, it is another deployment than it should be.
        self._renew(head, manifests.head(spec, had))

    def delete(self, key: Key) -> None:
        """See `Cloud.delete`."""
        head = self._access.get(SERVICE, key.name)
        if not is_head(head):
            raise NotThere(f"the Service {key.name} is no deployment")
        # Not the name alone: it may be another's by now.
        uid = head["metadata"]["uid"]
        self._access.delete(SERVICE, key.name, uid=uid)

    def logs(self, key: Key) -> dict[str, str]:
        """Read the end of each server's log, by the name of its pod.

        Raises:
            NotThere: If it has no pods.
        """
        wanted = f"{manifests.INSTANCE}={key.name}"
        pods = [e["metadata"]["name"] for e in self._access.list(POD, wanted)]
        if not pods:
            raise NotThere(f"{key} has no pods")
        return {each: self._read_log(each) for each in sorted(pods)}

    def trim(self, key: Key) -> None:
        """Delete the balancers of replicas that are not wanted any more.

        Raises:
            NotThere: If there is no such deployment.
        """
        head = self._access.get(SERVICE, key.name)
        whole = self._access.get(STATEFUL_SET, key.name)
        wanted = f"{manifests.INSTANCE}={key.name}"
        services = self._access.list(SERVICE, wanted)
        for each in surplus(Seen(head, whole, tuple(services))):
            meta, uid = each["metadata"], head["metadata"]["uid"]
            if is_owned(meta, uid):
                with contextlib.suppress(NotThere):
                    self._access.delete(SERVICE, meta["name"], uid=meta["uid"])

    def ensure(self, manifest: Manifest, uid: str) -> None:
        """Have a part be so, unless something else has its name.

        Args:
            manifest: The part.
            uid: The identity of the Service that owns it.

        Raises:
            Refused: If there is something of that name which is not ours.
            CloudUnavailable: If ours is about to go.
        """
        type_ = Type(manifest["apiVersion"], manifest["kind"])
        name = manifest["metadata"]["name"]
        try:
            meta = self._access.get(type_, name)["metadata"]
        except NotThere:
            # A stranger's that comes meanwhile is a conflict, and seen then.
            self._access.apply(manifest, force=False)
            return
        if not is_owned(meta, uid):
            raise Refused(
                f"there is a {type_.kind} {name} already, which belongs to "
                "something else: give the deployment another name"
            )
        if "deletionTimestamp" in meta:
            raise CloudUnavailable(f"the {type_.kind} {name} is being deleted")
        self._access.apply(manifest)

    def _ensure_parts(
        self, head: Manifest, spec: TritonSpec, stamp: Stamp
    ) -> None:
        uid = head["metadata"]["uid"]
        version = self._find_budget_version()
        for each in manifests.parts(spec, stamp, uid, version):
            self.ensure(each, uid)

    def _read_log(self, pod: str) -> str:
        try:
            return self._access.logs(pod, container=manifests.CONTAINER)
        except CloudError as error:  # such as while it is being placed
            return f"(no log: {error})"

    def _find_partial(self, spec: TritonSpec, stamp: Stamp) -> Manifest:
        """Find what an earlier request of this run has begun."""
        try:
            head = self._access.get(SERVICE, spec.name)
        except NotThere as error:
            raise CloudUnavailable(f"{spec.key} has just gone") from error
        meta = head["metadata"]
        # The same run may have another deadline, when it is started again.
        is_ours = stamp.is_on(meta.get("labels") or {})
        if is_ours and is_head(head) and "deletionTimestamp" not in meta:
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


def _owned(head: Manifest, objects: Iterable[Manifest]) -> list[Manifest]:
    """Choose what belongs to a deployment, apart from its head."""
    name = head["metadata"]["name"]
    return [
        each
        for each in objects
        if each["metadata"]["labels"].get(manifests.INSTANCE) == name
        and not is_head(each)
    ]


def _check(spec: Spec) -> TritonSpec:
    if not isinstance(spec, TritonSpec):
        raise InvalidSpec(f"{spec.key} is no deployment: give a TritonSpec")
    return spec


def _count(sets: Iterable[Manifest]) -> int:
    return sum(each["spec"]["replicas"] for each in sets)
