"""A graph of TensorFlow's -> ONNX, through tf2onnx."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from hermes.quiver.errors import ExportFailed, InvalidInput
from hermes.quiver.exporters._described import Source
from hermes.quiver.exporters._graphs import declare, unknown_operators
from hermes.quiver.exporters._handlers import handlers
from hermes.quiver.exporters._inputs import refuse_unknown
from hermes.quiver.exporters._reasons import reason
from hermes.quiver.exporters._tensorflow import quietly, tf, tf2onnx
from hermes.quiver.exporters._tensorflow_trace import (
    CPU,
    Traced,
    nodes,
    outputs_of,
)
from hermes.quiver.exporters._types import Artifact
from hermes.quiver.exporters.onnx import describe

__all__ = ("check_opset", "convert")

_WAY_OUT = (
    "replace those layers, or export it to Platform.SAVEDMODEL, which older"
    " Triton containers and the local runtime serve"
)
_OPSETS = range(9, max(tf2onnx.constants.OPSET_TO_IR_VERSION) + 1)


def check_opset(options: Mapping[str, Any]) -> int | None:
    """The opset that is asked for; None leaves it to tf2onnx.

    Raises:
        InvalidInput: If tf2onnx does not write it, or anything else is asked.
    """
    refuse_unknown(options, ("opset_version",), "tf2onnx")
    opset: int | None = options.get("opset_version")
    if opset is not None and opset not in _OPSETS:
        msg = (
            f"opset_version={opset!r}; tf2onnx writes {_OPSETS[0]} to"
            f" {_OPSETS[-1]}"
        )
        raise InvalidInput(msg)
    return opset


def convert(source: Source, traced: Traced, opset: int | None) -> Artifact:
    """Convert a graph, and check that ONNX has all that is in it.

    Raises:
        ExportFailed: If tf2onnx cannot convert it.
    """
    _check_dtypes(source, traced.concrete)
    with quietly() as heard:
        try:
            proto = _convert(traced, opset)
            declare(proto, traced.inputs, traced.outputs)
            unknown = unknown_operators(proto)
            artifact = None if unknown else describe(proto)
        except Exception as error:
            msg = (
                f"tf2onnx cannot convert {source.name}{_places(heard.errors)}:"
                f" {reason(error)}; {_WAY_OUT}"
            )
            raise ExportFailed(msg) from error
    if artifact is None:
        found = ", ".join(f"{op} (at {at!r})" for op, at in unknown.items())
        msg = (
            f"{source.name} cannot be exported to ONNX, which has no {found};"
            f" {_WAY_OUT}"
        )
        raise ExportFailed(msg)
    return dataclasses.replace(
        artifact,
        samples=traced.samples,
        others=traced.others,
        reference=traced.reference,
    )


def _places(records: Sequence[logging.LogRecord]) -> str:
    """The nodes that tf2onnx says it failed at."""
    failed = [
        str(record.args[0])
        for record in records
        if record.exc_info and isinstance(record.args, tuple)
    ]
    return f" (at {', '.join(failed)})" if failed else ""


def _check_dtypes(source: Source, concrete: Any) -> None:
    for operation in concrete.graph.get_operations():
        if tf.bfloat16 in {tensor.dtype for tensor in operation.outputs}:
            msg = (
                f"{source.name} computes with bfloat16 (at"
                f" {operation.name!r}), which tf2onnx takes for float16;"
                f" {_WAY_OUT}"
            )
            raise ExportFailed(msg)


def _convert(traced: Traced, opset: int | None) -> onnx.ModelProto:
    concrete = traced.concrete
    inputs = dict(zip(traced.inputs, concrete.inputs, strict=False))
    outputs = outputs_of(concrete, [tensor.name for tensor in traced.outputs])
    names = [
        {tensor.name: info.name for info, tensor in inputs.items()},
        {tensor.name: name for name, tensor in outputs.items()},
    ]
    frozen = _freeze(concrete, list(names[0]), list(names[1]))
    with tf.device(CPU), tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph,
            continue_on_error=True,  # `unknown_operators` finds them all
            opset=opset,
            custom_op_handlers=handlers(),
            input_names=list(names[0]),
            output_names=list(names[1]),
            tensors_to_rename=names[0] | names[1],
        )
        optimized = tf2onnx.optimizer.optimize_graph(converted)
    proto: onnx.ModelProto = optimized.make_model("network")
    return proto


def _freeze(
    concrete: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """A graph without variables, and without tensors from outside."""
    outside = {
        inner.op.name: value
        for value, inner in concrete.graph.captures
        if inner.dtype not in {tf.resource, tf.variant}
    }
    with tf.device(CPU):
        frozen = tf2onnx.tf_loader.from_function(
            concrete, [*inputs, *(f"{name}:0" for name in outside)], [*outputs]
        )
    for node in frozen.node:
        if node.name in outside:
            name, value = node.name, outside[node.name].numpy()
            node.Clear()
            node.name, node.op = name, "Const"
            content = tf.make_tensor_proto(value)
            node.attr["dtype"].type = content.dtype
            node.attr["value"].tensor.CopyFrom(content)
    if all(node.op != "StatefulPartitionedCall" for node in frozen.node):
        return frozen
    # Keras has XLA compile some layers on CPUs, and these stay functions.
    for part in (*frozen.library.function, *nodes(frozen)):
        for mark in ("_XlaMustCompile", "_noinline"):
            part.attr.pop(mark, None)
    with tf.Graph().as_default():
        return tf2onnx.tf_loader.tf_optimize([*inputs], [*outputs], frozen)
