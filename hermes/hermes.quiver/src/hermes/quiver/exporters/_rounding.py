"""Compare a graph in lower precision with the one that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from hermes.quiver.errors import VerificationFailed
from hermes.quiver.exporters._compare import differences, place_of_worst
from hermes.quiver.exporters._precision import LowerPrecision
from hermes.quiver.exporters._types import Arrays, Session

__all__ = ("check",)

# Largest difference allowed, relative to the largest output, and the largest
# number that there is.
_TOLERANCE = {"fp16": 1e-2, "bf16": 5e-2}
_LARGEST = {"fp16": 65504.0, "bf16": 3.3895e38}
_CURE = "take another precision, or keep nodes or operators by keep_fp32=[...]"


def check(
    model: onnx.ModelProto,
    lowered: LowerPrecision,
    precision: str,
    samples: Iterable[Arrays],
    open_session: Callable[[bytes], Session],
) -> None:
    """Run both graphs on the same inputs.

    Args:
        model: The graph in float32.
        lowered: The same in lower precision.
        precision: Its name.
        samples: The inputs; both graphs run on each of them.
        open_session: Loads a graph.

    Raises:
        VerificationFailed: If the outputs differ by more than the precision
            explains, with the node that leaves its range if one does.
    """
    names = [output.name for output in model.graph.output]
    before = open_session(model.SerializeToString())
    after = open_session(lowered.emulation.SerializeToString())
    for arrays in samples:
        pairs = zip(before(names, arrays), after(names, arrays), strict=True)
        for name, (expected, actual) in zip(names, pairs, strict=True):
            what = _excess(name, precision, actual, expected)
            if what is not None:
                overflow = _overflow(lowered, precision, arrays, open_session)
                raise VerificationFailed(overflow or what)


def _excess(
    name: str,
    precision: str,
    actual: npt.NDArray[Any],
    expected: npt.NDArray[Any],
) -> str | None:
    """Say where an output differs by more than the precision explains."""
    difference, largest = differences(actual, expected, least=1.0)
    allowed = _TOLERANCE[precision] * largest
    if (difference <= allowed).all():
        return None
    where = place_of_worst(difference)
    return (
        f"in {precision} output {name!r} is {float(actual[where]):.6g} at"
        f" {where}, in fp32 {float(expected[where]):.6g} (allowed difference"
        f" {allowed:.3g}); {_CURE}"
    )


def _overflow(
    lowered: LowerPrecision,
    precision: str,
    arrays: Arrays,
    open_session: Callable[[bytes], Session],
) -> str | None:
    """Say which node is the first whose output is too large."""
    model = onnx.ModelProto()
    model.CopyFrom(lowered.emulation)
    names = [name for name, _ in lowered.tensors.values()]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
    )
    values = open_session(model.SerializeToString())(names, arrays)
    for value, (_, node) in zip(values, lowered.tensors.values(), strict=True):
        largest = float(np.max(np.abs(value), initial=0))
        if not largest <= _LARGEST[precision]:
            return (
                f"in {precision} node {node.name!r} ({node.op_type}) gives"
                f" {largest:.6g}, but {precision} ends at"
                f" {_LARGEST[precision]:g}; {_CURE}"
            )
    return None
