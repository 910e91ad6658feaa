"""From a torch network to served predictions of a stream, and back to proof.

Exports a small convolutional network and an ensemble that streams into it,
serves both with a local Triton (no container, no GPU), streams synthetic
detector noise with injected chirps through it, and compares every prediction
with the same network applied offline to sliding windows.

Prints a table, draws ``demo.png``, and ends with one line of JSON. The exit
status is 1 if a prediction is missing or differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch
from numpy.lib.stride_tricks import sliding_window_view

from hermes.aeriel.client import InferenceClient, Sequence, StreamResult
from hermes.aeriel.serve import serve
from hermes.quiver import ModelRepository, Platform

SAMPLE_RATE = 2048  # Hz
INFERENCE_SAMPLING_RATE = 4  # Hz
KERNEL_SIZE = 8192  # samples: 4 s
NUM_IFOS = 2
STRIDE_SIZE = SAMPLE_RATE // INFERENCE_SAMPLING_RATE
TOLERANCE = 1e-5


class Detector(torch.nn.Module):
    """The example network: (batch, 2, 8192) -> (batch, 1)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [NUM_IFOS, 8, 32, 64, 128, 256]
        layers: list[torch.nn.Module] = []
        for num_in, num_out in itertools.pairwise(widths):
            conv = torch.nn.Conv1d(num_in, num_out, 7, stride=2, padding=3)
            layers += [conv, torch.nn.ReLU()]
        self.features = torch.nn.Sequential(*layers)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(256, 1024),
            torch.nn.ReLU(),
            torch.nn.Linear(1024, 1),
        )
        # Nobody has trained it. With torch's own initial weights its scores
        # would hardly depend on the strain, and any comparison would succeed.
        for module in self.modules():
            if isinstance(module, torch.nn.Conv1d | torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight)

    def forward(self, strain: torch.Tensor) -> torch.Tensor:
        """Score each kernel."""
        return self.head(self.features(strain).mean(-1))


