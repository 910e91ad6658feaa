"""A ``tf.Module``, or a function of TensorFlow's -> ONNX, SavedModel."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hermes.quiver.errors import ExportFailed, InvalidInput
from hermes.quiver.exporters._described import (
    Known,
    Source,
    arguments,
    describe_inputs,
    name_outputs,
    name_results,
    unique_names,
)
from hermes.quiver.exporters._graphs import check_operators, declare, handlers
from hermes.quiver.exporters._inputs import refuse_unknown
from hermes.quiver.exporters._noise import environment_kept, quiet
from hermes.quiver.exporters._types import (
    Arrays,
    Artifact,
    Request,
    Session,
    TensorInfo,
)
from hermes.quiver.exporters.onnx import describe
from hermes.quiver.platforms import Platform

_LOGGERS = ("absl", "tensorflow", "tf2onnx")

# tf2onnx would set the level for TensorFlow, and for all child processes.
with quiet(_LOGGERS), environment_kept("TF_CPP_MIN_LOG_LEVEL"):
    import tensorflow as tf
    import tf2onnx.convert

__all__ = (
    "onnx_of",
    "open_artifact",
    "savedmodel_of",
    "to_onnx",
    "to_savedmodel",
)

_CPU = "/CPU:0"
_SIGNATURE = "serving_default"
_FUNCTIONS = (
    tf.types.experimental.PolymorphicFunction,
    tf.types.experimental.ConcreteFunction,
)
_IDENTIFIER = re.compile(r"[A-Za-z]\w*", re.ASCII)
_WAY_OUT = (
    "replace those layers, or export it to Platform.SAVEDMODEL, which older"
    " Triton containers and the local runtime serve"
)
_OPSETS = range(9, max(tf2onnx.constants.OPSET_TO_IR_VERSION) + 1)


def to_onnx(network: Any, request: Request) -> Artifact:
    """Export what TensorFlow can call; it is left as it was.

    Raises:
        ExportFailed: If tf2onnx cannot convert it.
        InvalidInput: If the request does not fit the network.
    """
    return onnx_of(_source(network, request), request)


def to_savedmodel(network: Any, request: Request) -> Artifact:
    """Export what TensorFlow can call as a SavedModel.

    Raises:
        ExportFailed: If TensorFlow cannot trace or save it.
        InvalidInput: If the request does not fit the network.
    """
    return savedmodel_of(_source(network, request), request)


def onnx_of(source: Source, request: Request) -> Artifact:
    """Export a network to ONNX; see `to_onnx`."""
    opset = _opset(request.options)
    traced = _trace(source, request, device=_CPU)
    _check_dtypes(source, traced.concrete)
    with quiet(_LOGGERS) as records:
        try:
            proto = _convert(traced, opset)
        except Exception as error:
            msg = f"tf2onnx cannot convert {source.name}: {error}"
            raise ExportFailed(f"{msg}; {_WAY_OUT}") from error
    check_operators(proto, source.name, _WAY_OUT)
    declare(proto, traced.inputs, traced.outputs)
    try:
        artifact = describe(proto)
    except InvalidInput as error:
        said = "; ".join(record.getMessage() for record in records)
        msg = f"tf2onnx converts {source.name} wrongly: {error} {said}"
        raise ExportFailed(f"{msg}; {_WAY_OUT}") from error
    return dataclasses.replace(
        artifact,
        samples=traced.samples,
        others=traced.others,
        reference=traced.reference,
    )


def savedmodel_of(source: Source, request: Request) -> Artifact:
    """Export a network as a SavedModel; see `to_savedmodel`."""
    refuse_unknown(request.options, (), "this export to a SavedModel")
    traced = _trace(source, request, device=None)
    _check_no_python(source, traced.concrete)
    names = [tensor.name for tensor in (*traced.inputs, *traced.outputs)]
    unusable = [name for name in names if not _IDENTIFIER.fullmatch(name)]
    if unusable:
        msg = (
            f"a SavedModel has no tensors called {unusable}, only such names"
            " as Python's variables have; give input_names or output_names"
        )
        raise InvalidInput(msg)
    return Artifact(
        files={
            f"{Platform.SAVEDMODEL.filename}/{name}": content
            for name, content in _save(source, traced).items()
        },
        inputs=traced.inputs,
        outputs=traced.outputs,
        samples=traced.samples,
        others=traced.others,
        reference=traced.reference,
        runtime=__name__,
    )


@dataclasses.dataclass(frozen=True)
class _Traced:
    concrete: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    samples: Arrays
    others: tuple[Arrays, ...]
    reference: Callable[[Arrays], list[npt.NDArray[Any]]]


def _trace(source: Source, request: Request, device: str | None) -> _Traced:
    """Run a network, for names and errors, and make a graph of it."""
    samples, results = _first_that_runs(source)
    names = name_outputs(source, request, [name for name, _ in results])
    try:
        with quiet(_LOGGERS), source.unchanged(), tf.device(device):
            concrete = _function(source, names).get_concrete_function()
    except Exception as error:
        msg = f"TensorFlow cannot make a graph of {source.name}: {error}"
        raise ExportFailed(msg) from error
    graph = _outputs(concrete, names)
    return _Traced(
        concrete,
        tuple(
            TensorInfo(name, shape, source.inputs.dtypes[name])
            for name, shape in source.inputs.shapes.items()
        ),
        tuple(
            TensorInfo(name, _shape(graph[name], result), _numpy(result.dtype))
            for name, (_, result) in zip(names, results, strict=True)
        ),
        samples,
        tuple(_runnable(source, source.inputs.resized(samples)))[:1],
        lambda arrays: [
            np.asarray(result.numpy()) for _, result in _run(source, arrays)
        ],
    )


def _function(source: Source, names: Sequence[str]) -> Any:
    def call(*tensors: Any) -> dict[str, Any]:
        pairs = _flat(source.call(tensors))
        return {
            # What is returned twice, or comes in and goes out, needs a name
            # of its own.
            name: tf.identity(tensor)
            for name, (_, tensor) in zip(names, pairs, strict=True)
        }

    signature = [
        tf.TensorSpec(shape, source.inputs.dtypes[name], name)
        for name, shape in source.inputs.shapes.items()
    ]
    return tf.function(call, input_signature=signature)


def _outputs(concrete: Any, names: Sequence[str]) -> dict[str, Any]:
    """The tensors of a graph by name: TensorFlow sorts a dict."""
    by_name = dict(zip(sorted(names), concrete.outputs, strict=True))
    return {name: by_name[name] for name in names}


def _shape(tensor: Any, result: Any) -> tuple[int | None, ...]:
    shape = tensor.shape
    return (None,) * result.ndim if shape.rank is None else tuple(shape)


def _numpy(dtype: Any) -> np.dtype:
    return np.dtype(dtype.as_numpy_dtype)


def _run(source: Source, arrays: Arrays) -> list[tuple[str | None, Any]]:
    """What the network gives, on the CPU: a GPU may round as it likes."""
    try:
        with quiet(_LOGGERS), source.unchanged(), tf.device(_CPU):
            tensors = [tf.constant(arrays[n]) for n in source.inputs.shapes]
            result = source.call(tensors)
    except Exception as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        msg = f"{source.name} does not run on inputs of {shapes}: {error}"
        raise InvalidInput(msg) from error
    return _flat(result)


def _first_that_runs(
    source: Source,
) -> tuple[Arrays, list[tuple[str | None, Any]]]:
    errors = []
    for arrays in source.inputs.examples():
        try:
            return arrays, _run(source, arrays)
        except InvalidInput as error:
            errors.append(error)
    msg = f"{errors[0]}; sample_inputs gives it examples that it takes"
    raise InvalidInput(msg) from errors[0]


def _runnable(source: Source, examples: Iterable[Arrays]) -> Iterator[Arrays]:
    for arrays in examples:
        with contextlib.suppress(InvalidInput):
            _run(source, arrays)
            yield arrays


def _flat(result: Any) -> list[tuple[str | None, Any]]:
    """The tensors of a result, with the names that it has for them."""
    pairs = [
        (name, tf.convert_to_tensor(v) if isinstance(v, tf.Variable) else v)
        for name, v in name_results(result)
    ]
    strange = [value for _, value in pairs if not isinstance(value, tf.Tensor)]
    if strange or not pairs:
        names = [type(value).__qualname__ for value in strange or [result]]
        msg = (
            f"the network returns {', '.join(names)}; exported are networks"
            " that return a tensor, or a tuple, list, dict or dataclass of"
            " tensors"
        )
        raise InvalidInput(msg)
    return pairs


def _opset(options: Mapping[str, Any]) -> int | None:
    refuse_unknown(options, ("opset_version",), "tf2onnx")
    opset: int | None = options.get("opset_version")
    if opset is not None and opset not in _OPSETS:
        msg = (
            f"opset_version={opset!r}; tf2onnx writes {_OPSETS[0]} to"
            f" {_OPSETS[-1]}"
        )
        raise InvalidInput(msg)
    return opset


def _check_dtypes(source: Source, concrete: Any) -> None:
    for operation in concrete.graph.get_operations():
        if tf.bfloat16 in {tensor.dtype for tensor in operation.outputs}:
            msg = (
                f"{source.name} computes with bfloat16 (at"
                f" {operation.name!r}), which tf2onnx takes for float16;"
                f" {_WAY_OUT}"
            )
            raise ExportFailed(msg)


def _check_no_python(source: Source, concrete: Any) -> None:
    for node in _nodes(concrete.graph.as_graph_def()):
        if "PyFunc" in node.op:
            msg = (
                f"{source.name} calls Python (at {node.name!r}), which no"
                " server could: use TensorFlow's operators instead of"
                " tf.py_function and tf.numpy_function"
            )
            raise ExportFailed(msg)


def _convert(traced: _Traced, opset: int | None) -> onnx.ModelProto:
    concrete = traced.concrete
    inputs = dict(zip(traced.inputs, concrete.inputs, strict=False))
    outputs = _outputs(concrete, [tensor.name for tensor in traced.outputs])
    names = [
        {tensor.name: info.name for info, tensor in inputs.items()},
        {tensor.name: name for name, tensor in outputs.items()},
    ]
    frozen = _freeze(concrete, list(names[0]), list(names[1]))
    with tf.device(_CPU), tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph,
            continue_on_error=True,  # `check_operators` names them all
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
    with tf.device(_CPU):
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
    for part in (*frozen.library.function, *_nodes(frozen)):
        part.attr.pop("_XlaMustCompile", None)
    with tf.Graph().as_default():
        return tf2onnx.tf_loader.tf_optimize([*inputs], [*outputs], frozen)


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _save(source: Source, traced: _Traced) -> dict[str, bytes]:
    concrete = traced.concrete
    holder = tf.Module()
    # Not the network itself, which has its optimizer's variables, too.
    holder.held = list(concrete.variables)
    captured = [v for v, _ in concrete.graph.captures]
    resources = [v for v in captured if v.dtype == tf.resource]
    if len(resources) > len(concrete.variables):
        holder.network = source.owner  # it has tables
    with tempfile.TemporaryDirectory() as directory:
        try:
            with quiet(_LOGGERS):
                tf.saved_model.save(
                    holder, directory, signatures={_SIGNATURE: concrete}
                )
        except Exception as error:
            msg = f"TensorFlow cannot save {source.name}: {error}"
            raise ExportFailed(msg) from error
        return {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in sorted(Path(directory).rglob("*"))
            if path.is_file()
        }


def open_artifact(files: Mapping[str, bytes]) -> Session:
    """Load the SavedModel among a version's files."""
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with quiet(_LOGGERS), tf.device(_CPU):
            loaded = tf.saved_model.load(
                str(Path(directory, Platform.SAVEDMODEL.filename))
            )

    def run(names: Sequence[str], arrays: Arrays) -> list[npt.NDArray[Any]]:
        with quiet(_LOGGERS), tf.device(_CPU):
            tensors = {n: tf.constant(array) for n, array in arrays.items()}
            results = loaded.signatures[_SIGNATURE](**tensors)
        return [np.asarray(results[name].numpy()) for name in names]

    return run


