"""Graphs in lower precision: which tensors change, and what they compute."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._precision import lower

FLOAT = TensorProto.FLOAT
node = helper.make_node


def value(name: str, shape, dtype=FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def make(nodes, outputs, weights, functions=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", ["b", 4])],
        [value(name, ["b", "n"]) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=9, functions=functions
    )


def square(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 4)).astype(np.float32)


def types(model: onnx.ModelProto) -> dict[str, str]:
    """Data types of all tensors, as ONNX infers and so checks them."""
    onnx.checker.check_model(model)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        v.name: TensorProto.DataType.Name(v.type.tensor_type.elem_type)
        for v in (*graph.value_info, *graph.output)
    }


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content).run(None, {"x": x})


def check(model: onnx.ModelProto, precision: str = "fp16") -> dict[str, str]:
    """Compare all three graphs; gives the types in lower precision."""
    lowered = lower(model, precision)
    x = np.random.default_rng(9).standard_normal((3, 4)).astype(np.float32)
    expected = run(model, x)
    graphs = [lowered.emulation]
    if precision == "fp16":  # onnxruntime multiplies no bfloat16 here
        graphs.append(lowered.graph)
    for graph in graphs:
        for ours, theirs in zip(run(graph, x), expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=0.1)
    return types(lowered.graph)


@pytest.mark.parametrize(
    ("precision", "name"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")]
)
def test_products_change_and_what_follows_them(precision, name) -> None:
    nodes = [
        node("Exp", ["x"], ["before"]),
        node("MatMul", ["before", "w"], ["product"]),
        node("Relu", ["product"], ["active"]),
        node("Softmax", ["active"], ["y"]),
        node("MatMul", ["active", "w"], ["z"]),
    ]
    found = check(make(nodes, ["y", "z"], {"w": square(0)}), precision)
    assert found[f"product__{precision}"] == name
    assert found[f"active__{precision}"] == name
    assert found["before"] == found["y"] == found["z"] == "FLOAT"
    assert "product" not in found  # it is nobody's in float32


def test_what_joins_both_stays_in_float32() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["product"]),
        node("Add", ["product", "x"], ["y"]),
        node("Add", ["product", "k"], ["z"]),
    ]
    weights = {"w": square(0), "k": np.float32(3)}
    found = check(make(nodes, ["y", "z"], weights))
    assert found["product"] == found["y"] == "FLOAT"
    assert found["z__fp16"] == "FLOAT16"


def test_graphs_inside_see_what_they_saw() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(op, ["product"], [f"{name}_y"])],
            name,
            [],
            [value(f"{name}_y", None)],
        )
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        node("MatMul", ["x", "w"], ["product"]),
        node("If", ["condition"], ["y"], **branches),
    ]
    weights = {"w": square(0), "condition": np.array(True)}
    found = check(make(nodes, ["y"], weights))
    assert found["product"] == found["y"] == "FLOAT"


def test_constants_of_nodes_and_names_that_are_taken() -> None:
    constant = numpy_helper.from_array(square(1), "")
    nodes = [
        node("Constant", [], ["w"], value=constant),
        node("MatMul", ["x", "w"], ["x__fp16"]),
        node("Slice", ["x__fp16", "from", "to"], ["y"]),
    ]
    weights = {"from": np.array([0, 1]), "to": np.array([9, 3])}
    found = check(make(nodes, ["y"], weights))
    assert found["y__fp16"] == "FLOAT16"
    assert found["y"] == "FLOAT"


def test_functions_are_seen_through_and_unknown_operators_left() -> None:
    opsets = [helper.make_opsetid("", 17)]
    inner = [node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function(
        "ours", "Times", ["a", "b"], ["c"], inner, opsets
    )
    times = node("Times", ["x", "w"], ["y"], domain="ours")
    model = make([times], ["y"], {"w": square(0)}, [function])
    assert check(model)["y"] == "FLOAT"
    assert list(lower(model, "fp16").tensors) == ["y"]
    unknown = [
        node("Mystery", ["x"], ["a"], domain="ours"),
        node("MatMul", ["a", "w"], ["y"]),
    ]
    model = make(unknown, ["y"], {"w": square(0)})
    assert lower(model, "fp16").tensors == {}


def test_nodes_are_kept_by_name_or_operator() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("MatMul", ["a", "w"], ["y"], "second"),
    ]
    model = make(nodes, ["y"], {"w": square(0)})
    assert list(lower(model, "fp16", ["first"]).tensors) == ["y"]
    assert lower(model, "fp16", ["MatMul"]).tensors == {}
    # `w` is needed in both precisions
    names = {
        t.name for t in lower(model, "fp16", ["first"]).graph.graph.initializer
    }
    assert names == {"w", "w__fp16"}
    with pytest.raises(InvalidInput, match=r"\['third'\], but the graph has"):
        lower(model, "fp16", ["third"])
