"""Operators of TensorFlow's that tf2onnx does not know, or not enough of.

Each is a function of tf2onnx's graph and of the node to be replaced. What
does not fit is left as it is: the exporter then refuses it by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

__all__ = ("handlers",)

_PARTS = {"ComplexAbs", "Real", "Imag"}
_SPECTRUM = "/spectrum"
_OPSET = 13  # from which on Split and Unsqueeze are what they are here


def handlers() -> dict[str, tuple[Any, list[Any]]]:
    """How to write what tf2onnx does not know, in its own form for that."""
    return {
        "Erfc": (_erfc, []),
        "Expm1": (_expm1, []),
        "RFFT": (_rfft, []),
        "ComplexAbs": (_magnitude, []),
        "Real": (_real, []),
        "Imag": (_imaginary, []),
    }


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


def _rfft(graph: Any, node: Any, *_: Any) -> None:
    """A product with a matrix: real parts, and then imaginary ones.

    ONNX has no complex numbers, so that all that is done with the result has
    to be one of `_PARTS`.
    """
    dtype = graph.get_dtype(node.input[0])
    shape = graph.get_shape(node.input[0])
    consumers = {n.type for n in graph.find_output_consumers(node.output[0])}
    taken = node.output[0] in graph.outputs or not consumers <= _PARTS
    if (
        taken
        or graph.opset < _OPSET
        or not shape
        or not node.inputs[1].is_const()
    ):
        return
    size = int(np.ravel(node.inputs[1].get_tensor_value())[0])
    phases = np.outer(np.arange(size), np.arange(size // 2 + 1)) * 2 * np.pi
    parts = np.concatenate([np.cos(phases / size), -np.sin(phases / size)], 1)
    numpy = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    name, samples, outputs = node.name, node.input[0], list(node.output)
    graph.remove_node(name)
    if shape[-1] != size:
        samples = _resized(graph, name, samples, len(shape), size)
    matrix = graph.make_const(f"{name}/matrix", parts.astype(numpy))
    graph.make_node(
        "MatMul",
        [samples, matrix.output[0]],
        name=name + _SPECTRUM,
        outputs=outputs,
        dtypes=[dtype],
        shapes=[[*shape[:-1], parts.shape[1]]],
    )


def _resized(graph: Any, name: str, tensor: str, rank: int, size: int) -> str:
    """Zeros at the end, or the beginning only, whichever it takes."""

    def constant(label: str, values: list[int]) -> str:
        array = np.array(values, np.int64)
        node = graph.make_const(f"{name}/{label}", array)
        output: str = node.output[0]
        return output

    pads = constant("pads", [0] * (2 * rank - 1) + [size])
    padded = graph.make_node("Pad", [tensor, pads], name=f"{name}/pad")
    limits = [
        constant("start", [0]),
        constant("end", [size]),
        constant("axis", [-1]),
    ]
    cut = graph.make_node(
        "Slice", [padded.output[0], *limits], name=f"{name}/cut"
    )
    output: str = cut.output[0]
    return output


def _magnitude(graph: Any, node: Any, *_: Any) -> None:
    _take(graph, node, None)


def _real(graph: Any, node: Any, *_: Any) -> None:
    _take(graph, node, 0)


def _imaginary(graph: Any, node: Any, *_: Any) -> None:
    _take(graph, node, 1)


def _take(graph: Any, node: Any, part: int | None) -> None:
    """A part of a spectrum of `_rfft`'s; None is the magnitude."""
    source = node.inputs[0]
    if source.type != "RFFT" and not source.name.endswith(_SPECTRUM):
        return
    name, spectrum, outputs = node.name, node.input[0], list(node.output)
    dtype = graph.get_dtype(outputs[0])
    final = {
        "outputs": outputs,
        "dtypes": [dtype],
        "shapes": [graph.get_shape(outputs[0])],
    }
    graph.remove_node(name)
    halves = graph.make_node(
        "Split",
        [spectrum],
        attr={"axis": -1} | ({"num_outputs": 2} if graph.opset >= 18 else {}),
        output_count=2,
        name=f"{name}/parts",
    ).output
    if part is not None:
        graph.make_node("Identity", [halves[part]], name=name, **final)
        return
    squares = [
        graph.make_node("Mul", [h, h], name=f"{name}/square_{i}").output[0]
        for i, h in enumerate(halves)
    ]
    power = graph.make_node("Add", squares, name=f"{name}/power").output[0]
    graph.make_node("Sqrt", [power], name=name, **final)
