"""What the server streams is what the network computes offline (B2).

Networks of one, two and three inputs, 2-D ones among them, are streamed with
several strides and batches through a real Triton and compared, to the last
bit, with the same artifacts applied to sliding windows at the same batch by
the same version of onnxruntime, and within 1e-5 with the torch networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from hermes.aeriel.client import InferenceClient, StreamResult
from hermes.aeriel.serve import Server, serve
from hermes.quiver import Model, ModelRepository, Platform

pytestmark = [pytest.mark.triton, pytest.mark.torch]

KERNEL_SIZE = 64
BATCHES = 1, 2, 16
STRIDES = 1, 5, 32, KERNEL_SIZE
# Channels of each input; None has no channel axis.
INPUTS: dict[str, dict[str, int | None]] = {
    "one": {"strain": 2},
    "two": {"strain": 2, "witness": 21},
    "three": {"witness": 3, "envelope": None, "strain": 2},
}
TOLERANCE = 1e-5


class Network(torch.nn.Module):
    """Sees every sample and its place, so that no shift goes unnoticed."""

    def __init__(self, inputs: dict[str, int | None]) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv1d(channels or 1, 4, 7, stride=2)
            for channels in inputs.values()
        )
        size = 4 * ((KERNEL_SIZE - 7) // 2 + 1)
        self.head = torch.nn.Linear(size * len(inputs), 3)

    def run(self, *inputs: torch.Tensor) -> torch.Tensor:
        features = [
            torch.tanh(conv(x if x.ndim == 3 else x[:, None])).flatten(1)
            for conv, x in zip(self.convs, inputs, strict=True)
        ]
        return self.head(torch.cat(features, 1))


class One(Network):
    def forward(self, strain):
        return self.run(strain)


class Two(Network):
    def forward(self, strain, witness):
        return self.run(strain, witness)


class Three(Network):
    def forward(self, witness, envelope, strain):
        return self.run(witness, envelope, strain)


CLASSES = {"one": One, "two": Two, "three": Three}


@dataclass
class Bench:
    """A running server, and what it was made of."""

    server: Server
    networks: dict[str, Network]
    artifacts: dict[str, str]


def name_of(inputs: str, batch: int, stride: int) -> str:
    return f"{inputs}-{batch}-{stride}"


def shapes(inputs: str) -> dict[str, tuple[int | None, ...]]:
    return {
        name: (None, KERNEL_SIZE) if c is None else (None, c, KERNEL_SIZE)
        for name, c in INPUTS[inputs].items()
    }


CASES = list(itertools.product(INPUTS, BATCHES, STRIDES))


def add_ensemble(
    repository: ModelRepository, model: Model, batch: int, stride: int
) -> None:
    name = name_of(model.name, batch, stride)
    ensemble = repository.add(name, Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        list(model.inputs.values()),
        stream_size=stride,
        batch_size=batch,
        name=f"snapshotter-{name}",
        streams_per_gpu=2 if (batch, stride) == (2, 5) else 1,
    )
    ensemble.add_output(model.outputs["scores"])
    ensemble.export_version(None)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    torch.manual_seed(0)
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    networks, artifacts = {}, {}
    for inputs, channels in INPUTS.items():
        networks[inputs] = CLASSES[inputs](channels).eval()
        model = repository.add(inputs, Platform.ONNX)
        artifacts[inputs] = model.export_version(
            networks[inputs],
            input_shapes=shapes(inputs),
            output_names=["scores"],
        )
        for case in CASES:
            if case[0] == inputs:
                add_ensemble(repository, model, *case[1:])
    with serve(repository, free_ports=True) as server:
        server.wait(timeout=300)
        yield Bench(server, networks, artifacts)


def make_samples(inputs: str, num_samples: int, seed: int) -> np.ndarray:
    channels = sum(c or 1 for c in INPUTS[inputs].values())
    rng = np.random.default_rng(seed)
    return rng.standard_normal((channels, num_samples), dtype=np.float32)


def make_updates(samples: np.ndarray, size: int) -> np.ndarray:
    return samples.reshape(len(samples), -1, size).transpose(1, 0, 2)


def windows(inputs: str, samples: np.ndarray, stride: int) -> dict:
    """The kernels of each input, the first ones padded with zeros."""
    padded = np.pad(samples, ((0, 0), (KERNEL_SIZE, 0)))
    kernels = sliding_window_view(padded, KERNEL_SIZE, axis=-1)
    kernels = kernels[:, stride::stride].transpose(1, 0, 2)
    parts, first = {}, 0
    for name, channels in INPUTS[inputs].items():
        part = kernels[:, first : first + (channels or 1)]
        parts[name] = part[:, 0] if channels is None else part
        first += channels or 1
    return parts


def offline(
    bench: Bench, inputs: str, samples: np.ndarray, batch: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the artifact and of the network, batch by batch."""
    session = onnxruntime.InferenceSession(bench.artifacts[inputs])
    kernels = windows(inputs, samples, stride)
    scores = []
    for start in range(0, len(next(iter(kernels.values()))), batch):
        part = {
            name: np.ascontiguousarray(array[start : start + batch])
            for name, array in kernels.items()
        }
        scores += session.run(None, part)
    with torch.no_grad():
        arrays = [torch.from_numpy(a.copy()) for a in kernels.values()]
        from_network = bench.networks[inputs](*arrays).numpy()
    return np.concatenate(scores), from_network


