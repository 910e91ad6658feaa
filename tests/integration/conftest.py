"""What the tests of the client's faults share: models, servers, counts."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import psutil
import pytest

from hermes.aeriel.client import InferenceClient, StreamResult
from hermes.aeriel.serve import Server, serve

sys.path.insert(0, str(Path(__file__).parent))

KERNEL_SIZE, STRIDE = 32, 8
# A state that every update and their order decide, in integers that float32
# holds exactly.
FACTOR, MODULUS = 17, 8191
Outputs = list[dict[str, np.ndarray]]


class Repository:
    """The models of these tests, in one folder."""

    def __init__(self, root: Path) -> None:
        import torch

        from hermes.quiver import ModelRepository, Platform

        self.root = str(root)
        self.artifacts: dict[str, str] = {}
        self._models = ModelRepository(root)
        self._torch = torch
        self._platform = Platform
        torch.manual_seed(0)

    def write(self) -> None:
        """Write all of them."""
        nn = self._torch.nn
        self._add(
            "network",
            nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh()),
            input_shapes={"input": (None, 2, KERNEL_SIZE)},
        )
        for name, options in {
            "stream": {},
            "impatient": {},
            "batched": {"batch": 4},
            "averaged": {"average": 4},
        }.items():
            self._add_ensemble(name, **options)
        self._set_idle("impatient", seconds=1.0)
        self._add_several()
        self._add(
            "lookup",
            nn.Embedding(10, 4),
            sample_inputs=[np.zeros((1, 5), np.int64)],
        )
        self._add(
            "fixed", nn.Linear(3, 2), input_shapes={"input": (4, 3)}
        )  # four rows, always
        self._add_digest()
        write_sum(Path(self.root))

    def _add(self, name: str, network, **options) -> None:
        model = self._models.add(name, self._platform.ONNX)
        self.artifacts[name] = model.export_version(network, **options)

    def _add_ensemble(
        self, name: str, batch: int = 1, average: int = 0
    ) -> None:
        network = self._models.models["network"]
        ensemble = self._models.add(name, self._platform.ENSEMBLE)
        ensemble.add_streaming_inputs(
            network.inputs["input"],
            stream_size=STRIDE,
            batch_size=batch,
            name=f"snapshotter-{name}",
        )
        output = network.outputs["output_0"]
        if average:
            ensemble.add_streaming_output(
                output, STRIDE, average, name=f"aggregator-{name}"
            )
        else:
            ensemble.add_output(output)
        ensemble.export_version(None)

    def _set_idle(self, name: str, seconds: float) -> None:
        model = self._models.models[f"snapshotter-{name}"]
        batching = model.config.sequence_batching
        batching.max_sequence_idle_microseconds = int(seconds * 1e6)
        model.write_config()

    def _add_several(self) -> None:
        """Two snapshotters, one of two inputs; two outputs, one averaged."""
        torch = self._torch

        class Pair(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.ModuleList(
                    torch.nn.Linear(n * KERNEL_SIZE, KERNEL_SIZE)
                    for n in (2, 3)
                )

            def forward(self, strain, witness):
                first, second = self.layers
                return torch.tanh(
                    first(strain.flatten(1)) + second(witness.flatten(1))
                )

        self._add(
            "pair",
            Pair(),
            input_shapes={
                "strain": (None, 2, KERNEL_SIZE),
                "witness": (None, 3, KERNEL_SIZE),
            },
            output_names=["window"],
        )
        self._add(
            "slow",
            torch.nn.Sequential(torch.nn.Linear(96, 3), torch.nn.Tanh()),
            input_shapes={"input": (None, 96)},
            output_names=["scores"],
        )
        pair, slow = (self._models.models[n] for n in ("pair", "slow"))
        ensemble = self._models.add("several", self._platform.ENSEMBLE)
        ensemble.add_streaming_inputs(
            list(pair.inputs.values()), STRIDE, 2, name="snapshotter-pair"
        )
        ensemble.add_streaming_inputs(
            slow.inputs["input"], 2 * STRIDE, 2, name="snapshotter-slow"
        )
        ensemble.add_streaming_output(
            pair.outputs["window"], STRIDE, 4, name="aggregator-pair"
        )
        ensemble.add_output(slow.outputs["scores"])
        ensemble.export_version(None)

    def _add_digest(self) -> None:
        """Its answer depends on all updates so far and on their order."""
        from hermes.quiver.streaming.utils import add_streaming_model

        torch = self._torch

        class Digest(torch.nn.Module):
            def forward(self, update, digest):
                digest = torch.fmod(FACTOR * digest + update, MODULUS)
                return digest, digest + 0

        # 128 places are four instances of 32: with all of them in one, this
        # Triton ends by a segmentation fault in half of the runs (while it
        # loads the states of a batch), whatever the strategy.
        for name, slots, rows in (
            ("digest", 128, 32),
            ("digest-of-four", 4, 4),
        ):
            add_streaming_model(
                self._models, Digest(), name, "update", (None, 2),
                ["digest"], [(None, 2)], ["y"], streams_per_gpu=slots,
                max_batch_size=rows,
            )  # fmt: skip


def write_sum(root: Path) -> None:
    """A model by hand, whose state nothing but its own config declares."""
    import onnx
    from onnx import TensorProto, helper

    def row(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "state"], ["state_out"]),
            helper.make_node("Identity", ["state_out"], ["sum"]),
        ],
        "sum",
        [row("x"), row("state")],
        [row("sum"), row("state_out")],
    )
    (root / "sum" / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ),
        root / "sum" / "1" / "model.onnx",
    )
    shape = "data_type: TYPE_FP32 dims: [1, 4]"
    (root / "sum" / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx"\n'
        f'input {{ name: "x" {shape} }} output {{ name: "sum" {shape} }}\n'
        "sequence_batching { max_sequence_idle_microseconds: 60000000 state {"
        f' input_name: "state" output_name: "state_out" {shape}'
        f' initial_state {{ name: "start" {shape} zero_data: true }} }} }}\n'
        "instance_group { count: 1 kind: KIND_CPU }\n"
    )


class Rig:
    """The servers of one test; all of them are stopped after it.

    Attributes:
        repository: Their models.
    """

    def __init__(self, repository: Repository, calm: Rig | None) -> None:
        self.repository = repository
        self._calm = calm
        self._servers: list[Server] = []
        self._references: dict[tuple, Outputs] = {}

    def close(self) -> None:
        """End the servers; a clean shutdown would take seconds each."""
        while self._servers:
            self.kill(self._servers.pop())

    def serve(self, *models: str, at: Server | None = None) -> Server:
        """A ready server of a few models; in another's place if given."""
        arguments = ["--model-control-mode=explicit"]
        arguments += [f"--load-model={name}" for name in models]
        if at is not None:
            for name in ("http", "grpc", "metrics"):
                port = getattr(at.endpoint, name).rpartition(":")[2]
                arguments.append(f"--{name}-port={port}")
        server = serve(
            self.repository.root,
            server_args=arguments,
            free_ports=at is None,
        )
        self._servers.append(server)
        return server.wait(120)

    def process(self, server: Server) -> psutil.Process:
        """Its Triton."""
        port = server.endpoint.grpc.rpartition(":")[2]
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "tritonserver" and any(
                    argument.endswith(f"grpc-port={port}")
                    for argument in process.cmdline()
                ):
                    return process
        raise AssertionError(f"no tritonserver for {server!r}")

    def kill(self, server: Server) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        with contextlib.suppress(AssertionError, psutil.NoSuchProcess):
            process = self.process(server)
            process.kill()
            process.wait(10)
        server.stop()

    @contextlib.contextmanager
    def frozen(self, server: Server) -> Iterator[psutil.Process]:
        """Let it stand still."""
        process = self.process(server)
        process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def num_inferences(self, server: Server) -> int:
        """Inferences of all its models since it started."""
        connection = http.client.HTTPConnection(
            server.endpoint.http, timeout=10
        )
        with contextlib.closing(connection):
            connection.request("GET", "/v2/models/stats")
            stats = json.loads(connection.getresponse().read())
        return sum(m["inference_count"] for m in stats["model_stats"])

    def busiest(self, servers: Sequence[Server]) -> Server:
        """The one that has done most since it started."""
        return max(servers, key=self.num_inferences)

    def uninterrupted(self, model: str, updates) -> Outputs:
        """What a server to which nothing happens makes of a stream."""
        assert self._calm is not None
        return self._calm.reference(model, updates)

    def reference(self, model: str, updates) -> Outputs:
        """As `uninterrupted`, on a server of this rig's own; remembered."""
        first = updates[0]
        parts = first.values() if isinstance(first, dict) else [first]
        key = (model, len(updates), *(part.tobytes() for part in parts))
        if key not in self._references:
            with (
                InferenceClient(self.calm.endpoint, model) as client,
                client.sequence() as sequence,
            ):
                results = list(sequence.stream(updates))
            self._references[key] = [dict(r.outputs) for r in results]
        return self._references[key]

    @property
    def calm(self) -> Server:
        """A server of all models, for tests that leave it in peace.

        Where a test has brought it down nevertheless, that test fails, and
        not all those after it.
        """
        if self._calm is not None:
            return self._calm.calm
        if not any("running" in repr(server) for server in self._servers):
            self._servers.append(serve(self.repository.root, free_ports=True))
            self._servers[-1].wait(240)
        return self._servers[-1]


