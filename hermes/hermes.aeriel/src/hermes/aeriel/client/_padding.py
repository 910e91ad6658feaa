"""What is smaller than the model's size is filled up with zeros; pure.

The last rows of a data set rarely fill a batch, and the last samples of a
stream rarely an update. Which of the answers are real is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.errors import InvalidRequest, ShapeMismatch
from hermes.aeriel.specs import ModelSpec, StreamInput

__all__ = (
    "Arrays",
    "batch_axis",
    "batch_to_fill",
    "blank",
    "check_rows",
    "pad",
    "pad_tail",
)

Arrays = dict[str, npt.NDArray[Any]]


def batch_to_fill(spec: ModelSpec, batch_size: int | None) -> int | None:
    """Rows that a request is filled up to.

    They are the model's own where all of its inputs are fixed to as many,
    and an output has as many too (else the axis is hardly that of a batch);
    otherwise what the caller asks for.

    Args:
        spec: The model.
        batch_size: Rows that the caller wants to send.

    Returns:
        Rows; None if requests are sent as they are, as for every model that
        keeps state: it would keep that of the padding.

    Raises:
        InvalidRequest: If the model does not take so many.
    """
    if spec.is_stateful:
        return None
    own = _own_batch(spec)
    if batch_size is None:
        return own if own and _is_answered(spec, own) else None
    if own is None:
        most = spec.max_batch_size
        fits = 1 <= batch_size <= (most or batch_size)
        takes = f"1 to {most} rows" if most else "1 row or more"
    else:
        fits = batch_size == own
        takes = f"always {own} rows" if own else "no axis for a batch"
    if not fits:
        msg = (
            f"batch_size={batch_size}, but requests to model {spec.name!r}"
            f" have {takes}: give such a batch_size, or none"
        )
        raise InvalidRequest(msg)
    return batch_size


def _own_batch(spec: ModelSpec) -> int | None:
    """Rows of all inputs; None if variable, 0 if they have none in common."""
    leading = {tensor.shape[:1] for tensor in spec.inputs.values()}
    shared = leading.pop() if len(leading) == 1 else ()
    return shared[0] if shared else 0


def _is_answered(spec: ModelSpec, rows: int) -> bool:
    """Whether an output may have as many rows."""
    leading = [tensor.shape[:1] for tensor in spec.outputs.values()]
    return rows > 1 and ((rows,) in leading or (None,) in leading)


def batch_axis(spec: ModelSpec) -> bool:
    """Whether the first axis of all inputs is variable, as of a batch."""
    return all(t.shape[:1] == (None,) for t in spec.inputs.values())


def check_rows(
    spec: ModelSpec, tensors: Arrays, limit: int | None
) -> int | None:
    """How many rows the tensors have.

    Args:
        spec: The model.
        tensors: Tensors by name.
        limit: Rows that a request may have; None if it need not be a batch.

    Returns:
        Rows; None without tensors.

    Raises:
        ShapeMismatch: If they have none, too many, or not all as many.
    """
    rows = {name: len(array) for name, array in tensors.items() if array.ndim}
    for name, number in rows.items():
        if number == 0:
            msg = f"{name!r} has no rows: give at least one"
            raise ShapeMismatch(msg)
        if limit is not None and number > limit:
            msg = (
                f"{name!r} has {number} rows, but a request to model"
                f" {spec.name!r} has at most {limit}: send them in parts"
            )
            raise ShapeMismatch(msg)
    if limit is not None and len(set(rows.values())) > 1:
        msg = (
            f"the inputs have different numbers of rows: {rows}; give as many"
            " of each"
        )
        raise ShapeMismatch(msg)
    return next(iter(rows.values()), None)


def blank(shape: Sequence[int], dtype: np.dtype) -> npt.NDArray[Any]:
    """Zeros, or empty bytes."""
    if dtype == np.object_:
        return np.full(shape, b"", dtype)
    return np.zeros(shape, dtype)


def pad(array: npt.NDArray[Any], size: int, axis: int) -> npt.NDArray[Any]:
    """Fill an axis up with zeros at its end."""
    shape = list(array.shape)
    shape[axis] = size
    padded = blank(shape, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def pad_tail(spec: ModelSpec, tensors: Arrays) -> tuple[Arrays, int | None]:
    """Fill updates up with zeros.

    Args:
        spec: The model.
        tensors: Tensors by name; streaming ones with any number of samples.

    Returns:
        The tensors, and how many kernels end within the samples that were
        given; None if the updates are full.

    Raises:
        ShapeMismatch: If an update has no samples or too many, or they do
            not end at the same time.
    """
    streams = spec.stream.inputs if spec.stream else {}
    entries = {name: e for name, e in streams.items() if name in tensors}
    given = {name: tensors[name].shape[-1] for name in entries}
    for name, entry in entries.items():
        _check_size(entry, given[name])
    _check_together([*entries.values()], given)
    if all(given[name] == e.update_size for name, e in entries.items()):
        return tensors, None
    padded = {
        name: pad(tensors[name], entry.update_size, -1)
        for name, entry in entries.items()
    }
    predictions = min(
        given[name] // entry.stride_size for name, entry in entries.items()
    )
    return tensors | padded, predictions


def _check_size(entry: StreamInput, size: int) -> None:
    if not 1 <= size <= entry.update_size:
        msg = (
            f"{entry.name!r} has {size} samples, but an update has"
            f" {entry.update_size}, the last of a stream at least 1"
        )
        raise ShapeMismatch(msg)


def _check_together(
    entries: Sequence[StreamInput], given: dict[str, int]
) -> None:
    for entry in entries[1:]:
        first = entries[0]
        left = given[entry.name] * first.update_size
        if left != given[first.name] * entry.update_size:
            msg = (
                f"{entry.name!r} ends after {given[entry.name]} of"
                f" {entry.update_size} samples, {first.name!r} after"
                f" {given[first.name]} of {first.update_size}: give each the"
                " same share of its update"
            )
            raise ShapeMismatch(msg)
