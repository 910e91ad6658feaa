"""An ONNX graph, in memory, in a file or in a repository -> ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

from hermes.quiver import dtypes
from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Artifact, Request, TensorInfo
from hermes.quiver.platforms import Platform

__all__ = ("check_size", "describe", "load", "refuse_requests", "to_onnx")

# What protobuf can hold; external data would be files beside the graph.
_LARGEST = 2**31 - 1


def to_onnx(network: Any, request: Request) -> Artifact:
    """Take an ONNX graph as it is, after checking it.

    Args:
        network: A ``ModelProto``, the address of a file (what it keeps in
            files beside it is put into the graph), or a model of a
            repository, whose latest version is taken.
        request: How to export it.

    Raises:
        InvalidInput: If the graph is not valid, or anything was requested
            that only an exporter could do.
    """
    refuse_requests(request, "an ONNX graph")
    return describe(load(network))


def refuse_requests(request: Request, what: str) -> None:
    """Refuse what only an exporter could do.

    Raises:
        InvalidInput: If anything of it was requested.
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
            f"{what} is exported as it is: {', '.join(unusable)}"
            " cannot be used; change it instead"
        )
        raise InvalidInput(msg)


def load(network: Any) -> onnx.ModelProto:
    """Read a graph from wherever it is.

    Args:
        network: See `to_onnx`.

    Raises:
        InvalidInput: If there is no ONNX graph.
    """
    if isinstance(network, onnx.ModelProto):
        return network
    if isinstance(network, str | os.PathLike):
        return _from_file(Path(network))
    if network.platform != Platform.ONNX:
        msg = (
            f"model {network.name!r} is {network.platform}; only a model of"
            f" {Platform.ONNX.value} has an ONNX graph"
        )
        raise InvalidInput(msg)
    if network.config.state_names():
        msg = (
            f"model {network.name!r} has states, which its configuration"
            " declares and its graph does not"
        )
        raise InvalidInput(msg)
    return onnx.load_from_string(network.read_version())


def _from_file(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        msg = f"{path} cannot be read as an ONNX graph: {error}"
        raise InvalidInput(msg) from error


def check_size(num_bytes: int) -> None:
    """Refuse what does not fit in one file of ONNX.

    Raises:
        InvalidInput: If it has more than 2 GB.
    """
    if num_bytes > _LARGEST:
        msg = (
            f"the network has {num_bytes / 1e9:.1f} GB, and ONNX holds 2;"
            " export it in half precision, in parts, or to another platform"
        )
        raise InvalidInput(msg)


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
