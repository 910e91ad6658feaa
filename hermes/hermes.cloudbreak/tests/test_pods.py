"""Why a pod is not ready, from what Kubernetes has been seen to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hermes.cloudbreak import _pods
from hermes.cloudbreak._judge import Seen, judge
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Cause, State

LIMITS = {"limits": {"nvidia.com/gpu": "2", "memory": "8Gi"}}


def pod(state=None, last=None, restarts=0, **status) -> dict:
    container = {
        "state": state or {},
        "lastState": {"terminated": last} if last else {},
        "restartCount": restarts,
    }
    return {
        "metadata": {"name": "triton-0", "uid": "u"},
        "spec": {
            "nodeName": "node-1",
            "containers": [{"image": "registry/triton", "resources": LIMITS}],
        },
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [container],
            **status,
        },
    }


def waiting(reason, message="", **more) -> dict:
    return pod({"waiting": {"reason": reason, "message": message}}, **more)


def event(reason, message, uid="u", when="2026-01-01T00:00:00Z") -> dict:
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"name": "triton-0", "uid": uid},
        "lastTimestamp": when,
    }


def unschedulable(message) -> dict:
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    return pod(conditions=[condition])


def node(name, gpus=None) -> dict:
    allocatable = {"nvidia.com/gpu": gpus} if gpus else {}
    return {"metadata": {"name": name}, "status": {"allocatable": allocatable}}


def say(*args, **kwargs) -> tuple[str, bool]:
    found = _pods.diagnose(*args, **kwargs)
    return found.text, found.is_final


def test_a_ready_pod_has_no_trouble() -> None:
    ready = pod(conditions=[{"type": "Ready", "status": "True"}])
    assert _pods.diagnose(ready) is None
    ready["metadata"]["deletionTimestamp"] = "now"
    assert say(ready) == (
        "triton-0 is being ended, and another one comes",
        False,
    )


@pytest.mark.parametrize(
    ("reason", "message", "is_final"),
    [
        ("ErrImagePull", "manifest unknown", False),  # once more, at least
        ("ImagePullBackOff", "manifest unknown", True),
        ("ImagePullBackOff", "unauthorized: no such robot", True),
        ("ImagePullBackOff", "i/o timeout", False),
        ("InvalidImageName", "couldn't parse", True),
    ],
)
def test_an_image_is_named_with_the_registrys_words(
    reason, message, is_final
) -> None:
    events = [
        event("Failed", "Failed to pull image: old", when="2025"),
        event("Failed", f"Failed to pull image: {message}"),
        event("Failed", "Failed to pull image: another's", uid="v"),
        event("Failed", "Error: ImagePullBackOff", when="2027"),
    ]
    found = say(waiting(reason, "Back-off pulling image"), events)
    why = f"{reason}: Failed to pull image: {message}"
    assert found == (
        f"triton-0 cannot pull registry/triton: {why}",
        is_final,
    )


def test_a_missing_secret_is_for_good() -> None:
    broken = waiting("CreateContainerConfigError", 'secret "k" not found')
    assert say(broken) == ('triton-0 cannot start: secret "k" not found', True)


@pytest.mark.parametrize(("restarts", "is_final"), [(1, False), (3, True)])
def test_a_crash_has_its_exit_code_and_its_last_words(
    restarts, is_final
) -> None:
    broken = waiting(
        "CrashLoopBackOff", last={"exitCode": 1}, restarts=restarts
    )
    log = "\n".join(f"line {number}" for number in range(100))
    text, found = say(broken, log=log)
    assert text.startswith(
        f"triton-0 ended with exit code 1, was restarted {restarts} times"
    )
    assert text.endswith("  line 98\n  line 99")
    assert "line 91" not in text
    assert found is is_final


def test_memory_that_ran_out_is_said_with_the_limit() -> None:
    end = {"exitCode": 137, "reason": "OOMKilled"}
    text, _ = say(waiting("CrashLoopBackOff", last=end, restarts=1))
    assert "ran out of memory" in text
    assert "its limit is 8Gi: give more with memory=" in text


def test_an_eviction_is_told_and_may_be_recovered_from() -> None:
    gone = pod(phase="Failed", reason="Evicted", message="node was low on x")
    text = "triton-0 was evicted: node was low on x"
    assert say(gone) == (text, False)
    gone = pod(phase="Failed", reason="Preempting", message="by another")
    assert say(gone)[0] == "triton-0 has ended: Preempting: by another"


def test_what_is_lacking_is_compared_with_what_there_is() -> None:
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    events = [event("NotTriggerScaleUp", "no pool would fit")]
    text, is_final = say(
        unschedulable(message), events, [node("a", "1"), node("b")]
    )
    assert text == (
        "triton-0 has no node: 0/2 nodes are available: 2 Insufficient "
        "nvidia.com/gpu; it asks for 2 nvidia.com/gpu, the nodes have in all: "
        "a 1, b 0; NotTriggerScaleUp: no pool would fit"
    )
    assert not is_final


def test_what_is_on_its_way_is_told() -> None:
    assert say(pod())[0] == (
        "triton-0 is being started on node-1, with registry/triton"
    )
    events = [event("FailedMount", "no such volume")]
    text = "triton-0 is held up on node-1: no such volume"
    assert say(pod(), events)[0] == text
    running = pod({"running": {}}, last={"exitCode": 1})
    events = [event("Unhealthy", "Startup probe failed: 400")]
    assert say(running, events)[0] == (
        "triton-0 runs on node-1, and is not ready yet: "
        "Startup probe failed: 400"
    )


def seen(*pods, replicas=1, events=(), **head) -> Seen:
    labels = {**Stamp("me", "r", 1).labels, "hermes-part": "deployment"}
    meta = {
        "name": "triton",
        "labels": labels,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **head,
    }
    stateful_set = {
        "metadata": {"name": "triton"},
        "spec": {"replicas": replicas},
    }
    return Seen({"metadata": meta}, stateful_set, (), pods, tuple(events))


READY = pod(conditions=[{"type": "Ready", "status": "True"}])


def test_a_deployment_is_ready_when_all_its_pods_are() -> None:
    assert judge(seen(READY)).state is State.READY
    found = judge(seen(READY, replicas=2))
    assert found.state is State.CREATING
    assert found.reason == "1 of 2 pods to be created"
    assert judge(seen(READY, READY)).reason == "1 pods to go"


def test_a_deployment_that_is_being_deleted_has_no_other_state() -> None:
    found = judge(seen(READY, deletionTimestamp="now"))
    assert found.state is State.DELETING


def test_pods_that_are_refused_by_a_quota_are_for_good() -> None:
    refusal = {
        **event("FailedCreate", "exceeded quota: gpus, limited: 2"),
        "involvedObject": {"name": "triton"},
    }
    found = judge(seen(events=[refusal]))
    assert (found.state, found.cause) == (State.BROKEN, Cause.QUOTA)
    assert "limited: 2" in found.reason
    other = {**refusal, "message": "no service account"}
    assert judge(seen(events=[other])).state is State.CREATING


def of_revision(pod: dict, revision: str) -> dict:
    labels = {"controller-revision-hash": revision}
    return {**pod, "metadata": {**pod["metadata"], "labels": labels}}


def test_a_rollout_is_over_when_all_pods_have_the_new_settings() -> None:
    old, new = of_revision(READY, "a"), of_revision(READY, "b")
    found = seen(old, new, replicas=2)
    found.stateful_set["metadata"]["generation"] = 2
    status = found.stateful_set["status"] = {"observedGeneration": 1}
    judged = judge(found)
    assert judged.state is State.CREATING  # nobody has seen to it yet
    status |= {"observedGeneration": 2, "updateRevision": "b"}
    name = READY["metadata"]["name"]
    assert judge(found).reason == f"{name} has yet to be started anew"
    status["updateRevision"] = "a"
    whole = seen(old, old, replicas=2)
    whole.stateful_set["status"] = status
    assert judge(whole).state is State.READY


def test_what_was_refused_before_the_last_change_does_not_matter() -> None:
    refusal = {
        **event("FailedCreate", "it is invalid", when="2026-11-27T10:00:00Z"),
        "involvedObject": {"name": "triton"},
    }
    found = seen(events=[refusal])
    assert judge(found).state is State.BROKEN
    changed = {"manager": "hermes", "time": "2026-11-27T11:00:00Z"}
    found.stateful_set["metadata"]["managedFields"] = [changed]
    assert judge(found).state is State.CREATING


def test_a_balancer_of_no_server_is_a_difference() -> None:
    head = {"annotations": {"hermes/settings": '{"gpus": 1}'}}
    found = seen(READY, **head)
    assert judge(found).settings == {"gpus": 1, "replicas": 1}
    left = {"metadata": {"name": "triton-1"}, "spec": {}}
    kept = {"metadata": {"name": "triton-0"}, "spec": {}}
    more = replace(found, services=(left, kept))
    assert judge(more).settings["replicas"] == "1 and balancers of 1 more"