@pytest.fixture(scope="session")
def fault_models(tmp_path_factory) -> Repository:
    """The models of these tests."""
    repository = Repository(tmp_path_factory.mktemp("fault-models"))
    repository.write()
    return repository


@pytest.fixture(scope="session")
def calm_rig(fault_models) -> Iterator[Rig]:
    """A rig of one server that nothing happens to."""
    rig = Rig(fault_models, None)
    yield rig
    rig.close()


@pytest.fixture
def rig(fault_models, calm_rig) -> Iterator[Rig]:
    """A rig of this test's own."""
    rig = Rig(fault_models, calm_rig)
    yield rig
    rig.close()


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fails if a client's thread outlives it by more than two seconds."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    while left := [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("hermes")
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
def tell(request) -> Callable[..., None]:
    """Print what a test has counted."""

    def tell(*counts: object, **named: object) -> None:
        told = [*map(str, counts), *(f"{k}={v}" for k, v in named.items())]
        print(f"{request.node.name}: {', '.join(told)}")

    return tell


@pytest.fixture
def outcomes() -> Callable[[Sequence[Future]], Counter[str]]:
    """How many futures ended how; fails if one does not within 10 s."""

    def outcomes(futures: Sequence[Future]) -> Counter[str]:
        deadline = time.monotonic() + 10
        errors = [
            future.exception(max(0.0, deadline - time.monotonic()))
            for future in futures
        ]
        return Counter(
            "answer" if error is None else type(error).__name__
            for error in errors
        )

    return outcomes


