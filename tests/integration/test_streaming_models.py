"""Layers with states of their own, and averages, on the real server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from hermes.aeriel.client import InferenceClient, StreamResult
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform
from hermes.quiver.streaming.utils import add_streaming_model

pytestmark = [pytest.mark.triton, pytest.mark.torch]


class Swapped(torch.nn.Module):
    """Two states of one shape, whose exchange would be seen at once.

    ``zeta`` adds the updates up, ``alpha`` holds the last one; the names sort
    against the order of the arguments.
    """

    def forward(self, update, zeta, alpha):
        total = zeta + update
        return total - 2 * alpha, total, update


class Mixed(torch.nn.Module):
    """Three states of two shapes and two dtypes."""

    def forward(self, update, mean, count, history):
        count = count + 1
        mean = mean + (update - mean) / count.to(update.dtype)
        history = torch.cat([history[:, 1:], update[:, None, 0]], 1)
        return mean, history.sum(1), count * 1, mean, count, history


class Rows(torch.nn.Module):
    """Rows of a batch belong to different sequences."""

    def forward(self, update, total):
        total = total + update
        return total, total


class Window(torch.nn.Module):
    """Kernels in, windows of the same length out."""

    def forward(self, x):
        return (x * torch.linspace(0.5, 1, x.shape[-1])).sum(1)


class Double(torch.nn.Module):
    def forward(self, x):
        return 2 * x


# Samples in a kernel, and between kernels.
STREAMS = {"fast": (32, 4), "slow": (64, 16)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> ModelRepository:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    add_streaming_model(
        repository, Swapped(), "swapped", "update", (1, 3),
        ["zeta", "alpha"], [(1, 3), (1, 3)], ["y"],
        streams_per_gpu=2,
    )  # fmt: skip
    add_streaming_model(
        repository, Mixed(), "mixed", "update", (1, 3),
        ["mean", "count", "history"], [(1, 3), (1,), (1, 4)],
        ["average", "recent", "number"],
        state_dtypes=[np.float32, np.int64, np.float32],
    )  # fmt: skip
    for strategy in ("direct", "oldest"):
        add_streaming_model(
            repository, Rows(), f"rows-{strategy}", "update", (None, 2),
            ["total"], [(None, 2)], ["y"], streams_per_gpu=4,
            max_batch_size=4, strategy=strategy,
        )  # fmt: skip
    add_average(repository, batch_size=1)
    add_average(repository, batch_size=4)
    add_two_streams(repository)
    add_repeated(repository)
    return repository


def add_two_streams(repository: ModelRepository) -> None:
    """Two streams of different kernels and rates in one ensemble."""
    ensemble = repository.add("two-streams", Platform.ENSEMBLE)
    for name, (size, stride) in STREAMS.items():
        model = repository.add(name, Platform.ONNX)
        model.export_version(
            Window(),
            input_shapes={"x": (None, 2, size)},
            output_names=["y"],
        )
        ensemble.add_streaming_inputs(
            model.inputs["x"], stride, 2, name=f"snapshotter-{name}"
        )
        ensemble.add_output(model.outputs["y"], key=name)
    ensemble.export_version(None)


def add_repeated(repository: ModelRepository) -> None:
    """One model in two steps, one after the other."""
    model = repository.add("double", Platform.ONNX)
    model.export_version(
        Double(), input_shapes={"x": (None, 3)}, output_names=["y"]
    )
    ensemble = repository.add("repeated", Platform.ENSEMBLE)
    ensemble.add_input(model.inputs["x"])
    again = ensemble.add_step(model)
    ensemble.pipe(model.outputs["y"], again.inputs["x"])
    ensemble.add_output(again.outputs["y"])
    ensemble.export_version(None)


def add_average(repository: ModelRepository, batch_size: int) -> None:
    if "window" not in repository.models:
        repository.add("window", Platform.ONNX).export_version(
            Window(), input_shapes={"x": (None, 2, 64)}, output_names=["y"]
        )
    window = repository.models["window"]
    ensemble = repository.add(f"average-{batch_size}", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        window.inputs["x"], 8, batch_size, name=f"snapshotter-{batch_size}"
    )
    ensemble.add_streaming_output(
        window.outputs["y"], 8, 4, name=f"aggregator-{batch_size}"
    )
    ensemble.export_version(None)


@pytest.fixture(scope="module")
def server(repository) -> Iterator[Server]:
    with serve(repository, free_ports=True, wait=True) as server:
        yield server


def stream(server: Server, model: str, updates) -> list[StreamResult]:
    with (
        InferenceClient(server.endpoint, model) as client,
        client.sequence() as sequence,
    ):
        return list(sequence.stream(updates))


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_states_of_one_shape_are_not_swapped(server) -> None:
    updates = randn(20, 1, 3)
    results = stream(server, "swapped", updates)
    total, last = np.zeros_like(updates[0]), np.zeros_like(updates[0])
    for result, update in zip(results, updates, strict=True):
        total = total + update
        np.testing.assert_allclose(result.output, total - 2 * last, atol=1e-6)
        last = update


def test_states_of_several_shapes_and_dtypes_are_kept(server) -> None:
    updates = randn(12, 1, 3)
    results = stream(server, "mixed", updates)
    for n, result in enumerate(results, start=1):
        seen = updates[:n, 0]
        assert result.outputs["number"] == n
        np.testing.assert_allclose(
            result.outputs["average"][0], seen.mean(0), atol=1e-5
        )
        np.testing.assert_allclose(
            result.outputs["recent"], seen[-4:, 0].sum(), atol=1e-5
        )


@pytest.mark.parametrize("strategy", ["direct", "oldest"])
def test_sequences_share_batches_and_not_states(server, strategy) -> None:
    updates = [randn(30, 1, 2, seed=seed) for seed in range(4)]
    with InferenceClient(server.endpoint, f"rows-{strategy}") as client:
        sequences = [client.sequence() for _ in updates]
        futures = [
            [s.send(u[i]) for s, u in zip(sequences, updates, strict=True)]
            for i in range(30)
        ]
        received = [[f.result(30).output for f in row] for row in futures]
        for sequence in sequences:
            sequence.close()
    for k, update in enumerate(updates):
        totals = np.stack([row[k] for row in received])
        np.testing.assert_allclose(totals, update.cumsum(0), atol=1e-5)


def test_averages_are_those_of_the_offline_predictions(server) -> None:
    data = randn(2, 8 * 40)
    streamed = {
        batch: np.concatenate(
            [
                result.output[0]
                for result in stream(
                    server,
                    f"average-{batch}",
                    np.split(data, 40 // batch, axis=1),
                )
            ]
        )
        for batch in (1, 4)
    }
    np.testing.assert_array_equal(streamed[1], streamed[4])

    padded = np.pad(data, ((0, 0), (64, 0)))
    kernels = sliding_window_view(padded, 64, axis=-1)[:, 8::8]
    windows = Window()(torch.from_numpy(kernels.transpose(1, 0, 2).copy()))
    expected = []
    for last in range(40):
        blocks = [
            windows[index, 64 - 8 * (4 - last + index) :][:8].double()
            for index in range(max(0, last - 3), last + 1)
        ]
        expected.append(torch.stack(blocks).mean(0).numpy())
    np.testing.assert_allclose(
        streamed[1], np.concatenate(expected), atol=1e-5
    )


def test_the_client_knows_what_is_valid(server) -> None:
    data = randn(2, 8 * 40)
    results = stream(server, "average-4", np.split(data, 10, axis=1))
    # 7 kernels of warm-up and 3 more to average, 8 samples each
    assert [r.num_warmup for r in results[:4]] == [32, 32, 16, 0]


def test_two_streams_go_through_one_ensemble(server) -> None:
    data = {
        name: randn(2, 20 * 2 * stride, seed=stride)
        for name, (_, stride) in STREAMS.items()
    }
    parts = {name: np.split(array, 20, axis=1) for name, array in data.items()}
    updates = [
        {f"{name}/x": parts[name][i] for name in STREAMS} for i in range(20)
    ]
    results = stream(server, "two-streams", updates)
    for name, (size, stride) in STREAMS.items():
        padded = np.pad(data[name], ((0, 0), (size, 0)))
        kernels = sliding_window_view(padded, size, axis=-1)
        kernels = kernels[:, stride::stride].transpose(1, 0, 2)
        expected = Window()(torch.from_numpy(kernels.copy())).numpy()
        streamed = np.concatenate([r.outputs[name] for r in results])
        np.testing.assert_allclose(streamed, expected, atol=1e-5)


def test_a_model_may_run_in_two_steps(server) -> None:
    with InferenceClient(server.endpoint, "repeated") as client:
        x = randn(5, 3)
        np.testing.assert_array_equal(client.predict(x), 4 * x)
