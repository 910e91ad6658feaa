"""Pure: an ONNX graph that computes in half precision where it may.

TensorRT takes the types of a graph as they are, so that lower precision is a
matter of the graph. Convolutions, matrix products and recurrent layers go to
the lower precision, and what follows them with them. Reductions, powers,
softmax, layer norms, what is not known here, and all inputs and outputs stay
as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import (
    NodeProto,
    TensorProto,
    helper,
    inliner,
    numpy_helper,
    shape_inference,
)

from hermes.quiver.errors import InvalidInput

__all__ = ("LowerPrecision", "lower")

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_HEAVY = frozenset(
    {"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
)
# TensorRT does not compute these in bfloat16.
_NOT_IN_BF16 = frozenset({"ConvTranspose", "GRU", "HardSwish"})
# Where nothing is lost by it these stay with the layers before them.
_FOLLOWING = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Concat",
        "Elu",
        "Flatten",
        "Gather",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "Mul",
        "Neg",
        "PRelu",
        "Pad",
        "Relu",
        "Reshape",
        "Selu",
        "Sigmoid",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)


@dataclass(frozen=True)
class LowerPrecision:
    """A graph in lower precision.

    Attributes:
        graph: What the engine is built from.
        emulation: The same roundings, but computed in float32, so that it
            runs where there are no kernels for the lower precision.
        tensors: What was computed in float32 and is not any more: the
            tensor -> its name in the emulation before it is rounded, and
            its node. In the order of the computation.
    """

    graph: onnx.ModelProto
    emulation: onnx.ModelProto
    tensors: dict[str, tuple[str, NodeProto]]


def lower(
    model: onnx.ModelProto, precision: str, keep: Collection[str] = ()
) -> LowerPrecision:
    """Change a graph's precision; its inputs and outputs keep their types.

    Args:
        model: A graph of float32; it is not changed.
        precision: ``"fp16"`` or ``"bf16"``.
        keep: Names of nodes, or of operators, that stay in float32.

    Raises:
        InvalidInput: If the graph has no node or operator of such a name.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    nodes = model.graph.node
    known = {n.name for n in nodes} | {n.op_type for n in nodes}
    unknown = sorted(set(keep) - known)
    if unknown:
        operators = sorted({n.op_type for n in nodes})
        msg = (
            f"keep_fp32 names {unknown}, but the graph has no such node and"
            f" its operators are {operators}"
        )
        raise InvalidInput(msg)
    kept = frozenset(keep)
    if precision == "bf16":
        kept |= _NOT_IN_BF16
    return _Lowering(model, precision, kept).run()


@dataclass
class _Lowering:
    model: onnx.ModelProto
    precision: str
    keep: frozenset[str]
    nodes: list[NodeProto] = field(default_factory=list)
    emulated: list[NodeProto] = field(default_factory=list)
    # tensor -> its name in lower precision, where it has one
    lowered: dict[str, str] = field(default_factory=dict)
    computed: dict[str, tuple[str, NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.type = _TYPES[self.precision]
        graph = self.model.graph
        self.types = dict(_types(self.model))
        self.constants = dict(_constants(graph))
        self.restored: set[str] = set()
        self.taken = {
            name for n in graph.node for name in (*n.input, *n.output)
        }
        self.initializers = list(graph.initializer)

    def run(self) -> LowerPrecision:
        for node in self.model.graph.node:
            if self._may_be_lower(node):
                self._lower(node)
            else:
                for name in _used(node):
                    self._restore(name)
                self._add(node)
        for output in self.model.graph.output:
            self._restore(output.name)
        return LowerPrecision(
            self._model(self.nodes),
            self._model(self.emulated),
            self.computed,
        )

    def _may_be_lower(self, node: NodeProto) -> bool:
        if {node.name, node.op_type} & self.keep or node.domain:
            return False
        tensors = [name for name in (*node.input, *node.output) if name]
        if not all(name in self.types for name in tensors):
            return False
        floats = [name for name in node.input if self._is_float(name)]
        if node.op_type in _HEAVY:
            return bool(floats)
        variable = [name for name in floats if name not in self.constants]
        return (
            node.op_type in _FOLLOWING
            and bool(variable)
            and all(name in self.computed for name in variable)
        )

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def _lower(self, node: NodeProto) -> None:
        low, full = NodeProto(), NodeProto()
        low.CopyFrom(node)
        full.CopyFrom(node)
        for i, name in enumerate(node.input):
            if self._is_float(name):
                low.input[i] = self._low(name)
                full.input[i] = self._name(name, "fp32")
                self.emulated.append(
                    _cast(low.input[i], full.input[i], TensorProto.FLOAT)
                )
        rounding = []
        for i, name in enumerate(node.output):
            if self._is_float(name):
                low.output[i] = self._name(name, self.precision)
                full.output[i] = self._name(name, "fp32")
                rounding.append(
                    _cast(full.output[i], low.output[i], self.type)
                )
                self.lowered[name] = low.output[i]
                self.computed[name] = (full.output[i], node)
        self.nodes.append(low)
        self.emulated += [full, *rounding]

    def _low(self, name: str) -> str:
        """The tensor in lower precision, made where there is none yet."""
        if name not in self.lowered:
            self.lowered[name] = self._name(name, self.precision)
            if name in self.constants:
                array = numpy_helper.to_array(self.constants[name])
                dtype = helper.tensor_dtype_to_np_dtype(self.type)
                with np.errstate(over="ignore"):  # the comparison finds it
                    array = array.astype(dtype)
                self.initializers.append(
                    numpy_helper.from_array(array, self.lowered[name])
                )
            else:
                self._add(_cast(name, self.lowered[name], self.type))
        return self.lowered[name]

    def _restore(self, name: str) -> None:
        """Give a tensor back to those that take it as float32."""
        if name in self.computed and name not in self.restored:
            self.restored.add(name)
            self._add(_cast(self.lowered[name], name, TensorProto.FLOAT))

    def _add(self, node: NodeProto) -> None:
        self.nodes.append(node)
        self.emulated.append(node)

    def _name(self, name: str, suffix: str) -> str:
        new = f"{name}__{suffix}"
        while new in self.taken:
            new += "_"
        self.taken.add(new)
        return new

    def _model(self, nodes: list[NodeProto]) -> onnx.ModelProto:
        old = self.model
        used = {name for node in nodes for name in _used(node)}
        used |= {output.name for output in old.graph.output}
        graph = helper.make_graph(
            nodes,
            old.graph.name,
            old.graph.input,
            old.graph.output,
            [tensor for tensor in self.initializers if tensor.name in used],
        )
        return helper.make_model(
            graph,
            opset_imports=old.opset_import,
            ir_version=old.ir_version,
        )


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], target, to=kind)


def _types(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Types of the tensors, where they can be inferred."""
    graph = shape_inference.infer_shapes(model).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if kind := value.type.tensor_type.elem_type:
            yield value.name, kind
    for tensor in graph.initializer:
        yield tensor.name, tensor.data_type


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """The constants of float32, by their names."""
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    for name, tensor in tensors.items():
        if tensor.data_type == TensorProto.FLOAT:
            yield name, tensor


def _used(node: NodeProto) -> Iterator[str]:
    """What a node takes, and what the graphs inside it take from around."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _used(inner)
            yield from (output.name for output in graph.output)
