"""The fake transport: as a client sees it, and by the seam's own rules."""

from __future__ import annotations

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import InferenceError, ModelNotFound, StreamBroken
from hermes.aeriel.testing import (
    FakeConnection,
    FakeModel,
    FakeTransport,
    Request,
    Response,
)

CONFIG = {
    "name": "double",
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["2"]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["2"]}],
}
X = np.ones(2, np.float32)


def double(request: Request) -> Response:
    return Response(request.id, {"y": 2 * request.inputs["x"]})


def never(_: Request) -> None:
    """Accept a request and never answer it."""


class End:
    """What a stream told its owner."""

    def __init__(self, transport: FakeTransport) -> None:
        self.answers: list[str] = []
        self.ends: list[Exception | None] = []
        self.connection: FakeConnection = transport.connect(
            lambda response: self.answers.append(response.id),
            self.ends.append,
        )

    def send(self, request_id: str) -> None:
        self.connection.send(Request("double", None, request_id, {"x": X}))


def test_a_client_needs_no_network() -> None:
    transport = FakeTransport(double, {"double": CONFIG})
    with InferenceClient("host:1", "double", transport=transport) as client:
        np.testing.assert_array_equal(client.predict(X), 2 * X)
    assert ("double", None) in transport.asked
    assert transport.requests[0].model_name == "double"
    assert transport.is_closed
    assert repr(transport) == "FakeTransport(double; 1 requests, 0 streams)"


def test_models_answer_as_on_the_fake_server() -> None:
    shape = ("FP32", [2])
    total = FakeModel.stateful(
        "total", lambda s, x: (s + x, s + x), 0, {"x": shape}, {"y": shape}
    )
    transport = FakeTransport.of(total)
    with InferenceClient("host:1", "total", transport=transport) as client:
        with client.sequence() as sequence:
            sequence.send(X).result(5)
            assert (sequence.send(X).result(5).output == 2).all()
        with pytest.raises(InferenceError, match="must specify the START"):
            client.submit(X, sequence_id=7).result(5)


def test_an_answer_can_come_later() -> None:
    transport = FakeTransport(never, {"double": CONFIG})
    end = End(transport)
    end.send("1")
    assert end.answers == []
    transport.on_response(double(transport.requests[0]))
    assert end.answers == ["1"]


def test_a_stream_ends_when_all_is_answered() -> None:
    transport = FakeTransport(never, {"double": CONFIG})
    end = End(transport)
    end.send("1")
    end.connection.finish()
    with pytest.raises(StreamBroken, match="has ended"):
        end.send("2")
    assert end.ends == []
    transport.on_response(Response("1"))
    assert end.ends == [None]
    end.connection.close(1)
    assert end.ends == [None]


def test_a_stream_is_told_why_it_ends_once() -> None:
    transport = FakeTransport(never, {"double": CONFIG})
    first, second = End(transport), End(transport)
    first.send("1")
    reason = StreamBroken("cut")
    transport.drop(reason)
    transport.drop(None)
    assert (first.ends, second.ends) == ([], [reason])
    first.connection.close(1)
    assert first.ends == [None]


def test_models_are_loaded_on_demand() -> None:
    transport = FakeTransport(double, {}, loadable={"double": CONFIG})
    with pytest.raises(ModelNotFound, match="'double' is not found") as error:
        transport.model_config("double", None, 1)
    assert error.value.server_message.startswith("Request for unknown")
    with pytest.raises(ModelNotFound, match="failed to load 'other'"):
        transport.load_model("other", 1)
    transport.load_model("double", 1)
    transport.load_model("double", 1)
    assert transport.model_config("double", None, 1) == CONFIG
    assert transport.loadable == {}
