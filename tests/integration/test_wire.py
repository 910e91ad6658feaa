"""What goes over the wire to a real server, and comes back."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from hermes.aeriel._transport import Request, Response
from hermes.aeriel._triton import TritonTransport
from hermes.aeriel.errors import ModelNotFound
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform

pytestmark = [pytest.mark.triton, pytest.mark.torch]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> ModelRepository:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    network = repository.add("network", Platform.ONNX)
    network.export_version(
        torch.nn.Flatten(),
        input_shapes={"input": (None, 2, None)},
        sample_inputs=[np.zeros((2, 2, 5), np.float32)],
    )
    windows = repository.add("windows", Platform.ONNX)
    windows.export_version(
        torch.nn.Flatten(), input_shapes={"input": (None, 2, 32)}
    )
    ensemble = repository.add("stream", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(windows.inputs["input"], stream_size=8)
    ensemble.add_output(windows.outputs["output_0"])
    ensemble.export_version(None)
    return repository


@pytest.fixture(scope="module")
def server(repository) -> Iterator[Server]:
    with serve(repository, free_ports=True, wait=True) as server:
        yield server


class Asker:
    """Sends requests one by one."""

    def __init__(self, transport: TritonTransport) -> None:
        self._answers: queue.SimpleQueue[Response] = queue.SimpleQueue()
        self._connection = transport.connect(self._answers.put, lambda _: None)
        self._number = 0

    def ask(self, model: str, x: np.ndarray, **about) -> Response:
        self._number += 1
        name = "snapshot_update" if model == "stream" else "input"
        request = Request(model, None, str(self._number), {name: x}, **about)
        self._connection.send(request)
        answer = self._answers.get(timeout=30)
        assert answer.id == request.id
        return answer

    def close(self) -> None:
        self._connection.close(1)


@pytest.fixture
def asker(server) -> Iterator[Asker]:
    transport = TritonTransport(server.endpoint.grpc)
    asker = Asker(transport)
    yield asker
    asker.close()
    transport.close()


def test_sequences_whose_ids_have_64_bits_keep_apart(asker) -> None:
    # Triton takes signed numbers only: the larger ids are sent as negative.
    for sequence_id in (1, 2**63 - 1, 2**63, 2**64 - 1):
        total = np.zeros((2, 32), np.float32)
        for step in range(3):
            x = np.full((1, 2, 8), sequence_id % 97 + step, np.float32)
            answer = asker.ask(
                "stream",
                x,
                sequence_id=sequence_id,
                sequence_start=step == 0,
                sequence_end=step == 2,
            )
            assert answer.error is None
            total = np.concatenate([total[:, 8:], x[0]], axis=1)
            (output,) = answer.outputs.values()
            np.testing.assert_array_equal(output.ravel(), total.ravel())


@pytest.mark.parametrize("size", [1, 4096, 2_200_000])
def test_tensors_of_any_size_come_back(asker, size) -> None:
    x = np.arange(2 * size, dtype=np.float32).reshape(1, 2, size)
    answer = asker.ask("network", x)
    np.testing.assert_array_equal(answer.outputs["output_0"], x.reshape(1, -1))


def test_only_the_outputs_that_are_wanted_come_back(asker) -> None:
    x = np.zeros((1, 2, 3), np.float32)
    answer = asker.ask("network", x, outputs=["output_0"])
    assert list(answer.outputs) == ["output_0"]
    assert asker.ask("network", x, outputs=["other"]).error


def test_parameters_are_taken(asker) -> None:
    x = np.zeros((1, 2, 3), np.float32)
    parameters = {"priority": 1, "number": 3, "flag": True, "text": "naïve"}
    assert asker.ask("network", x, parameters=parameters).error is None


def test_a_server_that_asks_for_a_header_gets_it(repository) -> None:
    header = {"triton-grpc-protocol-word": "secret"}
    with serve(
        repository,
        free_ports=True,
        server_args=[
            "--model-control-mode=explicit",
            "--grpc-restricted-protocol=model-repository:word=secret",
        ],
        wait=True,
    ) as server:
        stranger = TritonTransport(server.endpoint.grpc)
        with pytest.raises(ModelNotFound, match="restricted") as caught:
            stranger.load_model("network", 30)
        assert "triton-grpc-protocol-word" in caught.value.server_message
        stranger.close()
        friend = TritonTransport(server.endpoint.grpc, headers=header)
        with pytest.raises(ModelNotFound, match="failed to load 'missing'"):
            friend.load_model("missing", 30)
        with pytest.raises(ModelNotFound, match="network"):
            friend.model_config("network", None, 30)
        friend.load_model("network", 30)
        assert friend.model_config("network", None, 30)["name"] == "network"
        friend.close()
