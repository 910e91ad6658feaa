"""Programs that were written for the older client run as they are."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import DtypeMismatch, InferenceError

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]


def poll(client: InferenceClient, number: int, seconds: float = 20) -> list:
    """As many results as were asked for, polled as such programs do."""
    results = []
    deadline = time.monotonic() + seconds
    while len(results) < number:
        assert time.monotonic() < deadline, f"{len(results)} of {number}"
        response = client.get()
        if response is None:
            time.sleep(1e-3)
            continue
        results.append(response)
    return results


def test_a_stream_with_a_callback_is_polled_from_get(
    rig, make_updates, tell
) -> None:
    updates = make_updates("averaged", 200)
    expected = rig.uninterrupted("averaged", updates)

    def callback(y, request_id, sequence_id):
        if request_id < 10:
            return None  # still warming up
        return y, request_id, sequence_id

    client = InferenceClient(
        rig.calm.endpoint.grpc, "averaged", -1, batch_size=1, callback=callback
    )
    n = len(updates)
    with client:
        assert client.get() is None
        for i, x in enumerate(updates):
            client.infer(
                x[None],
                request_id=i,
                sequence_id=1001,
                sequence_start=i == 0,
                sequence_end=i == n - 1,
            )
        results = poll(client, n - 10)
        assert client.get() is None
    same = [
        y.tobytes() == expected[i]["output_stream"].tobytes()
        for y, i, _ in results
    ]
    tell(Counter(same))
    assert [i for _, i, _ in results] == list(range(10, n))
    assert {sequence_id for _, _, sequence_id in results} == {1001}
    assert all(same)


def test_inputs_are_given_by_the_names_of_models_and_tensors(
    rig, make_updates, tell
) -> None:
    updates = make_updates("several", 50)
    expected = rig.uninterrupted("several", updates)
    with InferenceClient(rig.calm.endpoint.grpc, "several", -1) as client:
        for i, update in enumerate(updates):
            pair, slow = update.values()
            client.infer(
                {
                    "pair/strain": pair[None, :2],
                    "pair/witness": pair[None, 2:],
                    "slow/input": slow,
                },
                request_id=i,
                sequence_id=1001,
                sequence_start=i == 0,
                sequence_end=i == len(updates) - 1,
            )
        results = poll(client, len(updates))
    for i, (outputs, request_id, sequence_id) in enumerate(results):
        assert (request_id, sequence_id) == (i, 1001)
        for name, array in expected[i].items():
            assert outputs[name].tobytes() == array.tobytes()
    tell(equal=len(results))


def test_two_streams_alternate_in_one_client(rig, tell) -> None:
    updates = np.random.default_rng(0).integers(0, 8191, (100, 1, 2))
    updates = updates.astype(np.float32)
    with InferenceClient(rig.calm.endpoint.grpc, "digest", 1) as client:
        for i, x in enumerate(updates):
            for sequence_id in (1001, 1002):
                client.infer(
                    x * (sequence_id - 1000) % 8191,
                    request_id=i,
                    sequence_id=sequence_id,
                    sequence_start=i == 0,
                    sequence_end=i == 99,
                )
        results = poll(client, 200)
    right = Counter()
    digests = {1001: 0, 1002: 0}
    seen = Counter()
    for y, request_id, sequence_id in results:
        assert request_id == seen[sequence_id]
        seen[sequence_id] += 1
        x = updates[request_id] * (sequence_id - 1000) % 8191
        digests[sequence_id] = (17 * digests[sequence_id] + x) % 8191
        right[sequence_id] += np.array_equal(y, digests[sequence_id])
    tell(right)
    assert right == {1001: 100, 1002: 100}


def test_errors_are_raised_where_they_are_polled(rig, tell) -> None:
    requests = np.zeros((20, 1, 5), np.int64)
    requests[7, 0, 0] = 99  # no such row
    counts = Counter()
    with InferenceClient(rig.calm.endpoint.grpc, "lookup", -1) as client:
        for i, x in enumerate(requests):
            client.infer(x, request_id=i)
        deadline = time.monotonic() + 20
        while counts.total() < 20 and time.monotonic() < deadline:
            try:
                response = client.get()
            except InferenceError as error:
                failed = error
                counts["error"] += 1
            else:
                counts["answer"] += response is not None
        with pytest.raises(DtypeMismatch):
            client.infer(requests[0].astype(np.float32))
        assert client.get() is None
    tell(counts)
    assert counts == {"answer": 19, "error": 1}
    assert failed.request_id == 7


def test_all_that_has_come_is_taken_at_once(rig, tell) -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 2, 32)
    with InferenceClient(rig.calm.endpoint.grpc, "network") as client:
        assert client.get(until_empty=True) == []
        for i in range(30):
            client.infer(x, request_id=i)
        results = []
        deadline = time.monotonic() + 20
        while len(results) < 30 and time.monotonic() < deadline:
            results += client.get(until_empty=True)
    tell(answers=len(results))
    assert [request_id for _, request_id, _ in results] == list(range(30))
