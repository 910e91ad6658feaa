"""An ONNX graph, in memory, in a file or in a repository -> ONNX."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

from hermes.quiver import dtypes
from hermes.quiver._extras import load_if_there
from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Artifact, Request, TensorInfo
from hermes.quiver.platforms import Platform

__all__ = ("check_size", "describe", "load", "refuse_requests", "to_onnx")

# What protobuf can hold; external data would be files beside the graph.
_LARGEST = 2**31 - 1


def to_onnx(network: Any, request: Request) -> Artifact:
    """Take an ONNX graph as it is, after checking it.

    Unless ``verify`` is False, its shapes and types are worked out, and ONNX
    Runtime has to load it, if that is there.

    Args:
        network: A ``ModelProto``, the address of a file (what it keeps in
            files beside it is put into the graph), or a model of a
            repository, whose latest version is taken.
        request: How to export it.

    Raises:
        InvalidInput: If the graph is not valid, or anything was requested
            that only an exporter could do.
        VerificationFailed: If ONNX Runtime cannot load it.
    """
    refuse_requests(request, "an ONNX graph")
    graph = load(network)
    artifact = describe(graph)
    if request.verify is not False:
        _check_inside(graph)
        required = request.verify is True
        runtime = load_if_there(artifact.runtime, required=required)
        if runtime is not None:
            runtime.open_artifact(artifact.files)
    return artifact


def _check_inside(graph: onnx.ModelProto) -> None:
    try:
        onnx.shape_inference.infer_shapes(graph, True, True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        reason = " ".join(str(error).split())
        msg = f"the ONNX graph contradicts itself: {reason}"
        raise InvalidInput(msg) from error


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
        _refuse_outside(network)
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


def _refuse_outside(graph: onnx.ModelProto) -> None:
    outside = [t.name for t in graph.graph.initializer if _is_outside(t)]
    if outside:
        msg = (
            f"the ONNX graph has {outside[0]!r} in a file beside it, which was"
            " not loaded; give the address of the graph's file"
        )
        raise InvalidInput(msg)


def _from_file(path: Path) -> onnx.ModelProto:
    try:
        graph = onnx.load(path, load_external_data=False)
        check_size(sum(map(_num_bytes, graph.graph.initializer)))
        onnx.load_external_data_for_model(graph, os.fspath(path.parent))
    except InvalidInput:
        raise
    except (
        OSError,
        DecodeError,
        ValueError,
        onnx.checker.ValidationError,
    ) as error:
        msg = f"{path} cannot be read as an ONNX graph: {error}"
        raise InvalidInput(msg) from error
    return graph


def _num_bytes(tensor: onnx.TensorProto) -> int:
    """What a tensor of another file will add to the graph's."""
    if not _is_outside(tensor):
        return 0
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return math.prod(tensor.dims) * int(kind.itemsize)


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


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
        DtypeMismatch: If Triton lacks the data type of one.
        InvalidInput: If the graph is not valid.
    """
    constants = {tensor.name for tensor in network.graph.initializer}
    inputs = [i for i in network.graph.input if i.name not in constants]
    outputs = list(network.graph.output)
    for value in (*inputs, *outputs):
        _check_tensor(value)
    try:
        onnx.checker.check_model(network)
        content = network.SerializeToString()
    except (onnx.checker.ValidationError, EncodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        msg = f"not a valid ONNX graph (of at most 2 GB): {reason}"
        raise InvalidInput(msg) from error
    if not outputs:
        msg = "the ONNX graph has no outputs"
        raise InvalidInput(msg)
    return Artifact(
        files={Platform.ONNX.filename: content},
        inputs=tuple(map(_info, inputs)),
        outputs=tuple(map(_info, outputs)),
    )


def _check_tensor(value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        msg = (
            f"{value.name!r} of the ONNX graph is a"
            f" {(kind or 'nothing').removesuffix('_type')}, and Triton has"
            " tensors only"
        )
        raise InvalidInput(msg)
    if not value.type.tensor_type.HasField("shape"):
        msg = (
            f"the ONNX graph does not say the shape of {value.name!r}:"
            " onnx.shape_inference.infer_shapes(graph) may know it"
        )
        raise InvalidInput(msg)


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    # Some write -1 where ONNX has a name for what is variable.
    shape = tuple(
        int(dim.dim_value)
        if dim.HasField("dim_value") and dim.dim_value >= 0
        else None
        for dim in tensor.shape.dim
    )
    return TensorInfo(value.name, shape, dtypes.from_onnx(tensor.elem_type))