@pytest.fixture
def assert_same() -> Callable[[Sequence[StreamResult], Outputs], Counter]:
    """Compare a stream with another: complete, in order, to the last bit."""

    def assert_same(
        results: Sequence[StreamResult], expected: Outputs
    ) -> Counter[str]:
        assert [r.index for r in results] == list(range(len(expected)))
        counts: Counter[str] = Counter()
        for result, outputs in zip(results, expected, strict=True):
            assert set(result.outputs) == set(outputs)
            same = all(
                array.dtype == outputs[name].dtype
                and array.shape == outputs[name].shape
                and array.tobytes() == outputs[name].tobytes()
                for name, array in result.outputs.items()
            )
            counts["equal" if same else "different"] += 1
        assert counts == {"equal": len(expected)}, counts
        return counts

    return assert_same


@pytest.fixture
def make_updates() -> Callable[..., list]:
    """Updates of a model, from a seed."""

    def make_updates(model: str, number: int, seed: int = 0) -> list:
        rng = np.random.default_rng(seed)

        def randn(channels: int, size: int) -> list[np.ndarray]:
            shape = number, channels, size
            return list(rng.standard_normal(shape, np.float32))

        if model == "several":
            names = "snapshot_update", "snapshotter-slow.snapshot_update"
            pairs = zip(
                randn(5, 2 * STRIDE), randn(1, 4 * STRIDE), strict=True
            )
            return [dict(zip(names, pair, strict=True)) for pair in pairs]
        return randn(2, STRIDE * (4 if model == "batched" else 1))

    return make_updates
