"""What was exported, on the real server, equals what it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform

pytestmark = [pytest.mark.triton, pytest.mark.torch]

# Where a prediction is above a threshold: it has no graph, for the number of
# answers is known only afterwards.
TRIGGERS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class Triggers:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            found = np.argwhere(x > 1).astype(np.int64)
            tensor = pb_utils.Tensor("places", found)
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses


TritonPythonModel = Triggers
"""


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(3, 5, batch_first=True)

    def forward(self, strain):
        states, last = self.gru(strain)
        return {"states": states, "last": last[0], "unused": None}


class Masked(torch.nn.Module):
    def forward(self, x, mask, index):
        return x.masked_fill(mask, 0), x.gather(1, index)


def randn(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


class Energy(torch.nn.Module):
    def forward(self, x):
        return x.square().sum(-1)


NETWORKS = {
    "energy": (
        Energy(),
        {"input_shapes": {"x": (None, 4)}, "opset_version": 17},
    ),
    "recurrent": (Recurrent(), {"input_shapes": {"strain": (None, None, 3)}}),
    "half": (
        torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.ReLU()).half(),
        {"input_shapes": {"input": (None, 2, 16)}, "opset_version": 13},
    ),
    "masked": (
        Masked(),
        {
            "sample_inputs": [
                torch.ones(2, 4),
                torch.zeros(2, 4, dtype=torch.bool),
                np.zeros((2, 1), np.int64),
            ],
            "output_names": ["kept", "chosen"],
            "opset_version": 17,
        },
    ),
}
REQUESTS = {
    "energy": {"x": randn(3, 4)},
    "recurrent": {"strain": randn(3, 40, 3)},
    "half": {"input": randn(3, 2, 16, dtype="float16")},
    "masked": {
        "x": randn(3, 4),
        "mask": randn(3, 4) > 0,
        "index": np.array([[3], [0], [2]]),
    },
}


# Each on ONNX Runtime, and some on torch itself.
SERVED = [(name, Platform.ONNX) for name in NETWORKS] + [
    ("recurrent", Platform.TORCHSCRIPT),
    ("masked", Platform.TORCHSCRIPT),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("exported")
    repository = ModelRepository(folder / "models")
    for name, platform in SERVED:
        network, arguments = NETWORKS[name]
        arguments = dict(arguments)
        if platform is not Platform.ONNX:
            arguments.pop("opset_version", None)
        model = repository.add(f"{name}-{platform.name}", platform)
        model.config.max_batch_size = 8 if name == "energy" else 0
        model.export_version(network, **arguments)
    file = Path(folder / "triggers.py")
    file.write_text(TRIGGERS)
    model = repository.add("triggers", Platform.PYTHON)
    model.config.add_input("x", (None, 4))
    model.config.add_output("places", (None, 2), "int64")
    model.export_version(file)
    with serve(repository.root, free_ports=True, gpus=[]) as server:
        yield server.wait(120)


@pytest.mark.parametrize(("name", "platform"), SERVED)
def test_served_networks_give_what_they_give_offline(
    server: Server, name: str, platform: Platform
) -> None:
    arrays = REQUESTS[name]
    with torch.no_grad():
        expected = NETWORKS[name][0](*map(torch.from_numpy, arrays.values()))
    if isinstance(expected, torch.Tensor):
        # what is one number for each row has an axis of size 1 on a server
        expected = expected if expected.ndim > 1 else expected[:, None]
        expected = {"output_0": expected}
    elif isinstance(expected, tuple):
        expected = dict(zip(("kept", "chosen"), expected, strict=True))
    model = f"{name}-{platform.name}"
    with InferenceClient(server.endpoint, model) as client:
        given = client.predict(arrays)
    given = given if isinstance(given, dict) else {"output_0": given}
    expected = {n: y.numpy() for n, y in expected.items() if y is not None}
    assert given.keys() == expected.keys()
    for output, array in expected.items():
        assert given[output].dtype == array.dtype
        np.testing.assert_allclose(
            given[output],
            array,
            rtol=1e-2 if name == "half" else 1e-5,
            atol=1e-2 if name == "half" else 1e-6,
        )


def test_a_python_model_is_served(server: Server) -> None:
    x = randn(5, 4)
    with InferenceClient(server.endpoint, "triggers") as client:
        np.testing.assert_array_equal(client.predict(x), np.argwhere(x > 1))
