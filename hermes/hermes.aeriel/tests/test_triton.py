"""The gRPC transport against a server, in this process, that misbehaves."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest
from tritonclient.grpc import (
    model_config_pb2,
    service_pb2,
    service_pb2_grpc,
)

from hermes.aeriel._transport import Request, Response
from hermes.aeriel._triton import TritonTransport
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    ClientClosed,
    DeadlineExceeded,
    InferenceError,
    InvalidRequest,
    ModelNotFound,
    ServerUnavailable,
    StreamBroken,
)
from hermes.aeriel.serve._readiness import grpc_ready

CONFIG = model_config_pb2.ModelConfig(
    name="echo",
    input=[{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
    output=[{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
)


def echo(request, _):
    answer = service_pb2.ModelInferResponse(id=request.id)
    for tensor, content in zip(
        request.inputs, request.raw_input_contents, strict=True
    ):
        answer.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
        )
        answer.raw_output_contents.append(content)
    return service_pb2.ModelStreamInferResponse(infer_response=answer)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with ``reply``; ends the stream when that returns None."""

    def __init__(self) -> None:
        self.reply: Callable = echo
        self.received: list = []

    def ServerReady(self, request, context):  # noqa: ARG002, N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request, context):  # noqa: N802
        if request.name == "slow":
            time.sleep(2)
        if request.name == "strange":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not a Triton")
        if request.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        return service_pb2.ModelConfigResponse(config=CONFIG)

    def ModelStreamInfer(self, request_iterator, context):  # noqa: N802
        for request in request_iterator:
            self.received.append(request)
            answer = self.reply(request, context)
            if answer is None:
                return
            yield answer


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def address(servicer: Servicer) -> Iterator[str]:
    pool = futures.ThreadPoolExecutor(8)
    server = grpc.server(pool)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        servicer, server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait(5)
    pool.shutdown(wait=False)


@pytest.fixture
def client(address: str) -> Iterator[InferenceClient]:
    with InferenceClient(address, "echo") as client:
        yield client


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


X = np.arange(5, dtype=np.float32)


def test_an_array_comes_back(client) -> None:
    answer = client.predict(X)
    np.testing.assert_array_equal(answer, X)
    answer += 1  # it is the caller's


@pytest.fixture
def transport(address: str) -> Iterator[TritonTransport]:
    transport = TritonTransport(address)
    yield transport
    transport.close()


def ask(transport: TritonTransport, request: Request) -> Response:
    """Send one request on a stream of its own."""
    answers: queue.SimpleQueue[Response] = queue.SimpleQueue()
    connection = transport.connect(answers.put, lambda _: None)
    connection.send(request)
    answer = answers.get(timeout=5)
    connection.close(1)
    return answer


@pytest.mark.parametrize(
    "array",
    [
        np.array([[True, False]]),
        *(
            np.arange(6).reshape(2, 3).astype(dtype)
            for dtype in [*np.typecodes["AllInteger"], "f2", "f4", "f8"]
        ),
        np.array([b"", b"\0\xff", "naïve", b"x" * 300], object),
        np.empty((0, 3), np.float32),
        np.array([], object),
        np.arange(24.0).reshape(2, 3, 4).T,
        np.arange(100_000, dtype=np.float32).reshape(10, -1),
        np.array([b"x" * (i % 7) for i in range(20_000)], object),
    ],
    ids=lambda array: (
        f"{array.dtype}-{array.shape}-{array.flags.c_contiguous}"
    ),
)
def test_every_dtype_survives_the_wire(transport, array) -> None:
    answer = ask(transport, Request("echo", None, "1", {"x": array}))
    received = answer.outputs["x"]
    assert received.dtype == array.dtype
    assert received.shape == array.shape
    expected = [x.encode() if isinstance(x, str) else x for x in array.flat]
    assert list(received.flat) == expected
    assert received.flags.writeable


def test_several_large_and_small_tensors_keep_their_names(transport) -> None:
    arrays = {
        "a": np.arange(50_001, dtype=np.int8),
        "b": np.arange(3, dtype=np.float64),
        "c": np.arange(50_000, dtype=np.float64),
    }
    answer = ask(transport, Request("echo", None, "1", arrays))
    assert list(answer.outputs) == ["a", "b", "c"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(answer.outputs[name], array)


def test_the_request_carries_what_triton_reads(transport, servicer) -> None:
    ask(
        transport,
        Request(
            "echo",
            3,
            "7",
            {"x": X},
            sequence_id=2**63 - 1,
            sequence_start=True,
            sequence_end=True,
            outputs=["x", "y"],
        ),
    )
    (request,) = servicer.received
    assert request.model_name == "echo"
    assert request.model_version == "3"
    assert request.id == "7"
    assert request.parameters["sequence_id"].int64_param == 2**63 - 1
    assert request.parameters["sequence_start"].bool_param
    assert request.parameters["sequence_end"].bool_param
    assert [output.name for output in request.outputs] == ["x", "y"]


def test_the_latest_version_and_no_sequence_are_not_sent(
    transport, servicer
) -> None:
    ask(transport, Request("echo", None, "1", {"x": X}))
    (request,) = servicer.received
    assert request.model_version == ""
    assert not request.parameters
    assert not request.outputs


def test_an_id_of_64_bits_is_sent_as_the_signed_number(
    transport, servicer
) -> None:
    ask(transport, Request("echo", None, "1", {"x": X}, sequence_id=2**64 - 5))
    sent = servicer.received[0].parameters["sequence_id"]
    assert sent.int64_param % 2**64 == 2**64 - 5


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, "bool_param"),
        (1, "int64_param"),
        (-(2**63), "int64_param"),
        (2**63, "uint64_param"),
        (0.5, "double_param"),
        ("naïve", "string_param"),
    ],
)
def test_parameters_keep_their_type(transport, servicer, value, field) -> None:
    parameters = {"p": value}
    ask(transport, Request("echo", None, "1", {"x": X}, parameters=parameters))
    sent = servicer.received[0].parameters["p"]
    assert sent.WhichOneof("parameter_choice") == field
    assert getattr(sent, field) == value


