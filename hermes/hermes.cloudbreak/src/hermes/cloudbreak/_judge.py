"""What becomes of a deployment, from what Kubernetes says of it: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hermes.cloudbreak import _pods, manifests
from hermes.cloudbreak._answers import MANAGER, Manifest
from hermes.cloudbreak._settings import unrecord
from hermes.cloudbreak.specs import Cause, Key, Kind, Observed, State

__all__ = ("Seen", "is_head", "judge", "surplus")


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


def judge(seen: Seen) -> Observed:
    """Tell what becomes of a deployment: pure."""
    meta = seen.head["metadata"]
    key = Key(Kind.DEPLOYMENT, meta["name"])
    # A part of another deployment carries our labels, too.
    labels = dict(meta.get("labels") or {}) if is_head(seen.head) else {}
    created = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()

    def say(
        state: State, reason: str = "", cause: Cause = Cause.OTHER
    ) -> Observed:
        settings = _read_settings(seen) if labels else {}
        return Observed(key, state, labels, cause, reason, created, settings)

    if not is_head(seen.head):
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
    whole = seen.stateful_set
    assert whole is not None  # noqa: S101 - for the type
    found = [_find_trouble(pod, whole, seen) for pod in seen.pods]
    wanted = whole["spec"]["replicas"]
    if len(seen.pods) < wanted:
        name, since = whole["metadata"]["name"], _changed(whole)
        missing = f"{wanted - len(seen.pods)} of {wanted} pods to be created"
        events = [e for e in seen.events if _time_of(e) >= since]
        found.append(_pods.refused(events, name) or _pods.Trouble(missing))
    if len(seen.pods) > wanted:
        found.append(_pods.Trouble(f"{len(seen.pods) - wanted} pods to go"))
    found += [
        _pods.Trouble(f"{each['metadata']['name']} has no address yet")
        for each in seen.services
        if each["spec"].get("type") == "LoadBalancer"
        and not each.get("status", {}).get("loadBalancer", {}).get("ingress")
    ]
    return [each for each in found if each is not None]


def _find_trouble(
    pod: Manifest, stateful_set: Manifest, seen: Seen
) -> _pods.Trouble | None:
    name = pod["metadata"]["name"]
    # What is wrong with those that are replaced is about to be over.
    if not _is_noticed(stateful_set) or _is_outdated(pod, stateful_set):
        return _pods.Trouble(f"{name} has yet to be started anew")
    log = seen.logs.get(name, "")
    return _pods.diagnose(pod, seen.events, seen.nodes, log)


def _time_of(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "9")


def surplus(seen: Seen) -> list[Manifest]:
    """List balancers of replicas that are not wanted any more."""
    if seen.stateful_set is None:
        return []
    name = seen.head["metadata"]["name"]
    size = seen.stateful_set["spec"]["replicas"]
    return [
        each
        for each in seen.services
        if "deletionTimestamp" not in each["metadata"]
        and (of := manifests.replica_index(name, each["metadata"]["name"]))
        is not None
        and of >= size
    ]


def _read_settings(seen: Seen) -> dict[str, Any]:
    annotations = seen.head["metadata"].get("annotations") or {}
    found = unrecord(annotations.get(manifests.SETTINGS, ""))
    if found and seen.stateful_set is not None:
        replicas: int | str = seen.stateful_set["spec"]["replicas"]
        if left := surplus(seen):
            replicas = f"{replicas} and balancers of {len(left)} more"
        found["replicas"] = replicas
    return found


def _is_noticed(stateful_set: Manifest) -> bool:
    status = stateful_set.get("status") or {}
    generation = stateful_set["metadata"].get("generation", 0)
    return bool(status.get("observedGeneration", 0) >= generation)


def _is_outdated(pod: Manifest, stateful_set: Manifest) -> bool:
    """Whether a pod has settings of before."""
    wanted = (stateful_set.get("status") or {}).get("updateRevision")
    labels = pod["metadata"].get("labels") or {}
    return wanted not in {None, labels.get("controller-revision-hash")}


def _changed(stateful_set: Manifest) -> str:
    """Say when we have last changed it; what was told before is over."""
    fields = stateful_set["metadata"].get("managedFields") or []
    ours = [e.get("time", "") for e in fields if e["manager"] == MANAGER]
    return max(ours, default="")


def is_head(service: Manifest) -> bool:
    labels = service["metadata"].get("labels") or {}
    return labels.get(manifests.PART) == manifests.HEAD
