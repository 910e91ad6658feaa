"""What converters leave to be done in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from hermes.quiver import dtypes
from hermes.quiver.errors import ExportFailed
from hermes.quiver.exporters._types import TensorInfo

__all__ = ("check_operators", "declare", "handlers")


def handlers() -> dict[str, tuple[Any, list[Any]]]:
    """How to write what tf2onnx does not know, in its own form for that."""
    return {"Erfc": (_erfc, []), "Expm1": (_expm1, [])}


def _erfc(graph: Any, node: Any, *_: Any) -> None:
    """``1 - erf(x)``: part of the exact GELU."""
    _minus(graph, node, "Erf", is_reversed=True)


def _expm1(graph: Any, node: Any, *_: Any) -> None:
    """``exp(x) - 1``: part of CELU."""
    _minus(graph, node, "Exp", is_reversed=False)


def _minus(graph: Any, node: Any, function: str, *, is_reversed: bool) -> None:
    name, inputs, outputs = node.name, list(node.input), list(node.output)
    dtype = graph.get_dtype(outputs[0])
    shape = graph.get_shape(outputs[0])
    graph.remove_node(name)
    numpy = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    one = graph.make_const(f"{name}/one", np.ones((), numpy))
    value = graph.make_node(function, inputs, name=f"{name}/{function}")
    operands = [value.output[0], one.output[0]]
    graph.make_node(
        "Sub",
        operands[::-1] if is_reversed else operands,
        name=name,
        outputs=outputs,
        dtypes=[dtype],
        shapes=[shape],
    )


def check_operators(
    proto: onnx.ModelProto, network: str, way_out: str
) -> None:
    """Refuse a graph with operators that ONNX does not have.

    Raises:
        ExportFailed: If there are any, with their names and places.
    """
    unknown = {
        node.op_type: node.name
        for node in _nodes(proto.graph)
        if not onnx.defs.has(node.op_type, node.domain)
    }
    if unknown:
        found = ", ".join(
            f"{op} (at {name!r})" for op, name in unknown.items()
        )
        msg = f"{network} cannot be exported to ONNX, which has no {found}"
        raise ExportFailed(f"{msg}; {way_out}")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def declare(
    proto: onnx.ModelProto,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> None:
    """Declare all tensors of a graph, in this order and with these shapes."""
    for values, tensors in (
        (proto.graph.input, inputs),
        (proto.graph.output, outputs),
    ):
        declared = [_value(tensor) for tensor in tensors]
        del values[:]
        values.extend(declared)


def _value(tensor: TensorInfo) -> Any:
    batch = ["batch"] if tensor.shape[:1] == (None,) else []
    sizes = [
        f"{tensor.name}_{axis}" if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]
    return onnx.helper.make_tensor_value_info(
        tensor.name,
        dtypes.to_onnx(tensor.dtype),
        [*batch, *sizes[len(batch) :]],
    )
