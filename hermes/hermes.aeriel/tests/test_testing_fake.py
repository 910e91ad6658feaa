"""The fake server, asked by tritonclient and by our own client."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as tritonclient

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    DeadlineExceeded,
    InferenceError,
    ModelNotFound,
)
from hermes.aeriel.testing import FakeModel, FakeTriton, InvalidFake

MEAN = FakeModel.of(
    "mean",
    lambda x: (x.mean(-1), x.sum(-1)),
    {"x": ("FP32", [None, 2, 4])},
    {"mean": ("TYPE_FP32", [-1, 2]), "sum": (np.float32, [-1, 2])},
)
TOTAL = FakeModel.stateful(
    "total",
    lambda state, x: (state + x, state + x),
    initial=0.0,
    inputs={"x": ("FP32", [3])},
    outputs={"y": ("FP32", [3])},
)
X = np.arange(8, dtype=np.float32).reshape(1, 2, 4)


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with FakeTriton(MEAN, TOTAL) as fake:
        yield fake


@pytest.fixture
def triton(fake) -> Iterator[tritonclient.InferenceServerClient]:
    client = tritonclient.InferenceServerClient(fake.endpoint.grpc)
    yield client
    client.close()


def tensor(array: np.ndarray, name: str = "x") -> tritonclient.InferInput:
    found = tritonclient.InferInput(name, array.shape, "FP32")
    found.set_data_from_numpy(array)
    return found


def test_tritonclient_finds_a_server(triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("mean")
    assert not triton.is_model_ready("mean", "3")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata().name == "fake"
    metadata = triton.get_model_metadata("mean", as_json=True)
    assert metadata["inputs"][0]["shape"] == ["-1", "2", "4"]
    assert metadata["outputs"][1] == {
        "name": "sum",
        "datatype": "FP32",
        "shape": ["-1", "2"],
    }
    config = triton.get_model_config("total").config
    assert config.HasField("sequence_batching")
    answer = triton.infer("mean", [tensor(X)])
    np.testing.assert_array_equal(answer.as_numpy("sum"), X.sum(-1))


def test_only_the_outputs_asked_for_are_sent(fake, triton) -> None:
    wanted = [tritonclient.InferRequestedOutput("sum")]
    answer = triton.infer("mean", [tensor(X)], outputs=wanted)
    assert [o.name for o in answer.get_response().outputs] == ["sum"]
    assert fake.requests[0].outputs == ("sum",)


def test_requests_are_remembered(fake, triton) -> None:
    triton.infer(
        "total",
        [tensor(np.ones(3, np.float32))],
        request_id="first",
        sequence_id=7,
        sequence_start=True,
        headers={"trace": "abc"},
        parameters={"gain": 3, "name": "a", "on": True},
    )
    (request,) = fake.requests
    assert (request.model_name, request.model_version) == ("total", None)
    assert (request.number, request.id) == (1, "first")
    assert (request.sequence_id, request.sequence_start) == (7, True)
    assert not request.sequence_end
    assert request.headers["trace"] == "abc"
    assert dict(request.parameters) == {"gain": 3, "name": "a", "on": True}
    np.testing.assert_array_equal(request.inputs["x"], [1, 1, 1])
    assert fake.sequences == (("total", 7),)
    assert "running, 1 requests" in repr(fake)


def test_one_that_is_forgotten_does_not_hold_its_program_up() -> None:
    program = """if True:
        import numpy as np
        from hermes.aeriel.client import InferenceClient
        from hermes.aeriel.testing import FakeModel, FakeTriton

        model = FakeModel.of(
            "same", lambda x: (x,), {"x": ("FP32", [3])}, {"y": ("FP32", [3])}
        )
        fake = FakeTriton(model)
        client = InferenceClient(fake.endpoint, "same")
        print(client.predict(np.ones(3, np.float32)))
    """
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"[1. 1. 1.]\n")


def test_our_client_works_with_it(fake) -> None:
    with InferenceClient(fake.endpoint, "mean") as client:
        answer = client.predict(X)
        np.testing.assert_array_equal(answer["mean"], X.mean(-1))
    with InferenceClient(fake.endpoint, "total") as client:
        with client.sequence() as sequence:
            for i in range(1, 4):
                result = sequence.send(np.ones(3, np.float32)).result(5)
                assert (result.output == i).all()
        with pytest.raises(InferenceError, match="must specify the START"):
            client.submit(np.ones(3, np.float32), sequence_id=7).result(5)
    with pytest.raises(ModelNotFound, match="'other' is not found"):
        InferenceClient(fake.endpoint, "other")


def test_each_sequence_has_its_own_state() -> None:
    def step(history: list, x: np.ndarray) -> tuple[list, np.ndarray]:
        history.append(x[0])  # in place: each must have a list of its own
        return history, np.sum(history, keepdims=True)

    shape = ("FP32", [1])
    model = FakeModel.stateful("list", step, [], {"x": shape}, {"y": shape})
    with (
        FakeTriton(model) as fake,
        InferenceClient(fake.endpoint, "list") as client,
        client.sequence() as a,
        client.sequence() as b,
    ):
        for i in range(1, 4):
            for sequence, value in (a, 1.0), (b, 10.0):
                answer = sequence.send(np.array([value], np.float32))
                assert answer.result(5).output == [i * value]


class Collector:
    """What a stream of tritonclient's answers."""

    def __init__(self, address: str, done: threading.Semaphore) -> None:
        self.ids: list[str] = []
        self._done = done
        self.client = tritonclient.InferenceServerClient(address)
        self.client.start_stream(self._take)

    def _take(self, result, error) -> None:
        self.ids.append(str(error or result.get_response().id))
        self._done.release()

    def close(self) -> None:
        self.client.stop_stream()
        self.client.close()


