"""The models of stream_scaling.py, and what they make of its streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from _scaling_clients import OUTPUT

from hermes.quiver import ModelRepository, Platform

NUM_CHANNELS, KERNEL_SIZE, STRIDE = 21, 4096, 8


class Probe(torch.nn.Module):
    """The mean over time and channels: next to nothing to compute."""

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        """(batch, 21, 4096) -> (batch, 1)."""
        return kernel.mean((1, 2))[:, None]


class Cleaner(torch.nn.Module):
    """DeepClean's autoencoder: the noise of the last samples."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        widths = [NUM_CHANNELS, 8, 16, 32, 64]
        layers = [nn.Conv1d(NUM_CHANNELS, NUM_CHANNELS, 7, padding=3)]
        for num_in, num_out in itertools.pairwise(widths):
            layers += [nn.BatchNorm1d(num_in), nn.Tanh()]
            layers += [nn.Conv1d(num_in, num_out, 7, 2, 3)]
        for num_in, num_out in itertools.pairwise(widths[::-1]):
            layers += [nn.BatchNorm1d(num_in), nn.Tanh()]
            layers += [nn.ConvTranspose1d(num_in, num_out, 7, 2, 3, 1)]
        layers += [nn.BatchNorm1d(NUM_CHANNELS), nn.Tanh()]
        layers += [nn.Conv1d(NUM_CHANNELS, 1, 7, padding=3)]
        self.layers = nn.Sequential(*layers)

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        """(batch, 21, 4096) -> (batch, 8)."""
        return self.layers(kernel)[:, 0, -STRIDE:]


NETWORKS: dict[str, type[torch.nn.Module]] = {
    "probe": Probe,
    "cleaner": Cleaner,
}


def export(
    root: Path, networks: Iterable[str], slots: Iterable[int]
) -> dict[str, str]:
    """Write the models; returns the artifacts of the networks."""
    torch.manual_seed(0)
    repository = ModelRepository(root)
    artifacts = {}
    for name in networks:
        model = repository.add(name, Platform.ONNX)
        threads = model.config.parameters["intra_op_thread_count"]
        threads.string_value = "1"
        artifacts[name] = model.export_version(
            NETWORKS[name]().eval(),
            input_shapes={"kernel": (None, NUM_CHANNELS, KERNEL_SIZE)},
            output_names=[OUTPUT],
        )
        for number in slots:
            ensemble = repository.add(f"{name}-{number}", Platform.ENSEMBLE)
            ensemble.add_streaming_inputs(
                model.inputs["kernel"],
                stream_size=STRIDE,
                name=f"snapshotter-{name}-{number}",
                streams_per_gpu=number,
            )
            ensemble.add_output(model.outputs[OUTPUT])
            ensemble.export_version(None)
    return artifacts


def write_data(
    folder: Path, artifact: str, num_sequences: int, num_updates: int
) -> None:
    """Updates of each sequence, and what the network makes of them."""
    rng = np.random.default_rng(num_sequences)
    size = num_updates * STRIDE
    samples = rng.standard_normal(
        (num_sequences, NUM_CHANNELS, size), dtype=np.float32
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact, options)
    padded = np.pad(samples, ((0, 0), (0, 0), (KERNEL_SIZE, 0)))
    expected = [
        [
            session.run(
                None, {"kernel": part[None, :, end : end + KERNEL_SIZE]}
            )
            for end in range(STRIDE, size + 1, STRIDE)
        ]
        for part in padded
    ]
    parts = np.split(samples[:, None], num_updates, axis=-1)
    np.save(folder / "updates.npy", np.stack(parts, axis=1))
    np.save(folder / "expected.npy", np.array(expected)[:, :, 0])
