"""Many sequences at once: none is lost, none sees another's state.

The model's answer is a digest of all updates of its sequence so far, in their
order: one that was lost, doubled, overtaken or sent to another sequence would
change all answers after it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient, Sequence

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

FACTOR, MODULUS = 17, 8191


def make_updates(number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    updates = rng.integers(0, MODULUS, (number, 1, 2))
    return updates.astype(np.float32)


def digests(updates: np.ndarray) -> np.ndarray:
    """What the model makes of a sequence, computed here."""
    found, digest = [], np.zeros((1, 2), np.int64)
    for update in updates.astype(np.int64):
        digest = (FACTOR * digest + update) % MODULUS
        found.append(digest)
    return np.array(found, np.float32)


def num_right(outputs: list[np.ndarray], updates: np.ndarray) -> int:
    expected = digests(updates)
    assert len(outputs) == len(expected)
    return sum(map(np.array_equal, outputs, expected))


def send_interleaved(
    sequences: list[Sequence], updates: list[np.ndarray]
) -> list[list[np.ndarray]]:
    """One update of each sequence in turn."""
    futures = [
        [
            sequence.send(part[index])
            for sequence, part in zip(sequences, updates, strict=True)
        ]
        for index in range(len(updates[0]))
    ]
    rows = [[future.result(60) for future in row] for row in futures]
    for index, row in enumerate(rows):
        assert {result.index for result in row} == {index}
    return [
        [result.output for result in column]
        for column in zip(*rows, strict=True)
    ]


@pytest.mark.slow
def test_sixteen_threads_of_eight_sequences_get_their_64_000_answers(
    rig, tell
) -> None:
    def run(client: InferenceClient, thread: int) -> int:
        updates = [make_updates(500, 8 * thread + n) for n in range(8)]
        sequences = [client.sequence() for _ in updates]
        received = send_interleaved(sequences, updates)
        for sequence in sequences:
            sequence.close()
        return sum(map(num_right, received, updates))

    begin = time.monotonic()
    with (
        InferenceClient(rig.calm.endpoint, "digest", timeout=120) as client,
        ThreadPoolExecutor(16) as threads,
    ):
        right = list(threads.map(run, [client] * 16, range(16)))
        # Leaving a sequence does not wait for the answer to its END.
        deadline = time.monotonic() + 10
        while "0 pending" not in repr(client):
            assert time.monotonic() < deadline, repr(client)
            time.sleep(0.01)
    seconds = time.monotonic() - begin
    tell(right=sum(right), seconds=f"{seconds:.1f}")
    assert right == [4000] * 16


@pytest.mark.parametrize(
    ("model", "slots", "number"),
    [("digest-of-four", 4, 13), ("stream", 1, 5)],
)
def test_more_sequences_than_slots_come_through_in_turn(
    rig, model, slots, number, tell
) -> None:
    """Each in a thread of its own; those without a slot wait for one."""
    finished: list[int] = []
    open_now, most, lock = Counter(), [0], threading.Lock()

    def run(client: InferenceClient, index: int) -> list[np.ndarray]:
        outputs = []
        with client.sequence(max_in_flight=8) as sequence:
            for result in sequence.stream(updates[index]):
                outputs.append(result.output)
                with lock:
                    open_now[index] = 1
                    most[0] = max(most[0], open_now.total())
            with lock:
                del open_now[index]
        finished.append(index)
        return outputs

    if model == "stream":
        rng = np.random.default_rng(0)
        shape = number, 100, 2, 8
        updates = list(rng.standard_normal(shape, np.float32))
    else:
        updates = [make_updates(100, seed) for seed in range(number)]
    with (
        InferenceClient(rig.calm.endpoint, model, timeout=60) as client,
        ThreadPoolExecutor(number) as threads,
    ):
        received = list(threads.map(run, [client] * number, range(number)))
    if model == "stream":
        right = sum(
            sum(
                np.array_equal(output, found["output_0"])
                for output, found in zip(
                    outputs, rig.uninterrupted(model, list(part)), strict=True
                )
            )
            for outputs, part in zip(received, updates, strict=True)
        )
    else:
        right = sum(map(num_right, received, updates))
    tell(right=right, at_a_time=most[0], finished=finished)
    assert right == number * 100
    assert most[0] <= slots


@pytest.mark.parametrize("way", ["sequence", "submit"])
def test_two_clients_with_one_sequence_id_do_not_meet(rig, way, tell) -> None:
    updates = [make_updates(300, seed) for seed in (1, 2)]
    endpoint = rig.calm.endpoint
    with (
        InferenceClient(endpoint, "digest") as first,
        InferenceClient(endpoint, "digest") as second,
    ):
        clients = first, second
        if way == "sequence":
            sequences = [client.sequence(5) for client in clients]
            assert [sequence.id for sequence in sequences] == [5, 5]
            received = send_interleaved(sequences, updates)
            for sequence in sequences:
                sequence.close()
        else:
            futures = [
                [
                    client.submit(
                        part[index],
                        index,
                        sequence_id=5,
                        sequence_start=index == 0,
                        sequence_end=index == 299,
                    )
                    for client, part in zip(clients, updates, strict=True)
                ]
                for index in range(300)
            ]
            rows = [[future.result(30) for future in row] for row in futures]
            received = list(map(list, zip(*rows, strict=True)))
    right = [
        num_right(outputs, part)
        for outputs, part in zip(received, updates, strict=True)
    ]
    tell(right=right, crossed=600 - sum(right))
    assert right == [300, 300]


def test_a_sequence_id_may_be_used_again_once_it_has_ended(rig, tell) -> None:
    right = []
    with InferenceClient(rig.calm.endpoint, "digest") as client:
        for seed in range(20):
            updates = make_updates(5, seed)
            with client.sequence(5) as sequence:
                outputs = [r.output for r in sequence.stream(updates)]
            right.append(num_right(outputs, updates))
    tell(right=right)
    assert right == [5] * 20


def test_threads_that_share_a_sequence_id_of_submit_start_it_first(
    rig, tell
) -> None:
    """Requests of one sequence are sent in the order of the calls."""
    updates = make_updates(200, 3)
    turn = threading.Condition()
    futures: dict[int, object] = {}

    def send(client: InferenceClient, parity: int) -> None:
        for index in range(parity, len(updates), 2):
            with turn:
                assert turn.wait_for(lambda n=index: len(futures) == n, 30)
                futures[index] = client.submit(
                    updates[index],
                    index,
                    sequence_id=6,
                    sequence_start=index == 0,
                    sequence_end=index == len(updates) - 1,
                )
                turn.notify_all()

    with (
        InferenceClient(rig.calm.endpoint, "digest") as client,
        ThreadPoolExecutor(2) as threads,
    ):
        list(threads.map(send, [client] * 2, range(2)))
        outputs = [futures[n].result(30) for n in range(len(updates))]
    right = num_right(outputs, updates)
    tell(right=right)
    assert right == 200
