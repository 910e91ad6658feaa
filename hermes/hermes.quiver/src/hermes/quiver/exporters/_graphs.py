"""What converters leave to be done in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from hermes.quiver import dtypes
from hermes.quiver.exporters._types import TensorInfo

__all__ = ("declare", "unknown_operators")


def unknown_operators(proto: onnx.ModelProto) -> dict[str, str]:
    """Operators in a graph that ONNX does not have, each with one place."""
    return {
        node.op_type: node.name
        for node in _nodes(proto.graph)
        if not onnx.defs.has(node.op_type, node.domain)
    }


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
