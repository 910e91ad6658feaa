"""The fake server says and does what the real one does."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.aeriel.testing import FakeModel, FakeTriton
from hermes.quiver import ModelRepository, Platform

pytestmark = pytest.mark.triton

MODEL = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.is_stateful = args["model_name"] == "total"
        self.states = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb.get_input_tensor_by_name(request, "x").as_numpy()
        sequence, flags = request.correlation_id(), request.flags()
        if self.is_stateful:
            state = 0 * x if flags & 1 else self.states[sequence]
            x = self.states[sequence] = state + x
        return pb.InferenceResponse(
            [pb.Tensor("y", 2 * x), pb.Tensor("z", -x)]
        )
"""
TENSORS = """
input {{ name: "x" data_type: TYPE_FP32 dims: [{shape}] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [{shape}] }}
output {{ name: "z" data_type: TYPE_FP32 dims: [{shape}] }}
"""
CONFIGS = {
    "single": 'backend: "python"' + TENSORS.format(shape="-1, 2"),
    "batched": 'backend: "python" max_batch_size: 4'
    + TENSORS.format(shape="2"),
    "total": 'backend: "python"'
    " sequence_batching { direct {} max_sequence_idle_microseconds: 60000000 }"
    " instance_group { count: 2 kind: KIND_CPU }" + TENSORS.format(shape="3"),
}


def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 2 * x, -x


def tensors(*shape: int) -> dict[str, dict]:
    tensor = ("FP32", shape)
    return {"inputs": {"x": tensor}, "outputs": {"y": tensor, "z": tensor}}


