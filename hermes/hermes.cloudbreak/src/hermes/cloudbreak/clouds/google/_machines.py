"""Which machines of Google's have which GPUs: facts, looked up before asking.

Compute Engine's and GKE's documentation is their source. A GPU that is not in
the table is left to the cloud to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypedDict

from hermes.cloudbreak.errors import InvalidSpec

__all__ = ("GPUConfig", "check_gpus", "create_gpu_node_pool_config")

T4 = "nvidia-tesla-t4"

# GPU -> machine type -> (vCPUs, GPUs). They belong together, as they are sold.
_SOLD_WITH: dict[str, dict[str, tuple[int, int]]] = {
    "nvidia-l4": {
        f"g2-standard-{vcpus}": (vcpus, gpus)
        for vcpus, gpus in (
            (4, 1),
            (8, 1),
            (12, 1),
            (16, 1),
            (24, 2),
            (32, 1),
            (48, 4),
            (96, 8),
        )
    },
    "nvidia-tesla-a100": {
        **{f"a2-highgpu-{n}g": (12 * n, n) for n in (1, 2, 4, 8)},
        "a2-megagpu-16g": (96, 16),
    },
    "nvidia-a100-80gb": {
        f"a2-ultragpu-{n}g": (12 * n, n) for n in (1, 2, 4, 8)
    },
    "nvidia-h100-80gb": {
        f"a3-highgpu-{n}g": (26 * n, n) for n in (1, 2, 4, 8)
    },
    "nvidia-h200-141gb": {"a3-ultragpu-8g": (224, 8)},
}
_SERIES = re.compile(r"(g2-standard|a2-\w+gpu|a3-(high|ultra)gpu)-")

# T4s are attached to N1 machines: how many -> the most vCPUs with them.
_T4_VCPUS = {1: 48, 2: 48, 4: 96}
_N1 = re.compile(r"n1-standard-(\d+)|(?:n1-)?custom-(\d+)-\d+(?:-ext)?")
_N1_STANDARD = (1, 2, 4, 8, 16, 32, 64, 96)
_N1_MEMORY_MB = 3840  # per vCPU, as n1-standard has it

_SHORT = {
    "t4": T4,
    "l4": "nvidia-l4",
    "a100": "nvidia-tesla-a100",
    "a100-40gb": "nvidia-tesla-a100",
    "a100-80gb": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
}


class GPUConfig(TypedDict):
    """What makes a node pool one of GPUs: ``NodePool(name, **config)``."""

    machine_type: str
    gpu_type: str
    num_gpus: int


def create_gpu_node_pool_config(
    vcpus: int, gpus: int, gpu_type: str
) -> GPUConfig:
    """Find the machine type with so many vCPUs and GPUs.

    Args:
        vcpus: vCPUs of each machine.
        gpus: GPUs of each machine.
        gpu_type: Google's name of the GPU, such as ``nvidia-tesla-t4``, or
            ``t4``, ``l4``, ``a100``, ``a100-80gb``, ``h100``, ``h200``.

    Returns:
        The keywords ``machine_type``, ``gpu_type`` and ``num_gpus`` of
        `NodePool`.

    Raises:
        InvalidSpec: If there is no such machine; it says which there are.
    """
    named = str(gpu_type).lower()
    gpu = _SHORT.get(named, named)
    if gpu == T4:
        machine_type = _find_n1(vcpus, gpus)
    elif gpu in _SOLD_WITH:
        machine_type = _find_sold_with(gpu, vcpus, gpus)
    else:
        raise InvalidSpec(
            f"gpu_type={gpu_type!r}: give one of {', '.join(_SHORT)}, or "
            f"{', '.join((T4, *_SOLD_WITH))}"
        )
    return GPUConfig(machine_type=machine_type, gpu_type=gpu, num_gpus=gpus)


def check_gpus(machine_type: str, gpu_type: str, num_gpus: int) -> None:
    """Refuse machines that do not have such GPUs, as far as it is known.

    Raises:
        InvalidSpec: If it is known that there is no such machine.
    """
    if not gpu_type:
        _check_without(machine_type)
    elif gpu_type in _SHORT:
        raise InvalidSpec(
            f"gpu_type={gpu_type!r}: give Google's name of it, "
            f"{_SHORT[gpu_type]!r}"
        )
    elif gpu_type == T4:
        _check_n1(machine_type, num_gpus)
    elif gpu_type in _SOLD_WITH:
        _check_sold_with(machine_type, gpu_type, num_gpus)


def _check_sold_with(machine_type: str, gpu_type: str, num_gpus: int) -> None:
    sold = _SOLD_WITH[gpu_type]
    if sold.get(machine_type, (0, 0))[1] != num_gpus:
        raise InvalidSpec(
            f"machine_type={machine_type!r} with {num_gpus} {gpu_type}: "
            f"there are {_list_machines(sold)}"
        )


def _find_sold_with(gpu: str, vcpus: int, gpus: int) -> str:
    sold = _SOLD_WITH[gpu]
    for machine_type, each in sold.items():
        if each == (vcpus, gpus):
            return machine_type
    raise InvalidSpec(
        f"no machine has {vcpus} vCPUs and {gpus} {gpu}: there are "
        f"{_list_machines(sold)}"
    )


def _find_n1(vcpus: int, gpus: int) -> str:
    if not _fits_n1(vcpus, gpus):
        raise InvalidSpec(
            f"no machine has {vcpus} vCPUs and {gpus} {T4}: {_say_n1()}"
        )
    if vcpus in _N1_STANDARD:
        return f"n1-standard-{vcpus}"
    return f"custom-{vcpus}-{vcpus * _N1_MEMORY_MB}"


def _check_n1(machine_type: str, num_gpus: int) -> None:
    found = _N1.fullmatch(machine_type)
    vcpus = int(found[1] or found[2]) if found else 0
    is_sold = found is not None and (not found[1] or vcpus in _N1_STANDARD)
    if not is_sold or not _fits_n1(vcpus, num_gpus):
        raise InvalidSpec(
            f"machine_type={machine_type!r} with {num_gpus} {T4}: {_say_n1()}"
        )


def _fits_n1(vcpus: int, gpus: int) -> bool:
    is_even = vcpus == 1 or vcpus % 2 == 0
    return is_even and 1 <= vcpus <= _T4_VCPUS.get(gpus, 0)


def _check_without(machine_type: str) -> None:
    if not _SERIES.match(machine_type):
        return
    for gpu, sold in _SOLD_WITH.items():
        if machine_type in sold:
            raise InvalidSpec(
                f"machine_type={machine_type!r} comes with GPUs: give "
                f"gpu_type={gpu!r} and num_gpus={sold[machine_type][1]}"
            )
    everything = {
        t: n for sold in _SOLD_WITH.values() for t, n in sold.items()
    }
    raise InvalidSpec(
        f"machine_type={machine_type!r}: there are "
        f"{_list_machines(everything)}"
    )


def _list_machines(sold: dict[str, tuple[int, int]]) -> str:
    return ", ".join(_say_machines(sold))


def _say_machines(sold: dict[str, tuple[int, int]]) -> Iterator[str]:
    for machine_type, (vcpus, gpus) in sold.items():
        yield f"{machine_type} ({vcpus} vCPUs, {gpus} GPUs)"


def _say_n1() -> str:
    counts = ", ".join(
        f"{gpus} with at most {vcpus} vCPUs"
        for gpus, vcpus in _T4_VCPUS.items()
    )
    sizes = ", ".join(str(each) for each in _N1_STANDARD)
    return (
        f"give {counts}, on n1-standard-N (N of {sizes}) or custom-N-MEMORY "
        "(N even)"
    )
