"""Run what was exported and compare it with its source (extra ``verify``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from hermes.quiver.errors import VerificationFailed
from hermes.quiver.exporters import Artifact
from hermes.quiver.exporters._types import Arrays

__all__ = ("open_session", "verify_artifact")

# Largest difference allowed, relative to the largest output: the artifact
# sums in another order than the framework.
_TOLERANCE = {
    np.dtype(np.float16): 1e-2,
    np.dtype(np.float32): 1e-4,
    np.dtype(np.float64): 1e-9,
}


def open_session(
    content: bytes,
) -> Callable[[Sequence[str], Arrays], list[npt.NDArray[Any]]]:
    """Load an ONNX artifact.

    Args:
        content: The file's content.

    Returns:
        A function of the names of outputs and of the inputs, which gives the
        outputs.
    """
    session = onnxruntime.InferenceSession(
        content, providers=["CPUExecutionProvider"]
    )

    def run(names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
        # onnxruntime sums in an order that depends on where the memory
        # begins, modulo 16 bytes: a view gives other last bits than an array.
        arrays = {name: np.array(array) for name, array in feeds.items()}
        return [np.asarray(array) for array in session.run(names, arrays)]

    return run


def verify_artifact(artifact: Artifact) -> None:
    """Compare an ONNX artifact with the network it came from.

    It runs at the batch of the samples and, where the batch is variable, at
    batch 1.

    Raises:
        VerificationFailed: If they disagree, with the largest difference
            and where it is.
    """
    if artifact.reference is None:
        return
    run = open_session(artifact.content)
    names = [tensor.name for tensor in artifact.outputs]
    for arrays in _batches(artifact):
        expected = artifact.reference(arrays)
        actual = run(names, arrays)
        for name, ours, theirs in zip(names, actual, expected, strict=True):
            _compare(name, ours, theirs)


def _batches(artifact: Artifact) -> Iterator[Arrays]:
    yield artifact.samples
    if all(t.shape and t.shape[0] is None for t in artifact.inputs):
        yield {name: array[:1] for name, array in artifact.samples.items()}


def _compare(
    name: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]
) -> None:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        msg = (
            f"output {name!r}: the artifact gives {actual.dtype}"
            f"{list(actual.shape)}, the network {expected.dtype}"
            f"{list(expected.shape)}"
        )
        raise VerificationFailed(msg)
    if actual.size == 0:
        return
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - theirs)
    # What is infinite or NaN on one side only stays so here, and fails below.
    difference[(ours == theirs) | (np.isnan(ours) & np.isnan(theirs))] = 0
    finite = np.abs(theirs[np.isfinite(theirs)])
    scale = max(1.0, float(np.max(finite, initial=0)))
    allowed = _TOLERANCE.get(expected.dtype, 0.0) * scale
    if not (difference <= allowed).all():
        worst = np.unravel_index(
            int(np.argmax(np.nan_to_num(difference, nan=np.inf))),
            difference.shape,
        )
        where = tuple(map(int, worst))
        msg = (
            f"output {name!r} at batch {len(actual)}: the artifact gives"
            f" {actual[where]}, the network {expected[where]} at"
            f" {where} (allowed difference {allowed:.3g}); is the network"
            " deterministic? verify=False exports it unchecked"
        )
        raise VerificationFailed(msg)