def make_strain(duration: int, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise of unit variance with a chirp every 32 seconds."""
    size = duration * SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal((NUM_IFOS, size)))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    # a wall below 20 Hz, a bucket at 200 Hz, shot noise above
    noise = np.sqrt((20 / np.maximum(frequency, 20)) ** 4 + 0.01)
    noise *= (frequency > 10) * np.sqrt(1 + (frequency / 200) ** 2)
    strain = np.fft.irfft(spectrum * noise, n=size)
    strain /= strain.std(axis=-1, keepdims=True)
    time_left = np.arange(SAMPLE_RATE, 0, -1) / SAMPLE_RATE
    # frequency and amplitude of an inspiral grow as powers of the time left
    phase = -2 * np.pi * 30 * 8 / 5 * time_left ** (5 / 8)
    chirp = 2 * time_left ** (-1 / 4) * np.sin(phase)
    for end in range(24, duration + 1, 32):
        stop = end * SAMPLE_RATE
        strain[:, stop - SAMPLE_RATE : stop] += chirp
    return strain.astype(np.float32)


def export(root: Path, network: torch.nn.Module, batch_size: int) -> Path:
    """Write the repository that Triton will load; returns the artifact."""
    repository = ModelRepository(root)
    model = repository.add("detector", Platform.ONNX)
    artifact = model.export_version(
        network,
        input_shapes={"strain": (None, NUM_IFOS, KERNEL_SIZE)},
        output_names=["score"],
    )
    ensemble = repository.add("streaming-detector", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        model.inputs["strain"], stream_size=STRIDE_SIZE, batch_size=batch_size
    )
    ensemble.add_output(model.outputs["score"])
    ensemble.export_version(None)
    return Path(artifact)


def stream(
    sequence: Sequence, updates: np.ndarray, interval: float | None
) -> tuple[list[StreamResult], np.ndarray]:
    """Send the updates; returns the results and their latencies in seconds.

    Args:
        sequence: Takes the updates.
        updates: One update per row.
        interval: Seconds of data in an update, to send each when its last
            sample would have been measured; None sends as fast as the server
            answers.
    """
    if interval is None:
        results = list(sequence.stream(updates))
        return results, np.array([result.latency for result in results])
    begin = time.perf_counter()
    futures, lateness = [], []
    for due, update in enumerate(updates, start=1):
        wait = begin + due * interval - time.perf_counter()
        time.sleep(max(0.0, wait))
        lateness.append(max(0.0, -wait))
        futures.append(sequence.send(update))
    results = [future.result() for future in futures]
    return results, np.array([r.latency for r in results]) + lateness


def predict_offline(
    artifact: Path, network: torch.nn.Module, strain: np.ndarray, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of the artifact, and of the network, for each window.

    The artifact runs at the batch of the server, for the order of sums, and
    with it the last bit, may depend on it. Windows that begin before the
    stream are filled up with zeros, as the server does.
    """
    padded = np.pad(strain, ((0, 0), (KERNEL_SIZE, 0)))
    windows = sliding_window_view(padded, KERNEL_SIZE, axis=-1)
    windows = windows[:, STRIDE_SIZE::STRIDE_SIZE].transpose(1, 0, 2)
    session = onnxruntime.InferenceSession(artifact)

    def batches(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(windows), size):
            yield np.ascontiguousarray(windows[start : start + size])

    scores = [session.run(None, {"strain": x})[0] for x in batches(batch)]
    with torch.no_grad():
        network_scores = [network(torch.from_numpy(x)) for x in batches(32)]
    return np.concatenate(scores), torch.cat(network_scores).numpy()


def compare(
    predictions: np.ndarray,
    from_artifact: np.ndarray,
    from_network: np.ndarray,
    warmup: int,
) -> dict[str, Any]:
    """Say how many predictions there are, and how they differ."""
    warmup = min(warmup, len(predictions))
    figures = {"predictions": len(predictions), "warmup": warmup}
    if predictions.shape != from_artifact.shape:
        # JSON has no infinity
        return {**figures, "bitwise_equal": False, "max_abs_error": 1e9}
    errors = np.abs(predictions - from_network)[warmup:]
    return {
        **figures,
        "bitwise_equal": predictions.tobytes() == from_artifact.tobytes(),
        "max_abs_error": float(np.max(errors, initial=0)),
    }


def show(figures: dict[str, Any], batch_size: int) -> None:
    """Print the figures for a person."""
    ratio = figures["bytes_naive"] / figures["bytes_sent"]
    rows = {
        "predictions": f"{figures['predictions']}"
        f" ({figures['warmup']} of them warm-up)",
        "data-seconds per second": f"{figures['data_seconds_per_second']:.1f}",
        "latency p50 / p99": f"{figures['latency_p50_ms']:.1f} /"
        f" {figures['latency_p99_ms']:.1f} ms",
        "sent": f"{figures['bytes_sent'] / 1e6:.1f} MB",
        "sent if kernels were resent": f"{figures['bytes_naive'] / 1e6:.1f} MB"
        f" ({ratio:.0f} times as much)",
        f"equal to offline ONNX, batch {batch_size}": "to the last bit"
        if figures["bitwise_equal"]
        else "NO",
        "largest difference from torch": f"{figures['max_abs_error']:.1e}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def draw(
    path: str, strain: np.ndarray, predictions: np.ndarray, warmup: int
) -> None:
    """Draw strain above and predictions below, on one time axis."""
    mpl.use("agg")
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5), sharex=True, layout="constrained"
    )
    seconds = np.arange(strain.shape[-1]) / SAMPLE_RATE
    for name, channel in zip(("H1", "L1"), strain, strict=True):
        above.plot(seconds[::16], channel[::16], lw=0.4, label=name, alpha=0.6)
    above.set_ylabel("strain (unit variance)")
    above.legend(loc="upper left", bbox_to_anchor=(1, 1))
    times = np.arange(1, len(predictions) + 1) / INFERENCE_SAMPLING_RATE
    below.plot(times, predictions, lw=1)
    below.axvspan(
        0, warmup / INFERENCE_SAMPLING_RATE, color="0.9", label="warm-up"
    )
    below.set_ylabel("prediction")
    below.set_xlabel("time (s)")
    below.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--batch-size", type=int, default=1, help="kernels per update"
    )
    parser.add_argument(
        "--duration", type=int, default=256, help="seconds of data"
    )
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="send each update when it would have been measured",
    )
    parser.add_argument("--plot", default="demo.png", help="file to draw")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if not Path(options.plot).absolute().parent.is_dir():
        parser.error(f"--plot {options.plot}: there is no such directory")
    if options.duration * SAMPLE_RATE < KERNEL_SIZE:
        shortest = KERNEL_SIZE // SAMPLE_RATE
        parser.error(f"--duration must be at least one kernel: {shortest} s")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    options = parse(arguments)
    torch.manual_seed(2)
    network = Detector().eval()
    strain = make_strain(options.duration, np.random.default_rng(0))
    # The last update is filled up with zeros, and what it yields is trimmed.
    update_size = STRIDE_SIZE * options.batch_size
    tail = -strain.shape[-1] % update_size
    updates = np.pad(strain, ((0, 0), (0, tail)))
    updates = updates.reshape(NUM_IFOS, -1, update_size).transpose(1, 0, 2)
    with tempfile.TemporaryDirectory() as root:
        print("exporting ...", file=sys.stderr)
        artifact = export(Path(root), network, options.batch_size)
        print("starting Triton ...", file=sys.stderr)
        with (
            serve(root, free_ports=True, wait=True) as server,
            InferenceClient(server.endpoint, "streaming-detector") as client,
        ):
            print("streaming ...", file=sys.stderr)
            begin = time.perf_counter()
            with client.sequence(max_in_flight=4) as sequence:
                results, latencies = stream(
                    sequence,
                    updates,
                    update_size / SAMPLE_RATE if options.real_time else None,
                )
            elapsed = time.perf_counter() - begin
        print("comparing ...", file=sys.stderr)
        expected = predict_offline(
            artifact, network, np.concatenate(updates, 1), options.batch_size
        )
    wanted = options.duration * INFERENCE_SAMPLING_RATE
    predictions = np.concatenate([r.output for r in results])[:wanted]
    figures = {
        **compare(
            predictions,
            expected[0][:wanted],
            expected[1][:wanted],
            sum(result.num_warmup for result in results),
        ),
        "data_seconds_per_second": options.duration / elapsed,
        "latency_p50_ms": float(1e3 * np.percentile(latencies, 50)),
        "latency_p99_ms": float(1e3 * np.percentile(latencies, 99)),
        # one more update, of zeros, ends the sequence
        "bytes_sent": updates.nbytes + updates[0].nbytes,
        "bytes_naive": wanted * NUM_IFOS * KERNEL_SIZE * strain.itemsize,
    }
    draw(options.plot, strain, predictions, figures["warmup"])
    show(figures, options.batch_size)
    print(json.dumps(figures))
    missing = figures["predictions"] != wanted
    unequal = options.batch_size == 1 and not figures["bitwise_equal"]
    return int(missing or unequal or not figures["max_abs_error"] <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
