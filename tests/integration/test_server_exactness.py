"""The last bit: what a server computes is what onnxruntime computes here.

onnxruntime sums in an order that depends on where an array's memory begins,
modulo 16 bytes. numpy's arrays begin at multiples of 16; what arrives through
shared memory need not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.quiver import ModelRepository, Platform

pytestmark = pytest.mark.triton


def reductions() -> onnx.ModelProto:
    """Sums over the last axis of two inputs of any size."""
    value = helper.make_tensor_value_info
    names = ("a", "b")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [n], [f"mean_{n}"], axes=[-1])
            for n in names
        ],
        "reductions",
        [value(n, TensorProto.FLOAT, [None, None]) for n in names],
        [value(f"mean_{n}", TensorProto.FLOAT, [None, 1]) for n in names],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_sums_of_any_size_are_exact(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    model = repository.add("reductions", Platform.ONNX)
    session = onnxruntime.InferenceSession(model.export_version(reductions()))
    rng = np.random.default_rng(0)
    requests = [
        {
            name: rng.standard_normal(
                (rng.integers(1, 5), rng.integers(1, 300)), np.float32
            )
            for name in ("a", "b")
        }
        for _ in range(500)
    ]
    with (
        serve(repository, free_ports=True, wait=True) as server,
        InferenceClient(server.endpoint, "reductions") as client,
    ):
        futures = [client.submit(request) for request in requests]
        for future, request in zip(futures, requests, strict=True):
            expected = session.run(["mean_a", "mean_b"], request)
            answer = future.result(30)
            np.testing.assert_array_equal(answer["mean_a"], expected[0])
            np.testing.assert_array_equal(answer["mean_b"], expected[1])
