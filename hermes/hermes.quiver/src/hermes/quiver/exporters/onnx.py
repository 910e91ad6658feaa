"""An ONNX graph -> ONNX."""

from typing import Any

import onnx
from google.protobuf.message import EncodeError

from hermes.quiver import dtypes
from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Artifact, Request, TensorInfo
from hermes.quiver.platforms import Platform

__all__ = ("describe", "to_onnx")


def to_onnx(network: onnx.ModelProto, request: Request) -> Artifact:
    """Take an ONNX graph as it is, after checking it.

    Raises:
        InvalidInput: If the graph is not valid, or anything was requested
            that only an exporter could do.
    """
    asked = {
        "input_shapes": request.shapes,
        "sample_inputs": request.samples,
        "input_names": request.input_names,
        "output_names": request.output_names,
        **request.options,
    }
    unusable = [name for name, value in asked.items() if value is not None]
    if unusable:
        msg = (
            f"an ONNX graph is exported as it is: {', '.join(unusable)}"
            " cannot be used; change the graph instead"
        )
        raise InvalidInput(msg)
    return describe(network)


def describe(network: onnx.ModelProto) -> Artifact:
    """Find the tensors that a graph takes and gives.

    Raises:
        InvalidInput: If the graph is not valid.
    """
    try:
        onnx.checker.check_model(network)
        content = network.SerializeToString()
    except (onnx.checker.ValidationError, EncodeError, ValueError) as error:
        msg = f"not a valid ONNX graph (of at most 2 GB): {error}"
        raise InvalidInput(msg) from error
    constants = {tensor.name for tensor in network.graph.initializer}
    inputs = [i for i in network.graph.input if i.name not in constants]
    return Artifact(
        files={Platform.ONNX.filename: content},
        inputs=tuple(map(_info, inputs)),
        outputs=tuple(map(_info, network.graph.output)),
    )


def _info(value: Any) -> TensorInfo:
    tensor = value.type.tensor_type  # with a shape: the checker insists
    shape = tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else None
        for dim in tensor.shape.dim
    )
    return TensorInfo(value.name, shape, dtypes.from_onnx(tensor.elem_type))
