"""Compare a graph in lower precision with the one that it was made from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from hermes.quiver.errors import VerificationFailed
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
    arrays: Arrays,
    open_session: Callable[[bytes], Session],
) -> None:
    """Run both graphs on the same inputs.

    Args:
        model: The graph in float32.
        lowered: The same in lower precision.
        precision: Its name.
        arrays: The inputs.
        open_session: Loads a graph.

    Raises:
        VerificationFailed: If the outputs differ by more than the precision
            explains, with the node that leaves its range if one does.
    """
    names = [output.name for output in model.graph.output]
    before = open_session(model.SerializeToString())(names, arrays)
    after = open_session(lowered.emulation.SerializeToString())(names, arrays)
    for name, expected, actual in zip(names, before, after, strict=True):
        wanted, found = (a.astype(np.float64) for a in (expected, actual))
        with np.errstate(invalid="ignore"):
            difference = np.abs(wanted - found)
        same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))
        difference[same] = 0
        finite = np.abs(wanted[np.isfinite(wanted)])
        allowed = _TOLERANCE[precision] * max(1.0, np.max(finite, initial=0))
        if not (difference <= allowed).all():
            overflow = _overflow(lowered, precision, arrays, open_session)
            worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
            where = tuple(map(int, np.unravel_index(worst, found.shape)))
            msg = overflow or (
                f"in {precision} output {name!r} is {found[where]:.6g} at"
                f" {where}, in fp32 {wanted[where]:.6g} (allowed difference"
                f" {allowed:.3g}); {_CURE}"
            )
            raise VerificationFailed(msg)


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
