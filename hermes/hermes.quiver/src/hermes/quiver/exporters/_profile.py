"""Pure: the range of shapes that an engine is built for."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import TensorInfo

__all__ = ("Profile", "decide")

# Input -> its smallest, most frequent and largest shape.
Profile = dict[str, tuple[tuple[int, ...], ...]]


def decide(
    inputs: Sequence[TensorInfo],
    max_batch_size: int,
    asked: Mapping[str, Any] | None,
) -> Profile:
    """Choose one optimisation profile over all variable inputs.

    A variable batch goes from 1 to ``max_batch_size``, and is fastest there.

    Args:
        inputs: What the network takes.
        max_batch_size: The configuration's; 0 if it has none.
        asked: Shapes (min, opt, max) of some of the inputs.

    Returns:
        The shapes of each variable input.

    Raises:
        InvalidInput: If ``asked`` does not fit, or does not suffice.
    """
    asked = _mapping(asked)
    names = [tensor.name for tensor in inputs]
    unknown = [name for name in asked if name not in names]
    if unknown:
        msg = f"profile names {unknown}, but the inputs are {names}"
        raise InvalidInput(msg)
    return {
        tensor.name: _checked(tensor, asked[tensor.name], max_batch_size)
        if tensor.name in asked
        else _by_batch(tensor, max_batch_size)
        for tensor in inputs
        if None in tensor.shape or tensor.name in asked
    }


def _mapping(asked: Any) -> Mapping[str, Any]:
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        msg = (
            f"profile={asked!r}: give the shapes (min, opt, max) by input,"
            " e.g. {'x': ((1, 2, 64), (8, 2, 128), (8, 2, 256))}"
        )
        raise InvalidInput(msg)
    return asked


def _by_batch(
    tensor: TensorInfo, max_batch_size: int
) -> tuple[tuple[int, ...], ...]:
    rest = tensor.shape[1:]
    if None in rest:
        axes = [i for i, size in enumerate(tensor.shape) if size is None]
        msg = (
            f"TensorRT needs to know how far the axes {axes} of input"
            f" {tensor.name!r}, {tensor.shape}, may vary; give their range:"
            f" profile={{{tensor.name!r}: (min, opt, max)}}, three shapes with"
            " the batch axis"
        )
        raise InvalidInput(msg)
    if max_batch_size < 1:
        msg = (
            f"the batch of input {tensor.name!r} is variable, and TensorRT"
            " needs to know how far; set config.max_batch_size, or give"
            f" profile={{{tensor.name!r}: (min, opt, max)}}"
        )
        raise InvalidInput(msg)
    sizes = 1, max_batch_size, max_batch_size
    return tuple((n, *(size or 0 for size in rest)) for n in sizes)


def _checked(
    tensor: TensorInfo, asked: Any, max_batch_size: int
) -> tuple[tuple[int, ...], ...]:
    try:
        shapes = [tuple(map(operator.index, shape)) for shape in asked]
    except TypeError:
        shapes = []
    what = f"profile[{tensor.name!r}]={asked!r}"
    if len(shapes) != 3:
        msg = f"{what} is not three shapes (min, opt, max)"
        raise InvalidInput(msg)
    low, best, high = shapes
    if not all(_fits(shape, tensor.shape) for shape in shapes):
        msg = f"{what} does not fit the input's shape {tensor.shape}"
        raise InvalidInput(msg)
    if not all(1 <= a <= b <= c for a, b, c in zip(*shapes, strict=True)):
        msg = f"{what}: each axis must have 1 <= min <= opt <= max"
        raise InvalidInput(msg)
    if max_batch_size > 0 and not low[0] <= 1 <= max_batch_size <= high[0]:
        msg = (
            f"{what}: Triton makes batches of 1 to max_batch_size="
            f"{max_batch_size}, and the profile must include them"
        )
        raise InvalidInput(msg)
    return low, best, high


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        size in {None, actual}
        for actual, size in zip(shape, wanted, strict=True)
    )