def _source(network: Any, request: Request) -> Source:
    function = _function_of(network)
    structure = _signature(function)
    if structure is None:
        how = arguments(function, request)
        known = [Known(name) for name in how.names]

        def call(tensors: Sequence[Any]) -> Any:
            return how(function, tensors)
    else:
        known = _known(function, structure)

        def call(tensors: Sequence[Any]) -> Any:
            args, kwargs = tf.nest.pack_sequence_as(structure, [*tensors])
            return function(*args, **kwargs)

    return Source(
        name=type(network).__qualname__,
        inputs=describe_inputs(request, known),
        call=call,
        owner=network,
    )


def _function_of(network: Any) -> Any:
    """What is to be called of what TensorFlow has made."""
    if isinstance(network, _FUNCTIONS):
        return network
    signatures = getattr(network, "signatures", {})
    if _SIGNATURE in signatures:  # it was loaded
        return signatures[_SIGNATURE]
    if callable(network):
        return network.__call__
    msg = (
        f"{type(network).__qualname__} cannot be called: give it a __call__,"
        " or export one of its tf.functions"
    )
    raise InvalidInput(msg)


def _signature(function: Any) -> Any:
    """The arguments that a function insists on, as it takes them."""
    if isinstance(function, _FUNCTIONS[1]):
        return function.structured_input_signature
    signature = getattr(function, "input_signature", None)
    return None if signature is None else (signature, {})


def _known(function: Any, structure: Any) -> list[Known]:
    args, kwargs = structure
    specs = tf.nest.flatten(structure)
    names = [spec.name for spec in specs]
    if kwargs and not args:
        names = sorted(kwargs)
    elif None in names:
        parameters = list(inspect.signature(function).parameters)
        names = parameters[: len(specs)]
    return [
        Known(
            name,
            None if spec.shape.rank is None else tuple(spec.shape),
            _numpy(spec.dtype),
        )
        for name, spec in zip(unique_names(names, ()), specs, strict=True)
    ]
