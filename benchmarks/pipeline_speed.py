"""S2: a pipeline of processes against the same loop in one process.

A source cuts noise into updates, a stage filters each one, a server infers,
and a sink keeps the scores: once as ``source >> stage >> inference >> sink``,
once as a loop around the client's own ``sequence.stream``. The server is a
real Triton with a snapshotter and a probe, or an example network, behind it.

    light     updates of (1, 2, 512), no filter to speak of
    filter    the same, and a filter that takes about as long as a request

Every score of both is compared, bit for bit. Prints updates per second, the
medians over all rounds, and the ratio of each round.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _common import (
    circumstances,
    make_parser,
    pinned_server,
    ratio,
    spread,
    write_json,
)
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.quiver import ModelRepository, Platform
from hermes.stillwater import PipelineProcess
from hermes.stillwater.triton import InferenceProcess

KERNEL_SIZE, STRIDE = 8192, 512
MODEL = "streaming-probe"
FILTERS = {"light": 1, "filter": 40}


# Not by way of PyTorch: each process of a stage imports this file again.
def probe_graph() -> onnx.ModelProto:
    """Mean over time: (batch, 2, kernel) -> (batch, 2)."""
    shapes = {"strain": ["batch", 2, KERNEL_SIZE], "mean": ["batch", 2]}
    strain, mean = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    node = helper.make_node(
        "ReduceMean", ["strain"], ["mean"], axes=[-1], keepdims=0
    )
    return helper.make_model(
        helper.make_graph([node], "probe", [strain], [mean]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


class Source(PipelineProcess):
    """Noise, in updates."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def process(self, package: None) -> Iterator[np.ndarray]:
        """Give all updates."""
        del package
        noise = np.random.default_rng(0).standard_normal(
            (2, 64 * STRIDE), np.float32
        )
        for index in range(self.number):
            begin = STRIDE * (index % 64)
            yield noise[:, begin : begin + STRIDE]


class Filter(PipelineProcess):
    """A filter in the frequency domain, several times over."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.response = np.linspace(0, 1, STRIDE // 2 + 1, dtype=np.float32)

    def process(self, package: np.ndarray) -> np.ndarray:
        """(2, stride) -> (2, stride)."""
        for _ in range(self.times):
            spectrum = np.fft.rfft(package) * self.response
            package = np.fft.irfft(spectrum).astype(np.float32)
        return package


def write_models(root: Path) -> None:
    """A probe behind a snapshotter."""
    repository = ModelRepository(root)
    probe = repository.add("probe", Platform.ONNX)
    probe.export_version(probe_graph())
    ensemble = repository.add(MODEL, Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(probe.inputs["strain"], STRIDE)
    ensemble.add_output(probe.outputs["mean"])
    ensemble.export_version(None)


def loop(endpoint: Any, number: int, times: int) -> tuple[float, list[Any]]:
    """The client's own loop, in this process."""
    filtered = map(Filter(times).process, Source(number).process(None))
    with (
        InferenceClient(endpoint, MODEL) as client,
        client.sequence(replay=True) as sequence,
    ):
        scores = []
        for index, result in enumerate(sequence.stream(filtered)):
            if index == number // 5:
                begin = time.perf_counter()
            scores.append(result.output)
    return time.perf_counter() - begin, scores


class Sink(PipelineProcess):
    """Keeps all scores, and gives them at the end with the seconds."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def setup(self) -> None:
        """Nothing is there yet."""
        self.scores: list[np.ndarray] = []
        self.begin = 0.0

    def process(self, package: np.ndarray) -> None:
        """Keep a score."""
        if len(self.scores) == self.number // 5:
            self.begin = time.perf_counter()
        self.scores.append(package)

    def finish(self) -> tuple[float, list[np.ndarray]]:
        """Give seconds and scores."""
        return time.perf_counter() - self.begin, self.scores


def pipeline(
    endpoint: Any, number: int, times: int
) -> tuple[float, list[Any]]:
    """The same in four processes."""
    stages = Source(number) >> Filter(times)
    with (
        stages >> InferenceProcess(endpoint, MODEL) >> Sink(number) as running
    ):
        (found,) = running
    seconds, scores = found
    return float(seconds), scores


def measure(endpoint: Any, rounds: int, number: int) -> list[dict[str, Any]]:
    """Both, in turns."""
    cases = []
    for name, times in FILTERS.items():
        rates: dict[str, list[float]] = {"loop": [], "pipeline": []}
        wrong = 0
        for _ in range(rounds):
            found = {}
            for contender in (loop, pipeline):
                seconds, found[contender] = contender(endpoint, number, times)
                measured = number - number // 5 - 1
                rates[contender.__name__].append(measured / seconds)
            wrong += sum(
                a.tobytes() != b.tobytes()
                for a, b in zip(*found.values(), strict=True)
            )
        case = {
            "case": name,
            "updates": number,
            "wrong": wrong,
            "updates_per_second": {k: spread(v) for k, v in rates.items()},
            "pipeline_over_loop": ratio(rates["pipeline"], rates["loop"]),
        }
        print(case)
        cases.append(case)
    return cases


def main() -> int:
    """Run, print, write."""
    arguments = make_parser(__doc__ or "", rounds=5).parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    number = 100 if arguments.quick else 3000
    load, cores = os.getloadavg()[0], os.sched_getaffinity(0)
    models = [MODEL, "probe", "snapshotter"]
    with tempfile.TemporaryDirectory() as root:
        write_models(Path(root))
        # On all cores, unlike others: a pipeline is there to use them.
        with pinned_server(Path(root), models, cores) as server:
            cases = measure(server.endpoint, rounds, number)
    figures = circumstances(rounds, cores, load) | {"cases": cases}
    write_json(arguments.json, figures)
    return 1 if any(case["wrong"] for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
