"""A model that only Triton, and no exporter, has anything to do with."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write_model(
    root: Path, name: str = "double", factor: float = 2.0, config: str = ""
) -> Path:
    """Write a model that multiplies ``x``, four numbers, to ``y``.

    Args:
        root: The repository; made if it is not there.
        name: Of the model.
        factor: By which it multiplies.
        config: What its configuration says besides.

    Returns:
        The repository.
    """
    shape = ["batch", 4] if "max_batch_size" in config else [4]
    x, y = (
        helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)
        for tensor in "xy"
    )
    by = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    multiply = helper.make_node("Mul", ["x", "factor"], ["y"])
    graph = helper.make_graph([multiply], name, [x], [y], [by])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (root / name / "1").mkdir(parents=True)
    onnx.save(model, root / name / "1" / "model.onnx")
    (root / name / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx" '
        'input { name: "x" data_type: TYPE_FP32 dims: [4] } '
        'output { name: "y" data_type: TYPE_FP32 dims: [4] } '
        f"instance_group {{ count: 1 kind: KIND_CPU }} {config}"
    )
    return root
