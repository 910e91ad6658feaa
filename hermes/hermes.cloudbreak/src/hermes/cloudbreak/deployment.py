"""What is wanted of Triton on a cluster: plain, frozen data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hermes.cloudbreak._settings import settings_of
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.specs import Key, Kind

__all__ = ("SecretValue", "TritonSpec")

DEFAULT_IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
SERVICES = ("cluster", "load-balancer", "port-forward")
CONTROLS = ("none", "poll", "explicit")

# A Service's name, with room for "-" and the number of a replica.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_TOLERATION = re.compile(
    r"[-A-Za-z0-9_./]+(=[-A-Za-z0-9_.]*)?"
    r"(:(NoSchedule|PreferNoSchedule|NoExecute))?"
)
# What clients rely on, or clouds look at only once.
_FIXED = {"service", "service_annotations"}
# What the rest of the description decides, in Triton's own words.
_DECIDED = {
    "--allow-grpc": "service",
    "--allow-http": "service",
    "--grpc-port": "service",
    "--http-port": "service",
    "--metrics-port": "service",
    "--model-control-mode": "model_control",
    "--model-repository": "repository",
}


@dataclass(frozen=True)
class SecretValue:
    """A value that the cluster keeps, and that never passes through here.

    Attributes:
        secret: Name of the Secret, in the namespace of the deployment.
        key: Which of its values.
    """

    secret: str
    key: str


@dataclass(frozen=True)
class TritonSpec:
    """Triton servers that serve one repository, each with its own address.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40.
        repository: Where the models are, as the servers see it:
            ``"gs://bucket/prefix"``, ``"s3://..."``, or an absolute path in
            the image.
        replicas: How many servers.
        gpus: GPUs of each; 0 for none.
        image: The container image. Its entrypoint, if it has one, has to
            execute its arguments, as that of NVIDIA's images does.
        gpu_type: What ``cloud.google.com/gke-accelerator`` says of the nodes;
            "" for any.
        node_selector: More labels that the nodes have to have.
        tolerations: Taints that do not matter: ``"key"``, ``"key=value"`` or
            ``"key=value:effect"``. That of GPU nodes comes by itself.
        model_control: ``"none"``, ``"poll"`` or ``"explicit"``, Triton's
            own words.
        models: What is loaded at the start, with ``"explicit"``.
        env: Variables of the servers; a `SecretValue` for what is secret.
        server_args: More arguments of ``tritonserver``.
        cpu: Processors of each, as Kubernetes writes it; "" for no request.
        memory: Memory of each, which it may not exceed; "" for no limit.
        shm_size: Shared memory of each, in ``/dev/shm``. It counts as memory.
        service: How clients reach the servers: ``"cluster"`` (from within),
            ``"load-balancer"`` (one for each and one for all; anybody who can
            reach it may use it, see `source_ranges`) or ``"port-forward"``
            (this machine only, through the cluster's own server).
        source_ranges: Who may use a load balancer: ``("10.0.0.0/8",)``;
            everybody if empty.
        service_annotations: What a load balancer is told, in its own words.
        service_account: Whose rights the servers have; "" for the default.
        drain_seconds: How long a server that has to go may finish its work.
        startup_seconds: How long it may take to load the models.
        exists_ok: Whether a deployment of that name that is there already,
            with the same settings, will do.

    Raises:
        InvalidSpec: If it makes no deployment.
    """

    name: str
    repository: str
    replicas: int = 1
    gpus: int = 1
    image: str = DEFAULT_IMAGE
    gpu_type: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    model_control: str = "none"
    models: tuple[str, ...] = ()
    env: Mapping[str, str | SecretValue] = field(
        default_factory=dict, repr=False
    )
    server_args: tuple[str, ...] = ()
    cpu: str = ""
    memory: str = ""
    shm_size: str = "1Gi"
    service: str = "cluster"
    source_ranges: tuple[str, ...] = ()
    service_annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    drain_seconds: int = 30
    startup_seconds: int = 600
    exists_ok: bool = False

    def __post_init__(self) -> None:
        for check in _CHECKS:
            check(self)

    @property
    def key(self) -> Key:
        """Which resource it describes."""
        return Key(Kind.DEPLOYMENT, self.name)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it is like, as plain data; of secrets, digests."""
        return settings_of(self)

    @property
    def changeable(self) -> frozenset[str]:
        """Names of the settings that can be changed while it is there."""
        return frozenset(self.settings) - _FIXED

    def elsewhere(self) -> Self | None:
        """There is no other place to try."""
        return None


def _check_names(spec: TritonSpec) -> None:
    if not _NAME.fullmatch(str(spec.name)):
        raise InvalidSpec(
            f"name={spec.name!r}: give lower-case letters, digits and "
            "hyphens, at most 40, the first of them a letter"
        )
    if not re.match(r"[a-z0-9]+://\S|/", str(spec.repository)):
        raise InvalidSpec(
            f"repository={spec.repository!r} of {spec.name}: give a bucket "
            '("gs://bucket/prefix") or an absolute path in the image; the '
            "servers cannot see the disks of this machine"
        )
    if not spec.image or any(each.isspace() for each in spec.image):
        raise InvalidSpec(
            f"image={spec.image!r} of {spec.name}: give a container image, "
            f'such as "{DEFAULT_IMAGE}"'
        )


def _check_numbers(spec: TritonSpec) -> None:
    for name, least in {
        "replicas": 1,
        "gpus": 0,
        "drain_seconds": 0,
        "startup_seconds": 1,
    }.items():
        value = getattr(spec, name)
        if not isinstance(value, int) or value < least:
            raise InvalidSpec(
                f"{name}={value!r} of {spec.name}: give a whole number, "
                f"{least} or more"
            )
    for name in ("cpu", "memory", "shm_size"):
        value = getattr(spec, name)
        if value and not _QUANTITY.fullmatch(value):
            raise InvalidSpec(
                f"{name}={value!r} of {spec.name}: give a quantity as "
                'Kubernetes writes it, such as "4" or "16Gi"'
            )


def _check_choices(spec: TritonSpec) -> None:
    for name, choices in {
        "service": SERVICES,
        "model_control": CONTROLS,
    }.items():
        if getattr(spec, name) not in choices:
            raise InvalidSpec(
                f"{name}={getattr(spec, name)!r} of {spec.name}: give one of "
                f"{', '.join(map(repr, choices))}"
            )
    if spec.models and spec.model_control != "explicit":
        raise InvalidSpec(
            f"models={spec.models!r} of {spec.name}: without "
            'model_control="explicit" Triton loads all there are'
        )
    is_balanced = spec.service == "load-balancer"
    if (spec.source_ranges or spec.service_annotations) and not is_balanced:
        raise InvalidSpec(
            f"source_ranges and service_annotations of {spec.name} are for "
            'service="load-balancer"'
        )


def _check_placement(spec: TritonSpec) -> None:
    if spec.gpu_type and not spec.gpus:
        raise InvalidSpec(
            f"gpu_type={spec.gpu_type!r}, gpus=0 of {spec.name}: give both "
            "or none"
        )
    for each in spec.tolerations:
        if not _TOLERATION.fullmatch(each):
            raise InvalidSpec(
                f"tolerations: {each!r} of {spec.name}: give "
                '"key", "key=value" or "key=value:effect"'
            )


def _check_server(spec: TritonSpec) -> None:
    for name in spec.env:
        if not _VARIABLE.fullmatch(name):
            raise InvalidSpec(
                f"env: {name!r} of {spec.name} is no name of a variable"
            )
    for each in spec.server_args:
        decided = _DECIDED.get(each.partition("=")[0])
        if decided or not each.startswith("--"):
            hint = f"give {decided}=..." if decided else "it has to begin --"
            raise InvalidSpec(f"server_args: {each!r} of {spec.name}: {hint}")


_CHECKS = (
    _check_names,
    _check_numbers,
    _check_choices,
    _check_placement,
    _check_server,
)