MODELS = (
    FakeModel.of("single", both, **tensors(-1, 2)),
    FakeModel.of("batched", both, **tensors(2), max_batch_size=4),
    FakeModel.stateful(
        "total", lambda s, x: (s + x, both(s + x)), 0, **tensors(3)
    ),
)
_IDS = count(1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(MODEL)
        (root / name / "config.pbtxt").write_text(config)
    return root


class Server:
    """Answers of one server, as comparable text and arrays."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.stream = self.stub.ModelStreamInfer(iter(self.queue.get, None))

    def ask(self, method: str, **fields) -> object:
        """What a method answers: a dict, or the status and its message."""
        kind = getattr(service_pb2, f"{method}Request")
        try:
            answer = getattr(self.stub, method)(kind(**fields), timeout=30)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return json_format.MessageToDict(answer)

    def infer(self, message) -> object:
        try:
            return plain(self.stub.ModelInfer(message, timeout=30))
        except grpc.RpcError as error:
            return error.code().name, error.details()

    def send(self, message) -> tuple[str, object]:
        self.queue.put(message)
        answer = next(self.stream)
        return answer.error_message, plain(answer.infer_response)

    def close(self) -> None:
        self.queue.put(None)
        assert list(self.stream) == []
        assert self.stream.code() is grpc.StatusCode.OK
        self.channel.close()


def plain(answer) -> dict:
    return json_format.MessageToDict(answer)


@pytest.fixture(scope="module")
def servers(repository) -> Iterator[tuple[Server, Server]]:
    with (
        serve(repository, free_ports=True, wait=True) as real,
        FakeTriton(*MODELS) as fake,
    ):
        pair = Server(real.endpoint.grpc), Server(fake.endpoint.grpc)
        yield pair
        for server in pair:
            server.close()


@pytest.fixture(scope="module")
def loading(repository) -> Iterator[tuple[Server, Server]]:
    explicit = ["--model-control-mode=explicit", "--load-model=single"]
    with (
        serve(
            repository, free_ports=True, wait=True, server_args=explicit
        ) as real,
        FakeTriton(*MODELS, explicit=True, loaded=["single"]) as fake,
    ):
        pair = Server(real.endpoint.grpc), Server(fake.endpoint.grpc)
        yield pair
        for server in pair:
            server.close()


def request(
    model: str,
    *shape: int,
    name: str = "x",
    dtype: str = "f4",
    request_id: str = "some",
    version: str = "",
    outputs: tuple[str, ...] = (),
    claim: tuple[int, ...] | None = None,
    **parameters,
):
    message = service_pb2.ModelInferRequest(
        model_name=model, model_version=version, id=request_id
    )
    if shape:
        array = np.arange(np.prod(shape)).astype(dtype)
        wire = {"f4": "FP32", "f8": "FP64"}[dtype]
        message.inputs.add(name=name, datatype=wire, shape=claim or shape)
        message.raw_input_contents.append(array.tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    for key, value in parameters.items():
        kind = "bool_param" if isinstance(value, bool) else "int64_param"
        setattr(message.parameters[key], kind, value)
    return message


REQUESTS = {
    "good": request("single", 1, 2),
    "no id": request("single", 3, 2, request_id=""),
    "one output": request("single", 1, 2, outputs=("z",)),
    "outputs in another order": request("single", 1, 2, outputs=("z", "y")),
    "version": request("single", 1, 2, version="1"),
    "batch": request("batched", 4, 2),
    "sequence of a stateless model": request("single", 1, 2, sequence_id=5),
    "empty": request("single", 0, 2, claim=(0, 2)),
    "unknown model": request("other", 1, 2),
    "unknown version": request("single", 1, 2, version="3"),
    "no version": request("single", 1, 2, version="a"),
    "unknown output": request("single", 1, 2, outputs=("q",)),
    "unknown input": request("single", 1, 2, name="q"),
    "no input": request("single"),
    "no input, no id": request("single", request_id=""),
    "shape": request("single", 1, 3),
    "rank": request("single", 2),
    "shape, no id": request("single", 1, 3, request_id=""),
    "dtype": request("single", 1, 2, dtype="f8"),
    "bytes": request("single", 1, 2, claim=(2, 2)),
    "large batch": request("batched", 5, 2),
    "no batch": request("batched", 2),
    "shape in batch": request("batched", 1, 3),
    "no sequence": request("total", 3),
    "sequence 0": request("total", 3, sequence_id=0, sequence_start=True),
    "no start": request("total", 3, sequence_id=99),
    "end at once": request("total", 3, sequence_id=99, sequence_end=True),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_is_answered_alike(servers, what) -> None:
    real, fake = servers
    assert fake.infer(REQUESTS[what]) == real.infer(REQUESTS[what])
    assert fake.send(REQUESTS[what]) == real.send(REQUESTS[what])


def test_a_sequence_is_kept_alike(servers) -> None:
    flags = [
        {"sequence_start": True},
        {},
        {},
        {"sequence_start": True},  # begins anew
        {},
        {"sequence_end": True},
        {},  # too late
        {"sequence_start": True, "sequence_end": True},
        {},
    ]
    real, fake = servers
    for more in flags:
        message = request("total", 3, sequence_id=7, **more)
        assert fake.send(message) == real.send(message)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("ServerLive", {}),
        ("ServerReady", {}),
        ("ModelReady", {"name": "single"}),
        ("ModelReady", {"name": "single", "version": "1"}),
        ("ModelReady", {"name": "single", "version": "3"}),
        ("ModelReady", {"name": "other"}),
        ("ModelReady", {"name": "single", "version": "a"}),
        ("ModelConfig", {"name": "other"}),
        ("ModelConfig", {"name": "single", "version": "3"}),
        ("ModelMetadata", {"name": "other"}),
        ("RepositoryModelLoad", {"model_name": "single"}),
        ("RepositoryModelLoad", {"model_name": "other"}),
        ("RepositoryModelUnload", {"model_name": "single"}),
    ],
)
def test_a_question_is_answered_alike(servers, method, fields) -> None:
    real, fake = servers
    assert fake.ask(method, **fields) == real.ask(method, **fields)


@pytest.mark.parametrize("model", CONFIGS)
def test_a_model_is_described_alike(servers, model) -> None:
    real, fake = (s.ask("ModelMetadata", name=model) for s in servers)
    assert fake == {**real, "platform": fake.get("platform")} or (
        fake == {k: v for k, v in real.items() if k != "platform"}
    )
    real, fake = (s.ask("ModelConfig", name=model)["config"] for s in servers)
    # the real one adds what is the default
    assert fake == {key: real[key] for key in fake}


def test_models_are_loaded_alike(loading) -> None:
    real, fake = loading
    script = [
        ("ModelReady", {"name": "total"}),
        ("ModelConfig", {"name": "total"}),
        ("RepositoryModelLoad", {"model_name": "other"}),
        ("RepositoryModelUnload", {"model_name": "other"}),
        ("RepositoryModelLoad", {"model_name": "total"}),
        ("ModelReady", {"name": "total"}),
        ("RepositoryModelLoad", {"model_name": "total"}),
        ("ModelReady", {"name": "single"}),
    ]
    for method, fields in script:
        assert fake.ask(method, **fields) == real.ask(method, **fields)
    message = request("total", 3, sequence_id=7, sequence_start=True)
    assert fake.infer(message) == real.infer(message)
    for server in loading:
        server.ask("RepositoryModelUnload", model_name="total")
        # the real one answers before it is done
        while server.ask("ModelReady", name="total"):
            pass
    assert fake.infer(message) == real.infer(message)
    assert fake.ask("ModelConfig", name="total") == real.ask(
        "ModelConfig", name="total"
    )


@pytest.mark.torch
def test_a_stream_is_the_exported_one(tmp_path) -> None:
    import torch

    class Power(torch.nn.Module):
        def forward(self, strain):
            return (strain**2).mean((1, 2))[:, None]

    repository = ModelRepository(tmp_path)
    network = repository.add("network", Platform.ONNX)
    network.export_version(
        Power(),
        input_shapes={"strain": (None, 2, 32)},
        output_names=["score"],
    )
    ensemble = repository.add("online", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        network.inputs["strain"], stream_size=12, batch_size=2
    )
    ensemble.add_output(network.outputs["score"])
    ensemble.export_version(None)
    model = FakeModel.streaming(
        "online",
        lambda x: (x**2).mean((1, 2))[:, None],
        num_channels=2,
        kernel_size=32,
        stride_size=12,
        batch_size=2,
        output="score",
        tensor="network/strain",
    )
    rng = np.random.default_rng(1)
    updates = rng.standard_normal((9, 2, 24), dtype=np.float32)
    found = []
    with (
        serve(repository, free_ports=True, wait=True) as real,
        FakeTriton(model) as fake,
    ):
        for server in real, fake:
            with (
                InferenceClient(server.endpoint, "online") as client,
                client.sequence() as sequence,
            ):
                results = list(sequence.stream(updates))
                found.append((client.spec, results))
    (real_spec, expected), (fake_spec, results) = found
    assert fake_spec == real_spec
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.num_warmup == theirs.num_warmup
        np.testing.assert_allclose(ours.output, theirs.output, rtol=1e-5)
