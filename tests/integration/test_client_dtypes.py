"""Every dtype that the local runtime can serve, there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform

pytestmark = pytest.mark.triton

NUMBERS = [
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
]


def identity(dtype: str):
    kind = TensorProto.STRING if dtype == "object" else None
    if kind is None:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x, y = (
        helper.make_tensor_value_info(name, kind, [None, 3]) for name in "xy"
    )
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "identity", [x], [y])
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=7)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("models")
    repository = ModelRepository(root)
    for dtype in [*NUMBERS, "object"]:
        model = repository.add(dtype, Platform.ONNX)
        model.export_version(identity(dtype))
    with serve(repository, free_ports=True, wait=True) as server:
        yield server


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_come_back_bit_for_bit(server, dtype) -> None:
    size = 4 * 3 * np.dtype(dtype).itemsize
    bits = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    if dtype == "bool":
        bits %= 2
    x = bits.view(dtype).reshape(4, 3)
    with InferenceClient(server.endpoint, dtype) as client:
        assert client.spec.inputs["x"].dtype == x.dtype
        y = client.predict(x)
        # also where it is not laid out as the wire wants it
        transposed = client.predict(np.asfortranarray(x))
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.view(np.uint8), x.view(np.uint8))
    np.testing.assert_array_equal(transposed.view("u1"), x.view("u1"))


def test_bytes_come_back(server) -> None:
    x = np.array([[b"strain", b"", "h\u00e9".encode()]], dtype=object)
    with InferenceClient(server.endpoint, "object") as client:
        np.testing.assert_array_equal(client.predict(x), x)
        text = client.predict(np.array([["a", "bc", "d"]]))
        np.testing.assert_array_equal(text, [[b"a", b"bc", b"d"]])
