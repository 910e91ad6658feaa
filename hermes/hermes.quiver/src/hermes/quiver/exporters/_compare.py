"""Compare what an artifact computes with what its network computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver import dtypes
from hermes.quiver.errors import VerificationFailed
from hermes.quiver.exporters._types import Arrays, Artifact, Session

__all__ = ("compare",)

# Largest difference allowed, relative to the largest output: the artifact
# sums in another order than the framework. What is summed may be larger than
# the outputs, so that smaller ones than these count as these.
_TOLERANCE = {
    dtypes.from_triton("TYPE_BF16"): (5e-2, 1.0),
    np.dtype(np.float16): (1e-2, 1.0),
    np.dtype(np.float32): (1e-4, 0.1),
    np.dtype(np.float64): (1e-9, 0.1),
}


def compare(artifact: Artifact, session: Session, max_batch_size: int) -> None:
    """Compare an artifact with the network it came from.

    Where the batch is variable they run at batch 1, 2 and the maximum.
    Each of the artifact's other samples is compared, too.

    Args:
        artifact: The artifact, with samples.
        session: Runs it.
        max_batch_size: The largest batch it has to take; 0 if not limited.

    Raises:
        VerificationFailed: If they disagree, with the largest difference
            and where it is.
    """
    if artifact.reference is None:
        return
    names = [tensor.name for tensor in artifact.outputs]
    for arrays in (*_batches(artifact, max_batch_size), *artifact.others):
        expected = artifact.reference(arrays)
        actual = session(names, arrays)
        for name, ours, theirs in zip(names, actual, expected, strict=True):
            _compare(name, ours, theirs)


def _batches(artifact: Artifact, max_batch_size: int) -> Iterator[Arrays]:
    variable = [t.name for t in artifact.inputs if t.shape[:1] == (None,)]
    if not variable:
        yield artifact.samples
        return
    given = {len(artifact.samples[name]) for name in variable}
    for size in sorted({1, 2, max_batch_size or 1, *given}):
        resized = {
            name: np.resize(array, (size, *array.shape[1:]))  # its rows again
            for name, array in artifact.samples.items()
            if name in variable
        }
        yield artifact.samples | resized


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
        difference = np.asarray(np.abs(ours - theirs))
    # What is infinite or NaN on one side only stays so here, and fails below.
    difference[(ours == theirs) | (np.isnan(ours) & np.isnan(theirs))] = 0
    finite = np.abs(theirs[np.isfinite(theirs)])
    tolerance, least = _TOLERANCE.get(expected.dtype, (0.0, 0.0))
    allowed = tolerance * float(np.max(finite, initial=least))
    if not (difference <= allowed).all():
        worst = np.unravel_index(
            int(np.argmax(np.nan_to_num(difference, nan=np.inf))),
            difference.shape,
        )
        where = tuple(map(int, worst))
        batch = f" at batch {len(actual)}" if actual.ndim else ""
        msg = (
            f"output {name!r}{batch}: the artifact gives {actual[where]}, the"
            f" network {expected[where]} at {where} (difference"
            f" {difference[where]:.3g}, allowed {allowed:.3g}); is the network"
            " deterministic, without branches on values? verify=False exports"
            " it unchecked"
        )
        raise VerificationFailed(msg)
