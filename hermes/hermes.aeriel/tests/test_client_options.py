"""What a client can be asked for beyond an answer."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import (
    ClientClosed,
    ClientForked,
    DtypeMismatch,
    InvalidRequest,
    ModelNotFound,
    ServerUnavailable,
    ShapeMismatch,
)
from hermes.aeriel.testing import (
    FakeModel,
    FakeTransport,
    FakeTriton,
    Slow,
)

X = np.arange(8, dtype=np.float32).reshape(1, 2, 4)

MEAN = FakeModel.of(
    "mean",
    lambda x: (x.mean(-1), x.max(-1)),
    {"x": ("FP32", [-1, 2, 4])},
    {"mean": ("FP32", [-1, 2]), "max": ("FP32", [-1, 2])},
)


def network(kernels: np.ndarray) -> np.ndarray:
    return np.cumsum(kernels.reshape(len(kernels), -1), axis=1)[:, ::5]


STREAM = FakeModel.streaming(
    "stream",
    network,
    num_channels=2,
    kernel_size=8,
    stride_size=4,
    batch_size=3,
)


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with FakeTriton(MEAN, STREAM) as fake:
        yield fake


def test_only_the_outputs_asked_for_are_sent(fake) -> None:
    with InferenceClient(fake.endpoint, "mean") as client:
        assert {*client.predict(X)} == {"mean", "max"}
        found = client.predict(X, outputs=["max"])
        np.testing.assert_array_equal(found, X.max(-1))
        assert fake.requests[-1].outputs == ("max",)
        with pytest.raises(InvalidRequest, match="'min'"):
            client.predict(X, outputs=["min"])
    with (
        InferenceClient(fake.endpoint, "stream") as client,
        pytest.raises(InvalidRequest, match="'min'"),
    ):
        client.sequence(outputs=["min"])


def test_parameters_reach_the_model(fake) -> None:
    parameters = {"threshold": 0.5, "mode": "fast", "seed": 3, "debug": True}
    with InferenceClient(fake.endpoint, "mean") as client:
        client.predict(X, parameters=parameters)
        assert dict(fake.requests[-1].parameters) == parameters
        with pytest.raises(InvalidRequest, match="sequence_id"):
            client.predict(X, parameters={"sequence_id": 3})
    with (
        InferenceClient(fake.endpoint, "stream") as client,
        client.sequence(parameters=parameters) as sequence,
    ):
        sequence.send(np.zeros((2, 12), "f4")).result(5)
        assert dict(fake.requests[-1].parameters) == parameters


def test_arrays_are_cast_where_that_is_asked_for(fake) -> None:
    doubles = X.astype(np.float64)
    with InferenceClient(fake.endpoint, "mean") as client:
        with pytest.raises(DtypeMismatch, match="float64"):
            client.predict(doubles)
        assert client.predict(doubles, cast=True)["max"].dtype == np.float32
    with InferenceClient(fake.endpoint, "mean", cast=True) as client:
        client.predict(doubles)
        with pytest.raises(DtypeMismatch, match="float64"):
            client.predict(doubles, cast=False)
    with InferenceClient(fake.endpoint, "stream") as client:
        with client.sequence(cast=True) as sequence:
            sequence.send(np.zeros((2, 12))).result(5)
        with (
            client.sequence() as sequence,
            pytest.raises(DtypeMismatch, match="float64"),
        ):
            sequence.send(np.zeros((2, 12)))


@pytest.mark.parametrize("num_samples", [1, 3, 4, 7, 11])
def test_the_tail_of_a_stream_is_cut_to_what_it_reaches(
    fake, num_samples
) -> None:
    """12 samples, three kernels, per update; then some more samples."""
    samples = np.random.default_rng(1).random((2, 24 + num_samples))
    samples = samples.astype(np.float32)
    padded = np.pad(samples, ((0, 0), (8, 0)))
    ends = range(4, samples.shape[1] + 1, 4)
    kernels = np.stack([padded[:, end : end + 8] for end in ends])
    updates = [samples[:, i : i + 12] for i in range(0, samples.shape[1], 12)]
    with InferenceClient(fake.endpoint, "stream") as client:
        with client.sequence() as sequence:
            results = list(sequence.stream(updates))
            assert "ended" in repr(sequence)
        found = np.concatenate([result.output for result in results])
        np.testing.assert_array_equal(found, network(kernels))
        assert sum(result.num_warmup for result in results) == 1
        assert fake.requests[-1].sequence_end
        assert fake.num_requests == 3
        with pytest.raises(ShapeMismatch, match="1, 2, 4"):
            client.submit(np.zeros((1, 2, 4), "f4"), sequence_id=1)


def test_models_are_loaded_on_demand() -> None:
    with FakeTriton(MEAN, STREAM, explicit=True, loaded=["mean"]) as fake:
        with pytest.raises(ModelNotFound, match="stream"):
            InferenceClient(fake.endpoint, "stream", load_timeout=None)
        with InferenceClient(fake.endpoint, "stream") as client:
            assert client.spec.is_stateful
        with pytest.raises(ModelNotFound, match="could not be loaded") as e:
            InferenceClient(fake.endpoint, "other")
        assert "other" in e.value.server_message


def test_a_server_that_comes_up_late_is_waited_for(fake) -> None:
    fake.refuse()
    began = time.monotonic()
    with pytest.raises(ServerUnavailable, match=str(fake.endpoint.grpc)):
        InferenceClient(fake.endpoint, "mean", connect_timeout=0.5)
    assert time.monotonic() - began < 1.5
    threading.Timer(0.3, fake.refuse, [False]).start()
    with InferenceClient(fake.endpoint, "mean", connect_timeout=10) as client:
        client.predict(X)


def test_nothing_at_the_address_is_told_soon_unless_told_to_wait(
    fake,
) -> None:
    fake.refuse()
    began = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"for 1 s; .*connect_timeout"):
        InferenceClient(fake.endpoint, "mean")
    assert 0.5 < time.monotonic() - began < 2.5
    threading.Timer(1.5, fake.refuse, [False]).start()
    with InferenceClient(fake.endpoint, "mean", connect_timeout=5) as client:
        client.predict(X)


def test_a_slow_server_has_more_time_than_one_that_is_not_there(
    fake,
) -> None:
    fake.freeze()
    threading.Timer(1.5, fake.thaw).start()
    with InferenceClient(fake.endpoint, "mean") as client:
        client.predict(X)


def test_an_unknown_model_is_told_with_those_that_there_are() -> None:
    with FakeTriton(MEAN, STREAM, explicit=True, loaded=["mean"]) as fake:
        with pytest.raises(ModelNotFound, match=r"ready are: 'mean'$"):
            InferenceClient(fake.endpoint, "maen", load_timeout=None)
        with InferenceClient(fake.endpoint, "stream"):
            pass
        with pytest.raises(ModelNotFound, match=r"ready are: 'mean', 'str"):
            InferenceClient(fake.endpoint, "mean", 7)


def test_the_first_server_that_answers_will_do(fake) -> None:
    with FakeTriton(MEAN) as gone:
        pass
    addresses = [gone.endpoint, fake.endpoint.grpc]
    with InferenceClient(addresses, "mean") as client:
        client.predict(X)
        assert client.address == f"{gone.endpoint.grpc},{fake.endpoint.grpc}"
    with pytest.raises(ServerUnavailable, match="none of 2 servers"):
        InferenceClient(
            [gone.endpoint, "localhost:1"], "mean", connect_timeout=0.5
        )


def test_single_requests_go_to_a_server_that_is_there(fake) -> None:
    with (
        FakeTriton(MEAN) as other,
        InferenceClient([fake.endpoint, other.endpoint], "mean") as client,
    ):
        client.predict(X)
        fake.kill()
        deadline = time.monotonic() + 5
        while not other.num_requests:
            assert time.monotonic() < deadline
            try:
                client.predict(X)
            except ConnectionError:
                time.sleep(0.01)
        for _ in range(10):
            client.predict(X)


def test_headers_and_tokens_reach_the_server(fake) -> None:
    arguments = {"headers": {"x-api-key": "abc"}, "token": "s3cret"}
    with InferenceClient(fake.endpoint, "mean", **arguments) as client:
        client.predict(X)
    headers = fake.requests[-1].headers
    assert headers["x-api-key"] == "abc"
    assert headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"token": "a"}, "without TLS could be read"),
        ({"headers": {"X Y": "a"}}, "X Y"),
        ({"ssl": True, "root_certificates": "/none.pem"}, "/none.pem"),
        ({"ssl": True, "private_key": __file__}, "certificate_chain"),
        ({"timeout": None}, "timeout=None is no number of seconds"),
        ({"timeout": "5"}, "timeout='5' is no number of seconds"),
        ({"timeout": float("inf")}, "timeout=inf is no number of seconds"),
        ({"load_timeout": float("nan")}, "load_timeout=nan is no number"),
        ({"callback": 3}, "callback=3 is no function"),
        ({"timeout": 0}, "timeout=0 is no number of seconds"),
        ({"connect_timeout": -1}, "connect_timeout=-1 is no number of"),
        ({"batch_size": 0}, "batch_size=0 is no whole number"),
        ({"batch_size": 2.5}, "batch_size=2.5 is no whole number"),
    ],
)
def test_bad_options_are_refused_at_once(arguments, match) -> None:
    with pytest.raises(InvalidRequest, match=match):
        InferenceClient("example.org:8001", "mean", **arguments)


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ([], "at least one"),
        (["a:1", "a:1"], "each server once"),
        (["a:1", 3], "is no address"),
        (["a:1", "b:1"], "1 transports for 2 addresses"),
    ],
)
def test_bad_lists_of_servers_are_refused(address, match) -> None:
    transport = FakeTransport.of(MEAN)
    with pytest.raises(InvalidRequest, match=match):
        InferenceClient(address, "mean", transport=transport)


def test_an_endpoint_is_an_address(fake) -> None:
    grpc = fake.endpoint.grpc
    endpoint = Endpoint(grpc=grpc, http="a:1", metrics="a:2")
    with InferenceClient(endpoint, "mean") as client:
        assert client.address == grpc


def test_a_notebook_shows_clients_models_and_results(fake) -> None:
    with InferenceClient(fake.endpoint, "stream") as client:
        html = client._repr_html_()
        assert fake.endpoint.grpc in html
        assert "snapshot_update" in html
        assert "0 pending" in repr(client)
        with client.sequence() as sequence:
            result = sequence.send(np.zeros((2, 12), "f4")).result(5)
            assert "output_0" in result._repr_html_()
            assert "1 warming up" in result._repr_html_()
            assert "1 updates sent" in sequence._repr_html_()
    assert "closed" in client._repr_html_()


def test_progress_is_shown(fake) -> None:
    stderr = io.StringIO()
    with (
        InferenceClient(fake.endpoint, "stream") as client,
        client.sequence() as sequence,
        redirect_stderr(stderr),
    ):
        updates = np.zeros((7, 2, 12), np.float32)
        results = list(sequence.stream(updates, progress=True))
    assert [result.index for result in results] == list(range(7))
    assert "100%" in stderr.getvalue()


def test_a_forked_child_is_told_to_make_its_own_client(fake) -> None:
    with (
        InferenceClient(fake.endpoint, "mean") as client,
        InferenceClient(fake.endpoint, "stream") as streaming,
        streaming.sequence() as sequence,
    ):
        update = np.zeros((2, 12), np.float32)
        sequence.send(update).result(5)
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (
                lambda: client.predict(X),
                streaming.sequence,
                lambda: sequence.send(update),
            ):
                try:
                    call()
                except ClientForked as error:
                    refused += "make a client in the child" in str(error)
            sequence.close()
            client.close()
            with InferenceClient(fake.endpoint, "mean") as own:
                refused += own.predict(X)["max"].shape == (1, 2)
            os._exit(refused)
        assert exit_code(child) == 4
        client.predict(X)
        sequence.send(update).result(5)


def exit_code(child: int, timeout: float = 20) -> int:
    """A child's; one that hangs is killed."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hung")


