"""Small networks and a repository to export them to."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from hermes.quiver import Model, ModelRepository, Platform

Graph = Callable[..., onnx.ModelProto]


@pytest.fixture(scope="session")
def graph() -> Graph:
    """Makes ONNX graphs; see `_graph`."""
    return _graph


def _graph(
    inputs: dict[str, list],
    outputs: dict[str, list],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """An ONNX graph that averages each input over its last axis."""
    nodes = [
        helper.make_node("ReduceMean", [x], [y], axes=[-1], keepdims=0)
        for x, y in zip(inputs, outputs, strict=True)
    ]
    values = [
        [helper.make_tensor_value_info(n, dtype, s) for n, s in d.items()]
        for d in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "mean", *values),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "repository")


@pytest.fixture
def mean(repository: ModelRepository, graph: Graph) -> Model:
    """A model with an input ``x``, (batch, 2, 16), and an output ``y``."""
    model = repository.add("mean", Platform.ONNX)
    model.export_version(graph({"x": ["b", 2, 16]}, {"y": ["b", 2]}))
    return model