def test_many_streams_are_answered_at_once_and_each_in_order() -> None:
    everybody = threading.Barrier(128, timeout=20)

    def meet(x: np.ndarray) -> np.ndarray:
        everybody.wait()
        return x

    shape = ("FP32", [1])
    model = FakeModel.of("meet", meet, {"x": shape}, {"y": shape})
    done = threading.Semaphore(0)
    array = tensor(np.zeros(1, np.float32))
    with FakeTriton(model) as fake:
        streams = [Collector(fake.endpoint.grpc, done) for _ in range(128)]
        for i in range(3):
            for stream in streams:
                stream.client.async_stream_infer(
                    "meet", [array], request_id=str(i)
                )
        for _ in range(3 * 128):
            assert done.acquire(timeout=20)
        for stream in streams:
            stream.close()
    assert [stream.ids for stream in streams] == [["0", "1", "2"]] * 128


def test_many_threads_share_it(fake) -> None:
    def work(seed: int) -> bool:
        with InferenceClient(fake.endpoint, "mean") as client:
            answers = [
                client.predict(np.full((1, 2, 4), seed, np.float32))["sum"]
                for _ in range(20)
            ]
        return all((answer == 4 * seed).all() for answer in answers)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
    assert fake.num_requests == 320
    numbers = [request.number for request in fake.requests]
    assert sorted(numbers) == list(range(1, 321))


def test_a_model_with_a_batch_axis() -> None:
    model = FakeModel.of(
        "batched",
        lambda x: x.sum(1),
        {"x": ("FP32", [3])},
        {"y": ("FP32", [])},
        max_batch_size=4,
    )
    with (
        FakeTriton(model) as fake,
        InferenceClient(fake.endpoint, "batched") as client,
    ):
        assert client.spec.inputs["x"].shape == (None, 3)
        assert client.predict(np.ones((4, 3), np.float32)).shape == (4,)


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("TYPE_STRING", np.array([b"\0\xff", "naïve"], object)),
        ("BYTES", np.array([b"a", b""], object)),
        ("INT64", np.arange(2)),
        (bool, np.array([True, False])),
        ("f8", np.ones(2)),
        (np.float16, np.ones(2, np.float16)),
    ],
)
def test_dtypes_have_several_names(dtype, array) -> None:
    shape = (dtype, [2])
    model = FakeModel.of("echo", lambda x: x, {"x": shape}, {"y": shape})
    with (
        FakeTriton(model) as fake,
        InferenceClient(fake.endpoint, "echo") as client,
    ):
        answer = client.predict(array)
    expected = [x.encode() if isinstance(x, str) else x for x in array]
    assert answer.dtype == array.dtype
    assert answer.tolist() == np.array(expected, array.dtype).tolist()