def num_updates_for(batch: int, stride: int) -> int:
    """Enough to fill the snapshot, and as much again."""
    return 2 * -(-KERNEL_SIZE // (batch * stride)) + 2


def assert_equal_to_offline(
    bench: Bench,
    case: tuple[str, int, int],
    samples: np.ndarray,
    results: list[StreamResult],
) -> None:
    inputs, batch, stride = case
    scores = np.concatenate([result.output for result in results])
    artifact, network = offline(bench, inputs, samples, batch, stride)
    warmup = sum(result.num_warmup for result in results)
    assert warmup == -(-KERNEL_SIZE // stride) - 1
    np.testing.assert_array_equal(scores, artifact)
    np.testing.assert_allclose(
        scores[warmup:], network[warmup:], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize(("inputs", "batch", "stride"), CASES)
def test_a_stream_equals_sliding_windows(
    bench: Bench, inputs: str, batch: int, stride: int
) -> None:
    size = batch * stride
    samples = make_samples(inputs, num_updates_for(batch, stride) * size, 0)
    name = name_of(inputs, batch, stride)

    with (
        InferenceClient(bench.server.endpoint, name) as client,
        client.sequence() as sequence,
    ):
        results = list(sequence.stream(make_updates(samples, size)))

    assert_equal_to_offline(bench, (inputs, batch, stride), samples, results)


def test_interleaved_sequences_do_not_mix(bench: Bench) -> None:
    case = inputs, batch, stride = "three", 2, 5
    size = batch * stride
    streams = [make_samples(inputs, 40 * size, seed) for seed in (1, 2)]

    with (
        InferenceClient(bench.server.endpoint, name_of(*case)) as client,
        client.sequence() as first,
        client.sequence() as second,
    ):
        futures = [
            (first.send(a), second.send(b))
            for a, b in zip(
                *(make_updates(samples, size) for samples in streams),
                strict=True,
            )
        ]
        received = [
            [future.result() for future in sent]
            for sent in zip(*futures, strict=True)
        ]

    for samples, results in zip(streams, received, strict=True):
        assert_equal_to_offline(bench, case, samples, results)


def test_a_second_sequence_starts_from_nothing(bench: Bench) -> None:
    case = inputs, _, stride = "one", 1, 32
    samples = make_samples(inputs, 6 * stride, 3)
    with InferenceClient(bench.server.endpoint, name_of(*case)) as client:
        for _ in range(2):
            with client.sequence() as sequence:
                updates = make_updates(samples, stride)
                results = list(sequence.stream(updates))
            assert_equal_to_offline(bench, case, samples, results)


def test_parts_of_an_update_may_be_given_by_name(bench: Bench) -> None:
    case = inputs, batch, stride = "three", 16, 5
    size = batch * stride
    samples = make_samples(inputs, 3 * size, 4)
    updates = [
        {
            "three/strain": update[4:],
            "three/envelope": update[3],
            "three/witness": update[:3],
        }
        for update in make_updates(samples, size)
    ]
    with (
        InferenceClient(bench.server.endpoint, name_of(*case)) as client,
        client.sequence() as sequence,
    ):
        results = list(sequence.stream(updates))
    assert_equal_to_offline(bench, case, samples, results)
