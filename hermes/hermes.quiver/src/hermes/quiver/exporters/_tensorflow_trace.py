"""Run what TensorFlow can call, and make a graph of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver import dtypes
from hermes.quiver.errors import ExportFailed, InvalidInput
from hermes.quiver.exporters._described import Source
from hermes.quiver.exporters._names import name_outputs, name_results
from hermes.quiver.exporters._reasons import reason
from hermes.quiver.exporters._tensorflow import quietly, tf
from hermes.quiver.exporters._types import Arrays, Request, TensorInfo

__all__ = ("CPU", "Traced", "as_numpy", "nodes", "outputs_of", "trace")

CPU = "/CPU:0"


@dataclasses.dataclass(frozen=True)
class Traced:
    """A graph, the examples that its network ran on, and the network.

    Attributes:
        concrete: The graph, as TensorFlow's ConcreteFunction.
        inputs: What it takes.
        outputs: What it gives.
        samples: Examples.
        others: Examples of other sizes.
        reference: Runs the network.
    """

    concrete: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    samples: Arrays
    others: tuple[Arrays, ...]
    reference: Callable[[Arrays], list[npt.NDArray[Any]]]


def trace(source: Source, request: Request, device: str | None) -> Traced:
    """Run a network, for names and errors, and make a graph of it.

    Args:
        source: The network.
        request: How it is to be exported.
        device: Where its operators are to run; None leaves that open.

    Raises:
        DtypeMismatch: If Triton does not have the data type of an output.
        ExportFailed: If TensorFlow cannot make a graph of it.
        InvalidInput: If the request does not fit the network.
    """
    samples, results = _first_that_runs(source)
    names = name_outputs(
        request,
        [name for name, _ in results],
        list(source.inputs.shapes),
        source.output_names,
        source.invented,
    )
    for _, result in results:
        dtypes.to_triton(as_numpy(result.dtype))
    try:
        with quietly(), source.unchanged(), tf.device(device):
            concrete = _function(source, names).get_concrete_function()
    except Exception as error:
        msg = (
            f"TensorFlow cannot make a graph of {source.name}: {reason(error)}"
        )
        raise ExportFailed(msg) from error
    _check_no_python(source, concrete)
    graph = outputs_of(concrete, names)
    return Traced(
        concrete,
        tuple(
            TensorInfo(name, shape, source.inputs.dtypes[name])
            for name, shape in source.inputs.shapes.items()
        ),
        tuple(
            TensorInfo(
                name, _shape(graph[name], result), as_numpy(result.dtype)
            )
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


def outputs_of(concrete: Any, names: Sequence[str]) -> dict[str, Any]:
    """The tensors of a graph by name: TensorFlow sorts a dict."""
    by_name = dict(zip(sorted(names), concrete.outputs, strict=True))
    return {name: by_name[name] for name in names}


def _shape(tensor: Any, result: Any) -> tuple[int | None, ...]:
    shape = tensor.shape
    return (None,) * result.ndim if shape.rank is None else tuple(shape)


def as_numpy(dtype: Any) -> np.dtype:
    """Translate TensorFlow's dtype."""
    translated: np.dtype = np.dtype(dtype.as_numpy_dtype)
    return translated


def _check_no_python(source: Source, concrete: Any) -> None:
    for node in nodes(concrete.graph.as_graph_def()):
        if "PyFunc" in node.op:
            msg = (
                f"{source.name} calls Python (at {node.name!r}), which no"
                " server could: use TensorFlow's operators instead of"
                " tf.py_function and tf.numpy_function"
            )
            raise ExportFailed(msg)


def nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a GraphDef, also those in its functions."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _run(source: Source, arrays: Arrays) -> list[tuple[str | None, Any]]:
    """What the network gives, on the CPU: a GPU may round as it likes."""
    try:
        with quietly(), source.unchanged(), tf.device(CPU):
            tensors = [tf.constant(arrays[n]) for n in source.inputs.shapes]
            result = source.call(tensors)
    except Exception as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        msg = (
            f"{source.name} does not run on inputs of {shapes}{source.form}:"
            f" {reason(error)}"
        )
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
    if not source.inputs.guessed:
        raise errors[0]
    msg = f"{errors[0]}; give sample_inputs of sizes that it takes"
    raise InvalidInput(msg) from errors[0]


def _runnable(source: Source, examples: Iterable[Arrays]) -> Iterator[Arrays]:
    for arrays in examples:
        with contextlib.suppress(InvalidInput):
            _run(source, arrays)
            yield arrays


def _flat(result: Any) -> list[tuple[str | None, Any]]:
    """The tensors of a result, with the names that it has for them."""
    kinds = tf.Tensor, tf.Variable
    pairs = name_results(result, lambda value: isinstance(value, kinds))
    return [(name, tf.convert_to_tensor(value)) for name, value in pairs]
