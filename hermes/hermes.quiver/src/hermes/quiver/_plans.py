"""Pure: whether an engine will run in a container and on a GPU.

An engine runs with the version of TensorRT that built it, and on GPUs of the
compute capability that it was built for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ("Problem", "capability_of", "problems")


class Problem(NamedTuple):
    """What lint makes a finding of."""

    severity: str
    rule: str
    message: str
    cure: str


# Release of Triton's container -> TensorRT in it, from NVIDIA's release notes
# and what the containers say of themselves.
_TENSORRT = {
    (24, 4): "8.6.3",
    (24, 5): "10.0.1",
    (24, 6): "10.1.0",
    (24, 7): "10.2.0",
    (24, 8): "10.3.0",
    (24, 9): "10.4.0",
    (24, 10): "10.5.0",
    (24, 11): "10.6.0",
    (24, 12): "10.7.0",
    (25, 1): "10.8.0",
    (25, 2): "10.8.0",
    (25, 3): "10.9.0",
    (25, 4): "10.9.0",
    (25, 5): "10.10.0",
    (25, 6): "10.11.0",
    (25, 8): "10.13.2",
    (25, 9): "10.13.3",
    (25, 11): "10.14.1",
    (25, 12): "10.14.1",
}
_CAPABILITIES = {
    "A10": "8.6",
    "A100": "8.0",
    "A2": "8.6",
    "A30": "8.0",
    "A40": "8.6",
    "B200": "10.0",
    "GB200": "10.0",
    "GH200": "9.0",
    "H100": "9.0",
    "H200": "9.0",
    "L4": "8.9",
    "L40": "8.9",
    "L40S": "8.9",
    "T4": "7.5",
    "V100": "7.0",
}
_REBUILD = "export it again with the TensorRT of the container (command=[...])"


def capability_of(gpu: str) -> str:
    """Compute capability of a GPU.

    Args:
        gpu: Its name, such as ``"A100"``, or the capability itself.

    Raises:
        ValueError: If it is not known.
    """
    if re.fullmatch(r"\d+\.\d", gpu):
        return gpu
    if gpu.upper() not in _CAPABILITIES:
        msg = (
            f"gpu={gpu!r} is none of {', '.join(_CAPABILITIES)}; give its"
            " compute capability, such as '8.0'"
        )
        raise ValueError(msg)
    return _CAPABILITIES[gpu.upper()]


def problems(
    provenance: bytes | None,
    container: tuple[int, int] | None,
    capability: str | None,
) -> Iterator[Problem]:
    """Compare how an engine was built with where it is to run.

    Args:
        provenance: Content of ``model.plan.json``; None if there is none.
        container: Release of Triton's container, (year, month), if known.
        capability: Compute capability of the GPU, if known.
    """
    facts = _read(provenance)
    if facts is None:
        yield Problem(
            "warning",
            "no-provenance",
            "nothing says how its engine was built",
            "export it with quiver, which writes model.plan.json beside it",
        )
    elif facts.get("builder") != "tensorrt":
        yield Problem(
            "error",
            "rtx-engine",
            f"its engine was built by {facts.get('builder')}, and Triton's"
            " backend only runs those of tensorrt",
            "export it with builder='tensorrt'",
        )
    else:
        if container is not None:
            yield from _version(facts, container)
        if capability is not None:
            yield from _capability(facts, capability)


def _read(provenance: bytes | None) -> dict[str, Any] | None:
    try:
        facts = json.loads(provenance or b"")
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def _version(
    facts: dict[str, Any], container: tuple[int, int]
) -> Iterator[Problem]:
    year, month = container
    built = str(facts.get("builder_version"))
    wanted = _TENSORRT.get(container)
    if wanted is None:
        yield Problem(
            "warning",
            "unknown-release",
            f"its engine needs TensorRT {built}, and it is not known here"
            f" what Triton {year}.{month:02} has",
            "compare with NVIDIA's support matrix",
        )
    elif built.split(".")[:3] != wanted.split("."):
        yield Problem(
            "error",
            "tensorrt-version",
            f"its engine was built by TensorRT {built}, and Triton"
            f" {year}.{month:02} has {wanted}",
            _REBUILD,
        )


def _capability(facts: dict[str, Any], wanted: str) -> Iterator[Problem]:
    built = facts.get("compute_capability")
    level = facts.get("hardware_compatibility")
    if built is None:
        yield Problem(
            "warning",
            "unknown-gpu",
            "nothing says for which GPU its engine was built",
            _REBUILD,
        )
    elif built != wanted and not (
        level == "ampere_plus" and float(wanted) >= 8
    ):
        yield Problem(
            "error",
            "compute-capability",
            f"its engine was built for compute capability {built}, and the"
            f" GPU has {wanted}",
            "export it on such a GPU, or with"
            " hardware_compatibility='ampere_plus'",
        )
