"""Programs written for the older client: infer, get and a callback.

What they rely on is in architecture.md, section 6.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    DtypeMismatch,
    InferenceError,
    InvalidRequest,
    SequenceLost,
    StreamBroken,
)
from hermes.aeriel.testing import Drop, Fail, FakeModel, FakeTriton

X = np.arange(8, dtype=np.float32).reshape(1, 2, 4)

MEAN = FakeModel.of(
    "mean",
    lambda x: x.mean(-1),
    {"x": ("FP32", [-1, 2, 4])},
    {"y": ("FP32", [-1, 2])},
)
SUM = FakeModel.stateful(
    "sum",
    lambda state, x: (state + x, state + x),
    np.zeros((1, 2, 4), np.float32),
    {"x": ("FP32", [1, 2, 4])},
    {"y": ("FP32", [1, 2, 4])},
)
STREAM = FakeModel.streaming(
    "stream",
    lambda kernels: kernels.sum((1, 2), keepdims=True)[:, 0],
    num_channels=2,
    kernel_size=8,
    stride_size=4,
)
TWO = FakeModel.of(
    "two",
    lambda x: (x + 1, x + 2),
    {"x": ("FP32", [1, 2, 4])},
    {"a": ("FP32", [1, 2, 4]), "b": ("FP32", [1, 2, 4])},
)


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with FakeTriton(MEAN, SUM, STREAM, TWO) as fake:
        yield fake


def poll(client: InferenceClient, num: int, timeout: float = 10) -> list:
    """What a program does that waits for its answers."""
    found: list = []
    deadline = time.monotonic() + timeout
    while len(found) < num:
        assert time.monotonic() < deadline, f"{len(found)} of {num} answers"
        answer = client.get()
        if answer is None:
            time.sleep(0.001)
        else:
            found.append(answer)
    return found


def test_the_constructor_takes_its_arguments_in_the_known_order() -> None:
    names = [*inspect.signature(InferenceClient).parameters]
    assert names[:6] == [
        "address",
        "model_name",
        "model_version",
        "batch_size",
        "callback",
        "profile",
    ]
    infer = [*inspect.signature(InferenceClient.infer).parameters]
    assert infer[1:6] == [
        "x",
        "request_id",
        "sequence_id",
        "sequence_start",
        "sequence_end",
    ]


def test_answers_come_with_their_ids(fake) -> None:
    client = InferenceClient(fake.endpoint.grpc, "sum", -1)
    with client:
        for i in range(50):
            client.infer(
                X,
                i,
                1001,
                sequence_start=i == 0,
                sequence_end=i == 49,
            )
        found = poll(client, 50)
        assert client.get() is None
        assert client.get(until_empty=True) == []
    for i, (y, request_id, sequence_id) in enumerate(found):
        assert (request_id, sequence_id) == (i, 1001)
        np.testing.assert_array_equal(y, X * (i + 1))


def test_a_callback_decides_what_get_returns(fake) -> None:
    seen = []

    def keep_odd(y, request_id, sequence_id):
        seen.append(sequence_id)
        return (request_id, float(y.sum())) if request_id % 2 else None

    with InferenceClient(
        fake.endpoint.grpc, "sum", callback=keep_odd
    ) as client:
        for i in range(10):
            client.infer(X, i, 7, sequence_start=not i, sequence_end=i == 9)
        found = poll(client, 5)
        assert client.get() is None
    assert found == [(i, float(X.sum()) * (i + 1)) for i in (1, 3, 5, 7, 9)]
    assert seen == [7] * 10


def test_what_a_callback_raises_is_raised_by_get(fake) -> None:
    def callback(y, request_id, sequence_id):  # noqa: ARG001
        if request_id % 10 == 3:
            raise ZeroDivisionError(f"request {request_id}")
        return request_id

    with InferenceClient(fake.endpoint, "mean", callback=callback) as client:
        for i in range(100):
            client.infer(X, i)
        found, raised = [], []
        deadline = time.monotonic() + 10
        while len(found) + len(raised) < 100 and time.monotonic() < deadline:
            try:
                answer = client.get()
            except ZeroDivisionError as error:
                raised.append(str(error))
            else:
                found += [] if answer is None else [answer]
    assert raised == [f"request {i}" for i in range(3, 100, 10)]
    assert found == [i for i in range(100) if i % 10 != 3]


def test_all_answers_up_to_an_error_come_at_once(fake) -> None:
    fake.inject(Fail(at=4, message="out of memory"))
    with InferenceClient(fake.endpoint, "mean") as client:
        for i in range(6):
            client.infer(X, i)
        fake.wait_for_requests(6)
        client.predict(X)  # answered after those
        first = client.get(until_empty=True)
        assert [request_id for _, request_id, _ in first] == [0, 1, 2]
        with pytest.raises(InferenceError, match="out of memory") as e:
            client.get(until_empty=True)
        assert e.value.request_id == 3
        rest = client.get(until_empty=True)
        assert [request_id for _, request_id, _ in rest] == [4, 5]


def test_a_lost_server_is_raised_by_get_for_each_request(fake) -> None:
    with InferenceClient(fake.endpoint, "sum", timeout=5) as client:
        fake.inject(Drop(at=3))
        client.infer(X, 0, 5, sequence_start=True)
        poll(client, 1)
        client.infer(X, 1, 5)
        poll(client, 1)
        client.infer(X, 2, 5)
        with pytest.raises((StreamBroken, ConnectionError)) as e:
            poll(client, 1)
        assert (e.value.request_id, e.value.sequence_id) == (2, 5)
        with pytest.raises(SequenceLost, match="start it again"):
            client.infer(X, 3, 5)
        client.infer(X, 0, 5, sequence_start=True)
        ((y, *_),) = poll(client, 1)
        np.testing.assert_array_equal(y, X)


def test_a_request_needs_no_id(fake) -> None:
    with InferenceClient(fake.endpoint, "mean") as client:
        client.infer(X)
        client.infer(X, None, 0)  # no sequence, said in Triton's way
        answers = poll(client, 2)
    assert [answer[1] for answer in answers] == [None, None]


def test_states_go_by_their_names(fake) -> None:
    with InferenceClient(fake.endpoint, "stream") as client:
        client.infer(
            {"network/input": X}, 0, 1, sequence_start=True, sequence_end=True
        )
        ((y, *_),) = poll(client, 1)
    np.testing.assert_array_equal(y, [[X.sum()]])


def test_several_outputs_come_by_name(fake) -> None:
    with InferenceClient(fake.endpoint, "two") as client:
        client.infer(X, 0)
        ((y, *_),) = poll(client, 1)
    np.testing.assert_array_equal(y["a"], X + 1)
    np.testing.assert_array_equal(y["b"], X + 2)


def test_partial_batches_are_filled_up(fake) -> None:
    with InferenceClient(fake.endpoint, "mean", batch_size=4) as client:
        for rows in range(1, 5):
            client.infer(np.repeat(X, rows, axis=0), rows)
        answers = poll(client, 4)
        assert [len(y) for y, *_ in answers] == [1, 2, 3, 4]
    sent = [request.inputs["x"].shape for request in fake.requests]
    assert sent == [(4, 2, 4)] * 4


def test_bad_input_is_refused_by_infer_itself(fake) -> None:
    with InferenceClient(fake.endpoint, "sum") as client:
        with pytest.raises(DtypeMismatch, match="float64"):
            client.infer(X.astype("f8"), 0, 1, sequence_start=True)
        with pytest.raises(InvalidRequest, match="0 means no sequence"):
            client.infer(X, 0, 0, sequence_start=True)
        assert client.get() is None


def test_two_clients_may_call_their_sequences_alike(fake) -> None:
    clients = [InferenceClient(fake.endpoint, "sum") for _ in range(2)]
    for i in range(20):
        for factor, client in enumerate(clients, 1):
            client.infer(X * factor, i, 5, sequence_start=i == 0)
    for factor, client in enumerate(clients, 1):
        for i, (y, *_) in enumerate(poll(client, 20)):
            np.testing.assert_array_equal(y, X * factor * (i + 1))
        client.close()


def test_many_threads_may_infer(fake) -> None:
    def run(sequence_id: int) -> None:
        for i in range(50):
            client.infer(X, i, sequence_id, sequence_start=i == 0)

    with InferenceClient(fake.endpoint, "sum") as client:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(run, range(1, 9)))
        answers = poll(client, 400)
    for y, request_id, _ in answers:
        np.testing.assert_array_equal(y, X * (request_id + 1))


def test_latencies_are_kept_on_demand(fake) -> None:
    with InferenceClient(fake.endpoint, "mean", profile=True) as client:
        for _ in range(3):
            client.predict(X)
        assert len(client.latencies) == 3
        assert all(0 < seconds < 5 for seconds in client.latencies)
