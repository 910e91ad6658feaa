"""What a deployment is to Kubernetes: pure functions to plain manifests.

One Service comes first, carries the `Stamp` and owns everything else, so that
one deletion removes all of it, and that what arrives late, after its owner is
gone, is removed by Kubernetes itself. The StatefulSet comes last: where it is
there, everything is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hermes.cloudbreak._answers import Manifest
from hermes.cloudbreak._settings import record
from hermes.cloudbreak.deployment import SecretValue, TritonSpec
from hermes.cloudbreak.labels import Stamp

__all__ = (
    "balancers",
    "head",
    "parts",
    "replica_index",
    "replica_name",
    "selector",
)

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
CONTAINER = "triton"
INSTANCE = "app.kubernetes.io/instance"
# Marks the Service that owns the rest.
PART, HEAD = "hermes-part", "deployment"
# Whether clients that do not care which server they get may get this one.
SERVING = "hermes-serving"
# The settings of a deployment, on its head, but for what the rest tells.
SETTINGS, LIVE = "hermes/settings", frozenset({"replicas"})

# A client may look after its connection more often than gRPC's default of
# once per five minutes, without being disconnected for it.
_KEEPALIVE = (
    "--grpc-http2-min-recv-ping-interval-without-data=1000",
    "--grpc-http2-max-ping-strikes=0",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-keepalive-permit-without-calls=1",
)
_GPU = "nvidia.com/gpu"
_GPU_TYPE = "cloud.google.com/gke-accelerator"
# Seconds that balancers get to notice that a server has to go.
_NOTICE = 5
_PROBE_PERIOD = 5


def replica_name(name: str, index: int) -> str:
    """Name the pod of a replica, and what leads to it alone."""
    return f"{name}-{index}"


def replica_index(name: str, part: str) -> int | None:
    """Tell of which replica of a deployment something is; None if of none."""
    found = re.fullmatch(rf"{re.escape(name)}-(\d+)", part)
    return int(found[1]) if found else None


def selector(name: str) -> dict[str, str]:
    """Tell by which labels the pods of a deployment are found."""
    return {"app.kubernetes.io/name": "triton", INSTANCE: name}


def head(spec: TritonSpec, stamp: Stamp) -> Manifest:
    """Make the Service that comes first: it gives each replica a name."""
    meta = _meta(spec.name, spec, stamp)
    meta["labels"][PART] = HEAD
    meta["annotations"] = {SETTINGS: record(spec, LIVE)}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(spec.name),
            "ports": _ports(),
        },
    }


def parts(
    spec: TritonSpec,
    stamp: Stamp,
    uid: str,
    budget_version: str = "policy/v1",
) -> list[Manifest]:
    """Make all that the first Service owns, in order.

    Args:
        spec: What is wanted.
        stamp: Whose it is.
        uid: The identity of the first Service.
        budget_version: What the cluster calls disruption budgets.
    """
    made: list[Manifest] = []
    if spec.service != "port-forward":
        everyone = {**selector(spec.name), SERVING: "yes"}
        made.append(_service(f"{spec.name}-all", everyone, spec, stamp))
    if spec.service == "load-balancer":
        made += balancers(spec, stamp, uid, range(spec.replicas))
    made += [
        _budget(spec, stamp, budget_version),
        _stateful_set(spec, stamp),
    ]
    return [_own(each, spec, uid) for each in made]


def balancers(
    spec: TritonSpec, stamp: Stamp, uid: str, indices: Iterable[int]
) -> list[Manifest]:
    """Make the load balancers of single replicas."""
    names = [replica_name(spec.name, index) for index in indices]
    label = "statefulset.kubernetes.io/pod-name"
    made = [_service(name, {label: name}, spec, stamp) for name in names]
    return [_own(each, spec, uid) for each in made]


def _own(manifest: Manifest, spec: TritonSpec, uid: str) -> Manifest:
    manifest["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "name": spec.name,
            "uid": uid,
            "blockOwnerDeletion": True,
        }
    ]
    return manifest


def _service(
    name: str, pods: Mapping[str, str], spec: TritonSpec, stamp: Stamp
) -> Manifest:
    meta = _meta(name, spec, stamp)
    body: Manifest = {"selector": dict(pods), "ports": _ports()}
    if spec.service == "load-balancer":
        body["type"] = "LoadBalancer"
        if spec.source_ranges:
            body["loadBalancerSourceRanges"] = list(spec.source_ranges)
        meta["annotations"] = dict(spec.service_annotations)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": body,
    }


def _budget(spec: TritonSpec, stamp: Stamp, api_version: str) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": "PodDisruptionBudget",
        "metadata": _meta(spec.name, spec, stamp),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(spec.name)},
        },
    }


def _stateful_set(spec: TritonSpec, stamp: Stamp) -> Manifest:
    labels = _meta(spec.name, spec, stamp)["labels"] | {SERVING: "yes"}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _meta(spec.name, spec, stamp),
        "spec": {
            "serviceName": spec.name,
            "replicas": spec.replicas,
            # They do not know of each other, so none waits for another.
            "podManagementPolicy": "Parallel",
            # One after the other, each with its time to finish its work.
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": selector(spec.name)},
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(spec),
            },
        },
    }


def _pod(spec: TritonSpec) -> Manifest:
    wanted = dict(spec.node_selector)
    if spec.gpu_type:
        wanted[_GPU_TYPE] = spec.gpu_type
    tolerated = [_toleration(each) for each in spec.tolerations]
    if spec.gpus:
        tolerated.append(_toleration(f"{_GPU}:NoSchedule"))
    pod: Manifest = {
        "terminationGracePeriodSeconds": _NOTICE + spec.drain_seconds + 10,
        # Triton does not talk to Kubernetes.
        "automountServiceAccountToken": False,
        "containers": [_container(spec)],
        "volumes": [
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory", "sizeLimit": spec.shm_size},
            }
        ],
    }
    optional = {
        "nodeSelector": wanted,
        "tolerations": tolerated,
        "serviceAccountName": spec.service_account,
    }
    return pod | {name: value for name, value in optional.items() if value}


def _container(spec: TritonSpec) -> Manifest:
    return {
        "name": CONTAINER,
        "image": spec.image,
        # No command: the entrypoint of NVIDIA's images, which executes its
        # arguments, finds the CUDA libraries that fit the node's driver.
        "args": ["tritonserver", *_arguments(spec)],
        "env": [_variable(*each) for each in spec.env.items()],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in PORTS.items()
        ],
        "resources": _resources(spec),
        "securityContext": {"allowPrivilegeEscalation": False},
        "startupProbe": _probe("ready", -(-spec.startup_seconds // 5)),
        "readinessProbe": _probe("ready", 2),
        "livenessProbe": _probe("live", 6),
        "lifecycle": {
            "preStop": {"exec": {"command": ["/bin/sleep", str(_NOTICE)]}}
        },
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
    }


def _arguments(spec: TritonSpec) -> list[str]:
    given = [
        f"--model-repository={spec.repository}",
        f"--model-control-mode={spec.model_control}",
        *(f"--load-model={model}" for model in spec.models),
        *_KEEPALIVE,
    ]
    ours = {
        # Else one model that is loaded anew takes all servers from clients.
        "--strict-readiness": "false",
        "--exit-timeout-secs": str(spec.drain_seconds),
    }
    theirs = {each.partition("=")[0] for each in spec.server_args}
    given += [f"{n}={value}" for n, value in ours.items() if n not in theirs]
    return [*given, *spec.server_args]


def _variable(name: str, value: str | SecretValue) -> Manifest:
    if isinstance(value, str):
        return {"name": name, "value": value}
    wanted = {"name": value.secret, "key": value.key}
    return {"name": name, "valueFrom": {"secretKeyRef": wanted}}


def _resources(spec: TritonSpec) -> Manifest:
    requests = {"cpu": spec.cpu, "memory": spec.memory}
    limits = {"memory": spec.memory, _GPU: str(spec.gpus or "")}
    found = {"requests": requests, "limits": limits}
    return {
        name: {what: amount for what, amount in each.items() if amount}
        for name, each in found.items()
        if any(each.values())
    }


def _probe(what: str, failures: int) -> Manifest:
    return {
        "httpGet": {"path": f"/v2/health/{what}", "port": "http"},
        "periodSeconds": _PROBE_PERIOD,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _toleration(text: str) -> Manifest:
    pair, _, effect = text.partition(":")
    key, has_value, value = pair.partition("=")
    found = {"key": key, "operator": "Equal" if has_value else "Exists"}
    if has_value:
        found["value"] = value
    return found | ({"effect": effect} if effect else {})


def _ports() -> list[Manifest]:
    return [
        # Server-side apply finds a port again by its number and its protocol.
        {"name": name, "port": port, "protocol": "TCP", "targetPort": name}
        for name, port in PORTS.items()
    ]


def _meta(name: str, spec: TritonSpec, stamp: Stamp) -> Manifest:
    labels = {
        **selector(spec.name),
        "app.kubernetes.io/managed-by": "hermes",
        **stamp.labels,
    }
    return {"name": name, "labels": labels}
