"""From what the server answered to what was asked for; pure.

A request that was padded is answered with more than its own: rows that
nobody gave, and predictions that look at samples which are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from hermes.aeriel.client._requests import Arrays
from hermes.aeriel.specs import ModelSpec

__all__ = ("cut", "trim")

Outputs = Mapping[str, npt.NDArray[Any]]


def trim(outputs: Outputs, rows: int | None, of: int | None) -> Arrays:
    """Take the rows of padding off a batch.

    Args:
        outputs: Arrays by name.
        rows: Rows that were given; None if none were added.
        of: Rows that were sent.

    Returns:
        Views of the arrays. One that has not as many rows as were sent is
        no batch, and stays whole.
    """
    if rows is None:
        return dict(outputs)
    return {
        name: array[:rows] if array.shape[:1] == (of,) else array
        for name, array in outputs.items()
    }


def cut(outputs: Outputs, spec: ModelSpec, predictions: int | None) -> Arrays:
    """Take what follows from the padding off the answer to a tail.

    Args:
        outputs: Arrays by name.
        spec: The model.
        predictions: Kernels that end within the samples that were given;
            None for a full update.

    Returns:
        Views of the arrays: of each streaming output the first items, on
        the first axis if that counts them, else on the last (that of a
        running average counts samples). One on which neither does, and one
        that does not stream, stay whole.
    """
    if predictions is None or spec.stream is None:
        return dict(outputs)
    batch = min(entry.batch_size for entry in spec.stream.inputs.values())
    found = dict(outputs)
    for name, output in spec.stream.outputs.items():
        if name in found:
            keep = predictions * output.size // batch
            found[name] = _first(found[name], output.size, keep)
    return found


def _first(array: npt.NDArray[Any], size: int, keep: int) -> npt.NDArray[Any]:
    if array.shape[:1] == (size,):
        return array[:keep]
    return array[..., :keep] if array.shape[-1:] == (size,) else array
