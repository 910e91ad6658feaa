"""Data to run a network on when the caller gives none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver import dtypes

__all__ = ("example",)

_BFLOAT16 = dtypes.from_triton("TYPE_BF16")  # no float to numpy


def example(
    rng: np.random.Generator, shape: Sequence[int], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Make an array that tells one sample from another.

    Args:
        rng: Where the numbers come from. One generator makes all tensors of
            a run: were two alike, nobody would see them exchanged.
        shape: Its shape.
        dtype: Its dtype; what is not floating point is zero, for whole
            numbers may be indices of something, and the first one exists.
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "f" and dtype != _BFLOAT16:
        return np.zeros(shape, dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)
