"""Decide on a streaming layer for given tensors; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hermes.quiver.errors import DtypeMismatch, EnsembleError, ShapeMismatch
from hermes.quiver.streaming._averager import OnlineAverager
from hermes.quiver.streaming._snapshotter import Snapshotter, StreamedTensor

if TYPE_CHECKING:
    from hermes.quiver.models import ExposedTensor

__all__ = ("plan_averager", "plan_snapshotter", "snapshot_name")

T = TypeVar("T")


def plan_snapshotter(
    inputs: Sequence[ExposedTensor], stream_size: int, batch_size: int
) -> Snapshotter:
    """The snapshotter that feeds these inputs.

    Raises:
        EnsembleError: If there are none, or one twice.
        ShapeMismatch: If they cannot be fed by one snapshotter.
        DtypeMismatch: If they differ in dtype.
    """
    if not inputs or len(set(inputs)) < len(inputs):
        given = [str(tensor) for tensor in inputs]
        msg = f"give each input to stream to once, and at least one: {given}"
        raise EnsembleError(msg)
    _check_whole(stream_size=stream_size, batch_size=batch_size)
    kernels = {str(t): _kernel_size(t, batch_size) for t in inputs}
    dtypes = {str(t): t.dtype for t in inputs}
    kernel_size = _common("kernel sizes", kernels, ShapeMismatch)
    if not 1 <= stream_size <= kernel_size:
        msg = (
            f"stream_size={stream_size} does not fit kernels for"
            f" {', '.join(kernels)} of {kernel_size} samples: it is the"
            f" stride between them, 1 to {kernel_size} samples, so that each"
            " sample is seen"
        )
        raise ShapeMismatch(msg)
    return Snapshotter(
        [StreamedTensor(snapshot_name(t), _channels(t)) for t in inputs],
        snapshot_size=kernel_size,
        stride_size=stream_size,
        batch_size=batch_size,
        dtype=_common("dtypes", dtypes, DtypeMismatch),
    )


def snapshot_name(tensor: ExposedTensor) -> str:
    """What the snapshotter calls the kernels that it makes for an input."""
    return f"{tensor.label}.{tensor.name}_snapshot"


def plan_averager(
    output: ExposedTensor,
    update_size: int,
    num_updates: int,
    batch_size: int | None,
    divide_by_contributions: bool,
) -> OnlineAverager:
    """The averager that takes this output.

    Raises:
        ShapeMismatch: If the output is no batch of windows that overlap so.
        DtypeMismatch: If it is not floating point.
    """
    _check_whole(update_size=update_size, num_updates=num_updates)
    shape = output.shape
    if len(shape) not in {2, 3} or None in shape[1:]:
        msg = (
            f"{output} has shape {shape}; averaged are outputs of shape"
            " (batch, channels, samples) or (batch, samples) with fixed"
            " channels and samples"
        )
        raise ShapeMismatch(msg)
    batch_size = batch_size or shape[0]
    if batch_size is None or shape[0] not in {None, batch_size}:
        msg = (
            f"{output} of shape {shape} comes in batches of {shape[0]} (None"
            f" is unknown), not of batch_size={batch_size}; give the number"
            " of predictions per update as batch_size"
        )
        raise ShapeMismatch(msg)
    return OnlineAverager(
        update_size=update_size,
        num_updates=num_updates,
        batch_size=batch_size,
        prediction_size=shape[-1] or 0,
        channels=_channels(output),
        dtype=output.dtype,
        divide_by_contributions=divide_by_contributions,
    )


def _check_whole(**sizes: object) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer):
            cure = "; divide with // what leaves no remainder"
            msg = (
                f"{name}={size!r} is no whole number"
                f"{cure if isinstance(size, float) else ''}"
            )
            raise ShapeMismatch(msg)


def _kernel_size(tensor: ExposedTensor, batch_size: int) -> int:
    shape = tensor.shape
    if len(shape) not in {2, 3} or None in shape[1:]:
        msg = (
            f"{tensor} has shape {shape}; a stream can feed inputs of shape"
            " (batch, channels, samples) or (batch, samples) with fixed"
            " channels and samples"
        )
        raise ShapeMismatch(msg)
    if shape[0] not in {None, batch_size}:
        msg = (
            f"{tensor} takes batches of {shape[0]} but batch_size="
            f"{batch_size}; export the model with a variable batch (None),"
            f" or stream with batch_size={shape[0]}"
        )
        raise ShapeMismatch(msg)
    return int(shape[-1] or 0)


def _channels(tensor: ExposedTensor) -> int | None:
    return tensor.shape[1] if len(tensor.shape) == 3 else None


def _common(what: str, values: dict[str, T], error: type[Exception]) -> T:
    if len(set(values.values())) > 1:
        given = ", ".join(f"{name}: {v}" for name, v in values.items())
        msg = (
            f"one stream cannot feed inputs of different {what} ({given});"
            " add a streaming input for each"
        )
        raise error(msg)
    return next(iter(values.values()))
