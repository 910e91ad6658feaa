"""What a server says about itself: text to numbers; pure.

The only importer of prometheus_client.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ("Gpu", "ModelKey", "NotMetrics", "Reading", "parse")

# Our names of Triton's counters; durations are in microseconds.
COUNTERS = {
    "nv_inference_count": "count",
    "nv_inference_queue_duration_us": "queue",
    "nv_inference_compute_input_duration_us": "compute_input",
    "nv_inference_compute_infer_duration_us": "compute_infer",
    "nv_inference_compute_output_duration_us": "compute_output",
    "nv_inference_request_duration_us": "request",
    "nv_inference_request_success": "requests",
    "nv_inference_exec_count": "executions",
    "nv_inference_request_failure": "failures",
}
_PENDING = "nv_inference_pending_request_count"
_GPU = {
    "nv_gpu_utilization": "utilization",
    "nv_gpu_memory_used_bytes": "memory_used",
    "nv_gpu_memory_total_bytes": "memory_total",
}
_OURS = frozenset([*COUNTERS, _PENDING, *_GPU])
# What every family of Triton's starts with.
_TRITON = "nv_"

ModelKey = tuple[str, str]
"""A model's name and one of its versions."""


class NotMetrics(ValueError):
    """A text is not Triton's metrics; reaches no user."""


@dataclass(frozen=True)
class Gpu:
    """The state of one GPU, as far as the server tells it.

    Attributes:
        utilization: Busy fraction, from 0 to 1.
        memory_used: Bytes.
        memory_total: Bytes.
    """

    utilization: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None


@dataclass(frozen=True)
class Reading:
    """One answer of a server.

    Series that differ in other labels than model and version (the GPU, the
    reason of a failure, labels of the user's own) are summed.

    Attributes:
        counters: Values since the model was loaded, by `COUNTERS`' names.
        pending: Requests that wait for execution.
        gpus: The GPUs, by their ids.
        gpus_of: The GPUs that a model says it runs on.
    """

    counters: Mapping[ModelKey, Mapping[str, int]] = field(
        default_factory=dict
    )
    pending: Mapping[ModelKey, int] = field(default_factory=dict)
    gpus: Mapping[str, Gpu] = field(default_factory=dict)
    gpus_of: Mapping[ModelKey, frozenset[str]] = field(default_factory=dict)


def parse(text: str) -> Reading:
    """Read an answer.

    Args:
        text: Triton's metrics in Prometheus' text format.

    Raises:
        NotMetrics: If it is something else.
    """
    if _TRITON not in text:
        msg = f"that is no metrics of Triton: {text[:40]!r}"
        raise NotMetrics(msg)
    counters: dict[ModelKey, dict[str, int]] = {}
    pending: dict[ModelKey, int] = defaultdict(int)
    gpus: dict[str, dict[str, float]] = defaultdict(dict)
    gpus_of: dict[ModelKey, set[str]] = defaultdict(set)
    for sample in _samples(text):
        labels = sample.labels
        gpu = labels.get("gpu_uuid")
        if gpu is not None and sample.name in _GPU:
            gpus[gpu][_GPU[sample.name]] = sample.value
        if "model" not in labels:
            continue
        key = labels["model"], labels.get("version", "")
        if sample.name == _PENDING:
            pending[key] += round(sample.value)
        elif sample.name in COUNTERS:
            name = COUNTERS[sample.name]
            found = counters.setdefault(key, {})
            found[name] = found.get(name, 0) + round(sample.value)
            if gpu is not None:
                gpus_of[key].add(gpu)
    return Reading(
        counters,
        dict(pending),
        {name: Gpu(**values) for name, values in gpus.items()},
        {key: frozenset(names) for key, names in gpus_of.items()},
    )


def _samples(text: str) -> Iterator[Sample]:
    # The parser takes 20 us for a line: spare it the lines we do not need.
    lines = (line for line in text.splitlines() if _family(line) in _OURS)
    try:
        for family in text_string_to_metric_families("\n".join(lines)):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    yield sample
    except ValueError as error:
        msg = f"that is no metrics of Triton: {error}"
        raise NotMetrics(msg) from error


def _family(line: str) -> str:
    """The family that a line belongs to; comments belong to none."""
    return line.partition("{")[0].partition(" ")[0].strip()
