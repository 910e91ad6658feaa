"""Networks of other shapes than ours: exported, streamed, compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform

pytestmark = [pytest.mark.triton, pytest.mark.torch, pytest.mark.slow]

CHANNELS, KERNEL_SIZE, STRIDE, BATCH = 3, 256, 24, 2


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(CHANNELS, 8, 2, batch_first=True)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, strain):
        features, _ = self.lstm(strain.transpose(1, 2))
        return self.head(features[:, -1])


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv1d(CHANNELS, 16, 8, stride=8)
        layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1)

    def forward(self, strain):
        return self.encoder(self.patches(strain).transpose(1, 2)).mean(1)


class Cleaner(torch.nn.Module):
    """An autoencoder: a time series for each kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = torch.nn.Conv1d(CHANNELS, 8, 7, 2, 3)
        self.norm = torch.nn.BatchNorm1d(8)
        self.decode = torch.nn.ConvTranspose1d(8, 1, 7, 2, 3, 1)

    def forward(self, witnesses):
        return self.decode(torch.tanh(self.norm(self.encode(witnesses))))[:, 0]


class Trigger(torch.nn.Module):
    """Several outputs, one of them whole numbers."""

    def forward(self, strain):
        scaled = strain / (strain.std(-1, keepdim=True) + 1e-3)
        loudest, index = scaled.abs().max(-1)
        return loudest, index


NETWORKS = {
    "recurrent": Recurrent,
    "attention": Attention,
    "cleaner": Cleaner,
    "trigger": Trigger,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[ModelRepository, dict, dict]:
    torch.manual_seed(0)
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    networks = {name: make().eval() for name, make in NETWORKS.items()}
    artifacts = {}
    for name, network in networks.items():
        model = repository.add(name, Platform.ONNX)
        artifacts[name] = model.export_version(
            network, input_shapes=[(None, CHANNELS, KERNEL_SIZE)]
        )
        ensemble = repository.add(f"stream-{name}", Platform.ENSEMBLE)
        ensemble.add_streaming_inputs(
            list(model.inputs.values()), STRIDE, BATCH, name=f"snapshot-{name}"
        )
        for output in model.outputs.values():
            ensemble.add_output(output)
        ensemble.export_version(None)
    return repository, networks, artifacts


@pytest.fixture(scope="module")
def server(exported) -> Iterator[Server]:
    with serve(exported[0], free_ports=True, wait=True) as server:
        yield server


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_streams_what_it_computes_offline(
    exported, server, name
) -> None:
    _, networks, artifacts = exported
    rng = np.random.default_rng(0)
    size = STRIDE * BATCH
    samples = rng.standard_normal((CHANNELS, 20 * size), np.float32)
    with (
        InferenceClient(server.endpoint, f"stream-{name}") as client,
        client.sequence() as sequence,
    ):
        results = list(sequence.stream(np.split(samples, 20, axis=1)))
    padded = np.pad(samples, ((0, 0), (KERNEL_SIZE, 0)))
    kernels = sliding_window_view(padded, KERNEL_SIZE, axis=-1)
    kernels = kernels[:, STRIDE::STRIDE].transpose(1, 0, 2)

    session = onnxruntime.InferenceSession(artifacts[name])
    (argument,) = [value.name for value in session.get_inputs()]
    offline = [
        session.run(None, {argument: kernels[i : i + BATCH].copy()})
        for i in range(0, len(kernels), BATCH)
    ]
    with torch.no_grad():
        computed = networks[name](torch.from_numpy(kernels.copy()))
    computed = computed if isinstance(computed, tuple) else (computed,)
    warmup = sum(result.num_warmup for result in results)
    for i, value in enumerate(session.get_outputs()):
        streamed = np.concatenate([r.outputs[value.name] for r in results])
        expected = np.concatenate([outputs[i] for outputs in offline])
        np.testing.assert_array_equal(streamed, expected)
        np.testing.assert_allclose(
            streamed[warmup:], computed[i][warmup:], rtol=0, atol=1e-5
        )