def test_a_model_of_both_sides_may_say_anything() -> None:
    config = {
        "name": "liar",
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3]}],
    }
    model = FakeModel(config, lambda request: {"z": request.inputs["x"][:1]})
    with FakeTriton(model) as fake:
        client = tritonclient.InferenceServerClient(fake.endpoint.grpc)
        answer = client.infer("liar", [tensor(np.ones(3, np.float32))])
        assert answer.as_numpy("z").shape == (1,)
        client.close()


def test_an_error_in_the_function_is_the_requests() -> None:
    shape = ("FP32", [1])
    model = FakeModel.of("bad", lambda _: 1 / 0, {"x": shape}, {"y": shape})
    with (
        FakeTriton(model) as fake,
        InferenceClient(fake.endpoint, "bad") as client,
        pytest.raises(InferenceError, match="ZeroDivisionError: division by"),
    ):
        client.predict(np.zeros(1, np.float32))


def test_models_are_loaded_on_demand() -> None:
    with FakeTriton(MEAN, TOTAL, explicit=True, loaded=["mean"]) as fake:
        client = tritonclient.InferenceServerClient(fake.endpoint.grpc)
        assert client.is_model_ready("mean")
        assert not client.is_model_ready("total")
        client.load_model("total")
        assert client.is_model_ready("total")
        client.unload_model("total")
        assert not client.is_model_ready("total")
        client.unload_model("other")
        client.load_model("total")
        fake.stop()
        fake.restart()
        client.close()
        again = tritonclient.InferenceServerClient(fake.endpoint.grpc)
        assert again.is_model_ready("mean")
        assert not again.is_model_ready("total")
        again.close()


def test_a_stream_of_a_network() -> None:
    def network(kernels: np.ndarray) -> np.ndarray:
        return kernels.mean((1, 2))[:, None]

    model = FakeModel.streaming(
        "online",
        network,
        num_channels=2,
        kernel_size=32,
        stride_size=8,
        batch_size=2,
        output="score",
    )
    rng = np.random.default_rng(0)
    data = rng.standard_normal((2, 160), dtype=np.float32)
    with (
        FakeTriton(model) as fake,
        InferenceClient(fake.endpoint, "online") as client,
        client.sequence() as sequence,
    ):
        results = list(sequence.stream(np.split(data, 10, axis=1)))
    valid = np.concatenate([r.output[r.num_warmup :] for r in results])
    windows = [data[:, i : i + 32] for i in range(0, 160 - 31, 8)]
    np.testing.assert_array_equal(valid, network(np.stack(windows)))


def test_waiting_for_requests_has_an_end(fake) -> None:
    fake.wait_for_requests(0)
    with pytest.raises(DeadlineExceeded, match=r"0 of 1 requests in 0\.1 s"):
        fake.wait_for_requests(1, timeout=0.1)


def test_nothing_is_left_after_it(fake) -> None:
    before = set(threading.enumerate())
    with FakeTriton(MEAN) as other:
        with InferenceClient(other.endpoint, "mean") as client:
            client.predict(X)
        other.freeze()
        assert other.endpoint.grpc != fake.endpoint.grpc
    other.close()
    assert "closed" in repr(other)
    deadline = time.monotonic() + 2
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_configurations_that_are_none_are_refused() -> None:
    def nothing(_):
        return {}

    with pytest.raises(InvalidFake, match="a model needs a name"):
        FakeModel({}, nothing)
    with pytest.raises(InvalidFake, match="either answer= or step="):
        FakeModel({"name": "a"})
    with pytest.raises(InvalidFake, match="'FP31' is no dtype"):
        FakeModel.of("a", nothing, {"x": ("FP31", [1])}, {})
    with pytest.raises(InvalidFake, match="is no ModelConfig of Triton's"):
        FakeTriton(FakeModel({"name": "a", "colour": "red"}, nothing))
    with pytest.raises(InvalidFake, match="two models have one name"):
        FakeTriton(MEAN, MEAN)
    with pytest.raises(InvalidFake, match="no such model to load"):
        FakeTriton(MEAN, explicit=True, loaded=["other"])