def test_a_callback_that_would_wait_for_itself_is_refused(fake) -> None:
    refused: list[Exception] = []
    done = threading.Event()

    def callback(future) -> None:  # noqa: ARG001
        try:
            client.predict(X)
        except InvalidRequest as error:
            refused.append(error)
        done.set()

    with InferenceClient(fake.endpoint, "mean") as client:
        fake.inject(Slow(0.2))  # the answer comes after the callback is there
        client.submit(X).add_done_callback(callback)
        assert done.wait(5)
        assert "would wait for itself" in str(refused[0])
        client.predict(X)


def test_limits_of_time_are_checked_everywhere(fake) -> None:
    with InferenceClient(fake.endpoint, "stream") as client:
        for seconds in (float("inf"), 1e10, -1, "a"):
            with pytest.raises(InvalidRequest, match="no number of seconds"):
                client.sequence(timeout=seconds)
            with pytest.raises(InvalidRequest, match="no number of seconds"):
                client.sequence(stall_timeout=seconds)
        with pytest.raises(InvalidRequest, match="max_in_flight=0"):
            client.sequence(max_in_flight=0)
        with client.sequence() as sequence:
            update = np.zeros((2, 12), "f4")
            with pytest.raises(InvalidRequest, match="timeout=inf"):
                sequence.send(update, timeout=float("inf"))
            sequence.send(update, timeout=1e9).result(5)
            fake.freeze()
            future = sequence.send(update, timeout=0.3)
            with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
                future.result(5)


def test_a_client_does_not_travel(fake) -> None:
    with (
        InferenceClient(fake.endpoint, "mean") as client,
        pytest.raises(TypeError, match="make one there"),
    ):
        pickle.dumps(client)


def test_a_mistake_of_the_callers_is_not_the_servers(fake) -> None:
    update = np.zeros((1, 2, 12), "f4")
    with InferenceClient(fake.endpoint, "stream") as client:
        with pytest.raises(RuntimeError, match="START"):
            client.submit(update, 0, 7).result(5)
        assert "lost" not in client._repr_html_()


def test_a_closed_client_says_so(fake) -> None:
    client = InferenceClient(fake.endpoint, "stream")
    sequence = client.sequence()
    client.close()
    client.close()
    with pytest.raises(ClientClosed, match="make another one"):
        sequence.send(np.zeros((2, 12), np.float32))
    with pytest.raises(ClientClosed, match="make another one"):
        client.sequence()
    sequence.close()
