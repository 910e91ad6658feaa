"""Compare what an artifact computes with what its network computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver import dtypes
from hermes.quiver.errors import QuiverError, VerificationFailed
from hermes.quiver.exporters._types import Arrays, Artifact, Session

__all__ = ("compare", "differences", "place_of_worst")

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
        actual = _run(session, names, arrays)
        for name, ours, theirs in zip(names, actual, expected, strict=True):
            _compare(name, ours, theirs)


def _run(
    session: Session, names: Sequence[str], arrays: Arrays
) -> list[npt.NDArray[Any]]:
    try:
        return session(names, arrays)
    except QuiverError:
        raise
    except Exception as error:  # frameworks' own have no base
        shapes = {
            name: f"{array.dtype}{list(array.shape)}"
            for name, array in arrays.items()
        }
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else type(error).__name__
        msg = (
            f"the artifact does not run on inputs of {shapes}: {reason};"
            " verify=False exports it unchecked"
        )
        raise VerificationFailed(msg) from error


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
    tolerance, least = _TOLERANCE.get(expected.dtype, (0.0, 0.0))
    difference, largest = differences(actual, expected, least)
    allowed = tolerance * largest
    if not (difference <= allowed).all():
        where = place_of_worst(difference)
        batch = f" at batch {len(actual)}" if actual.ndim else ""
        msg = (
            f"output {name!r}{batch}: the artifact gives {actual[where]}, the"
            f" network {expected[where]} at {where} (difference"
            f" {difference[where]:.3g}, allowed {allowed:.3g}); is the network"
            " deterministic, without branches on values or sizes? verify=False"
            " exports it unchecked"
        )
        raise VerificationFailed(msg)


def differences(
    actual: npt.NDArray[Any], expected: npt.NDArray[Any], least: float
) -> tuple[npt.NDArray[np.float64], float]:
    """How much two arrays differ, and what that is to be measured by.

    Args:
        actual: One.
        expected: The other.
        least: The smallest measure.

    Returns:
        The absolute differences; infinite or NaN where only one of both is.
        And the largest of the finite expected values, at least ``least``.
    """
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.asarray(np.abs(ours - theirs))
    # What is infinite or NaN on one side only stays so.
    difference[(ours == theirs) | (np.isnan(ours) & np.isnan(theirs))] = 0
    finite = np.abs(theirs[np.isfinite(theirs)])
    return difference, float(np.max(finite, initial=least))


def place_of_worst(difference: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Index of the largest difference; NaN is larger than any."""
    worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
    return tuple(map(int, np.unravel_index(worst, difference.shape)))