@pytest.mark.parametrize("value", [None, 2**64, -(2**63) - 1, b"x"])
def test_parameters_of_no_type_are_refused(transport, value) -> None:
    request = Request("echo", None, "1", {"x": X}, parameters={"p": value})
    with pytest.raises(InvalidRequest, match="parameter 'p'"):
        ask(transport, request)


def test_a_server_that_ends_the_stream_fails_what_is_pending(
    client, servicer
) -> None:
    servicer.reply = lambda *_: None
    pending = [client.submit(X) for _ in range(10)]
    for future in pending:
        with pytest.raises(StreamBroken, match="ended"):
            future.result(5)
    servicer.reply = echo
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            np.testing.assert_array_equal(client.predict(X), X)
        except StreamBroken:
            continue  # the end of the stream has just been noticed
        break


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
        (grpc.StatusCode.INTERNAL, StreamBroken),
    ],
)
def test_an_aborted_stream_fails_with_its_reason(
    client, servicer, code, error
) -> None:
    servicer.reply = lambda _, context: context.abort(code, "no more")
    with pytest.raises(error, match="no more"):
        client.submit(X).result(5)


def test_a_failed_request_fails_alone(client, servicer) -> None:
    def reply(request, context):
        if request.id == "2":
            failed = service_pb2.ModelStreamInferResponse()
            failed.error_message = "bad sample"
            failed.infer_response.id = request.id
            return failed
        return echo(request, context)

    servicer.reply = reply
    good, bad, also_good = (client.submit(X) for _ in range(3))
    with pytest.raises(InferenceError, match="bad sample"):
        bad.result(5)
    np.testing.assert_array_equal(good.result(5), X)
    np.testing.assert_array_equal(also_good.result(5), X)


def test_a_frozen_server_ends_in_deadlines_and_closes_fast(
    address, servicer
) -> None:
    release = threading.Event()

    def freeze(*_):
        release.wait(10)

    servicer.reply = freeze
    before = threading.active_count()
    client = InferenceClient(address, "echo")
    timed = client.submit(X, timeout=0.3)
    pending = [client.submit(X) for _ in range(100)]
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
        timed.result(5)
    begin = time.monotonic()
    client.close()
    assert time.monotonic() - begin < 1
    for future in pending:
        with pytest.raises(ClientClosed):
            future.result(0)
    release.set()
    deadline = time.monotonic() + 5
    # the server's threads are in this process, too
    while threading.active_count() > before + 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("hermes-")]


def test_what_was_sent_before_closing_arrives(address, servicer) -> None:
    with InferenceClient(address, "echo") as client:
        future = client.submit(X)
    assert len(servicer.received) == 1
    np.testing.assert_array_equal(future.result(0), X)


def test_nobody_at_the_address_is_said_at_once(nowhere) -> None:
    begin = time.monotonic()
    transport = TritonTransport(nowhere)
    with pytest.raises(ServerUnavailable, match=f"answers at {nowhere}"):
        transport.model_config("echo", None, 10)
    ends: queue.SimpleQueue = queue.SimpleQueue()
    connection = transport.connect(lambda _: None, ends.put)
    with contextlib.suppress(StreamBroken):  # if it knows already
        connection.send(Request("echo", None, "1", {"x": X}))
    assert "Connection refused" in str(ends.get(timeout=5))
    transport.close()
    assert time.monotonic() - begin < 2
    assert not grpc_ready(nowhere, 1)


def test_an_unknown_model_is_said(address) -> None:
    assert grpc_ready(address, 5)
    with pytest.raises(ModelNotFound, match="unknown model"):
        InferenceClient(address, "other")


def test_something_else_at_the_address_is_said(address) -> None:
    with pytest.raises(ServerUnavailable, match="not a Triton"):
        InferenceClient(address, "strange")


def test_a_server_that_does_not_describe_the_model_is_left(address) -> None:
    with pytest.raises(DeadlineExceeded, match="did not answer in time"):
        InferenceClient(address, "slow", connect_timeout=0.2)


def test_loopback_needs_no_proxy(address, nowhere, monkeypatch) -> None:
    for name in "http_proxy", "https_proxy", "grpc_proxy":
        monkeypatch.setenv(name, f"http://{nowhere}")
    with InferenceClient(address, "echo") as client:
        np.testing.assert_array_equal(client.predict(X), X)
    assert grpc_ready(address.replace("127.0.0.1", "localhost"), 5)
