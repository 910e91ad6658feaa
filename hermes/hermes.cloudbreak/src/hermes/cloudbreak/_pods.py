"""Why a pod is not ready: pure, from what Kubernetes says to a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hermes.cloudbreak._answers import Manifest
from hermes.cloudbreak.specs import Cause

__all__ = (
    "Trouble",
    "diagnose",
    "has_ended_before",
    "is_ready",
    "is_waiting",
    "refused",
)

_GPU = "nvidia.com/gpu"
# So often a container may end before it is taken for broken for good.
_MOST_RESTARTS = 3
_LOG_LINES = 8
_PULLS = {
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
}
_CONFIGURATIONS = {"CreateContainerConfigError", "CreateContainerError"}
# What a registry says when asking again will not help.
_NO_SUCH_IMAGE = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|no such host"
    r"|invalid|repository does not exist",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Trouble:
    """Why something is not ready.

    Attributes:
        text: For people.
        is_final: Whether it will stay so.
        cause: What kind of trouble it is.
    """

    text: str
    is_final: bool = False
    cause: Cause = field(default=Cause.OTHER)


def is_ready(pod: Manifest) -> bool:
    """Whether a pod is ready, and is to stay."""
    is_leaving = "deletionTimestamp" in pod["metadata"]
    return not is_leaving and _condition(pod, "Ready").get("status") == "True"


def has_ended_before(pod: Manifest) -> bool:
    """Whether its container has ended at least once: then there is a log."""
    return bool(_last_end(pod))


def is_waiting(pod: Manifest) -> bool:
    """Whether its container waits to be started again."""
    return "waiting" in _state(pod)


def diagnose(
    pod: Manifest,
    events: Iterable[Manifest] = (),
    nodes: Iterable[Manifest] = (),
    log: str = "",
) -> Trouble | None:
    """Tell why a pod is not ready; None if it is.

    Args:
        pod: The pod.
        events: Events of its namespace.
        nodes: The nodes of the cluster.
        log: The end of its container's log before the last restart.
    """
    if is_ready(pod):
        return None
    name = pod["metadata"]["name"]
    told = _of(pod, events)
    found = (
        _say_phase(pod)
        or _say_waiting(pod, told)
        or _say_end(pod, log)
        or _say_scheduling(pod, nodes, told)
        or _say_starting(pod, told)
    )
    return Trouble(f"{name} {found.text}", found.is_final, found.cause)


def refused(events: Iterable[Manifest], owner: str) -> Trouble | None:
    """Tell why a StatefulSet could not even create its pods."""
    told = [
        each
        for each in events
        if each.get("reason") == "FailedCreate"
        and each["involvedObject"].get("name") == owner
    ]
    if not told:
        return None
    message = _newest(told)["message"]
    is_quota = "exceeded quota" in message
    cause = Cause.QUOTA if is_quota else Cause.OTHER
    is_final = is_quota or "is invalid" in message
    return Trouble(f"its pods are refused: {message}", is_final, cause)


def _say_phase(pod: Manifest) -> Trouble | None:
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        reason = status.get("reason") or "Failed"
        message = status.get("message") or "no reason is given"
        word = "was evicted" if reason == "Evicted" else f"has ended: {reason}"
        return Trouble(f"{word}: {message}")
    if "deletionTimestamp" in pod["metadata"]:
        return Trouble("is being ended, and another one comes")
    return None


def _say_waiting(
    pod: Manifest, told: Mapping[str, Manifest]
) -> Trouble | None:
    waiting = _state(pod).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULLS:
        image = _container(pod).get("image", "")
        # The back-off says nothing; the event has the registry's own words.
        if failed := told.get("Failed"):
            message = failed["message"]
        is_final = reason == "InvalidImageName" or (
            reason != "ErrImagePull" and bool(_NO_SUCH_IMAGE.search(message))
        )
        return Trouble(f"cannot pull {image}: {reason}: {message}", is_final)
    if reason in _CONFIGURATIONS:
        is_final = "not found" in message or "couldn't find" in message
        return Trouble(f"cannot start: {message or reason}", is_final)
    return None


def _say_end(pod: Manifest, log: str) -> Trouble | None:
    """Say how its container has ended, if it is not running again."""
    ended = _last_end(pod)
    if not ended or "running" in _state(pod):
        return None
    count = _status(pod).get("restartCount", 0)
    if ended.get("reason") == "OOMKilled":
        limits = _container(pod).get("resources", {}).get("limits", {})
        limit = limits.get("memory")
        how = "ran out of memory (OOMKilled, exit code 137)" + (
            f", its limit is {limit}: give more with memory=" if limit else ""
        )
    else:
        how = f"ended with exit code {ended.get('exitCode')}"
    lines = log.strip().splitlines()[-_LOG_LINES:]
    last = "; it said last:\n  " + "\n  ".join(lines) if lines else ""
    text = f"{how}, was restarted {count} times{last}"
    return Trouble(text, count >= _MOST_RESTARTS)


def _say_scheduling(
    pod: Manifest, nodes: Iterable[Manifest], told: Mapping[str, Manifest]
) -> Trouble | None:
    condition = _condition(pod, "PodScheduled")
    if condition.get("status") == "True":
        return None
    message = condition.get("message", "no node has been looked for yet")
    lacking = "".join(
        _compare(resource, pod, nodes)
        for resource in re.findall(r"Insufficient ([^\s,]+)", message)
    )
    for reason in ("TriggeredScaleUp", "NotTriggerScaleUp"):
        if reason in told:
            lacking += f"; {reason}: {told[reason]['message']}"
    return Trouble(f"has no node: {message.rstrip('.')}{lacking}")


def _compare(resource: str, pod: Manifest, nodes: Iterable[Manifest]) -> str:
    resource = resource.rstrip(".")
    wanted = _container(pod).get("resources", {})
    asked = {**wanted.get("limits", {}), **wanted.get("requests", {})}
    have = ", ".join(
        f"{each['metadata']['name']} "
        f"{each.get('status', {}).get('allocatable', {}).get(resource, 0)}"
        for each in nodes
    )
    return f"; it asks for {asked.get(resource, '?')} {resource}" + (
        f", the nodes have in all: {have}" if have else ""
    )


def _say_starting(pod: Manifest, told: Mapping[str, Manifest]) -> Trouble:
    node = pod.get("spec", {}).get("nodeName", "")
    if "running" in _state(pod):
        unhealthy = told.get("Unhealthy", {}).get("message", "")
        why = f": {unhealthy}" if unhealthy else ""
        return Trouble(f"runs on {node}, and is not ready yet{why}")
    for reason in (
        "FailedMount",
        "FailedAttachVolume",
        "FailedCreatePodSandBox",
    ):
        if reason in told:
            return Trouble(f"is held up on {node}: {told[reason]['message']}")
    image = _container(pod).get("image", "")
    return Trouble(f"is being started on {node}, with {image}")


def _of(pod: Manifest, events: Iterable[Manifest]) -> dict[str, Manifest]:
    """Give the newest event of each reason that is about this very pod."""
    uid = pod["metadata"].get("uid")
    found: dict[str, list[Manifest]] = {}
    for each in events:
        if uid and each.get("involvedObject", {}).get("uid") == uid:
            # "Failed" is also said of things that are not images.
            is_pull = "pull" in each.get("message", "")
            if each.get("reason") != "Failed" or is_pull:
                found.setdefault(each.get("reason", ""), []).append(each)
    return {reason: _newest(several) for reason, several in found.items()}


def _newest(events: Iterable[Manifest]) -> Manifest:
    return max(
        events,
        key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""),
    )


def _condition(pod: Manifest, kind: str) -> Manifest:
    for each in pod.get("status", {}).get("conditions") or []:
        if each.get("type") == kind:
            return dict(each)
    return {}


def _container(pod: Manifest) -> Manifest:
    return dict(next(iter(pod.get("spec", {}).get("containers", [])), {}))


def _status(pod: Manifest) -> Manifest:
    found = pod.get("status", {}).get("containerStatuses") or [{}]
    return dict(found[0])


def _state(pod: Manifest) -> Manifest:
    return dict(_status(pod).get("state") or {})


def _last_end(pod: Manifest) -> Manifest:
    now = _state(pod).get("terminated")
    last = (_status(pod).get("lastState") or {}).get("terminated")
    return dict(now or last or {})
