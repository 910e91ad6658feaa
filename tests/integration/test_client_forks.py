"""Clients and forks: a child makes its own, and harms its parent's nothing.

Each child has a hard end: what would wait for ever is killed and told.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import queue
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient, Sequence
from hermes.aeriel.errors import ClientForked

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

X = np.arange(64, dtype=np.float32).reshape(1, 2, 32) / 64
SECONDS = 20


def in_child(run: Callable[[], Any]) -> Any:
    """What a function returns in a forked child, which ends after it."""
    read, write = os.pipe()
    gc.disable()  # or the child destroys what other tests left to its threads
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads: that is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(SECONDS)
            try:
                answer = run()
            except BaseException:  # noqa: BLE001  # the parent's to see
                answer = traceback.format_exc()
            os.write(write, pickle.dumps(answer))
        finally:
            os._exit(0)
    gc.enable()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    return pickle.loads(said)  # noqa: S301  # our own child's


def refusals(
    plain: InferenceClient, client: InferenceClient, sequence: Sequence
) -> dict[str, str]:
    """What a child is told by its parent's clients, each at once."""
    found = {}
    for name, call in {
        "predict": lambda: plain.predict(X),
        "submit": lambda: plain.submit(X),
        "infer": lambda: plain.infer(X),
        "sequence": client.sequence,
        "send": lambda: sequence.send(np.ones((2, 8), np.float32)),
    }.items():
        begin = time.monotonic()
        try:
            call()
        except Exception as error:  # noqa: BLE001  # compared below
            found[name] = type(error).__name__
        assert time.monotonic() - begin < 1, name
    return found


def test_a_child_is_refused_its_parents_client_and_makes_its_own(
    rig, make_updates, assert_same, tell
) -> None:
    endpoint = rig.calm.endpoint
    updates = make_updates("averaged", 60)
    expected = rig.uninterrupted("averaged", updates)

    def run() -> dict[str, Any]:
        refused = refusals(plain, client, sequence)
        begin = time.monotonic()
        sequence.close()
        client.close()
        closed = time.monotonic() - begin
        with InferenceClient(endpoint, "network", connect_timeout=5) as own:
            answer = own.predict(X, timeout=5).tobytes()
        return {"refused": refused, "closed": closed, "answer": answer}

    results = []
    with (
        InferenceClient(endpoint, "averaged", timeout=30) as client,
        InferenceClient(endpoint, "network") as plain,
    ):
        before = plain.predict(X).tobytes()
        with client.sequence() as sequence:
            for result in sequence.stream(updates):
                results.append(result)
                if result.index == 30:
                    told = in_child(run)
        # The parent goes on, its connections as they were.
        assert plain.predict(X, timeout=10).tobytes() == before
    counts = assert_same(results, expected)
    tell(counts, told if isinstance(told, str) else told["refused"])
    assert told == {
        "refused": dict.fromkeys(
            ("predict", "submit", "infer", "sequence", "send"),
            ClientForked.__name__,
        ),
        "closed": pytest.approx(0, abs=0.5),
        "answer": before,
    }


def test_a_child_forked_in_mid_request_does_not_hang_at_its_end(
    rig, tell
) -> None:
    """An ordinary end runs what Python runs at exit, and collects all."""
    with InferenceClient(rig.calm.endpoint, "network") as client:
        expected = client.predict(X).tobytes()
        futures = [client.submit(X) for _ in range(50)]
        context = multiprocessing.get_context("fork")
        begin = time.monotonic()
        child = context.Process(target=print, args=("a child",))
        child.start()
        child.join(SECONDS)
        seconds = time.monotonic() - begin
        if child.is_alive():
            child.kill()
        right = sum(f.result(10).tobytes() == expected for f in futures)
    tell(exitcode=child.exitcode, seconds=f"{seconds:.2f}", right=right)
    assert child.exitcode == 0
    assert right == 50


def stream_in_child(
    endpoint, seed: int, results: multiprocessing.Queue
) -> None:
    updates = np.random.default_rng(seed).integers(0, 8191, (200, 1, 2))
    with (
        InferenceClient(endpoint, "digest", timeout=SECONDS) as client,
        client.sequence(5) as sequence,
    ):
        answers = [
            result.output
            for result in sequence.stream(updates.astype(np.float32))
        ]
    results.put((seed, np.array(answers)))


def test_processes_of_multiprocessing_have_clients_of_their_own(
    rig, tell
) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    endpoint = rig.calm.endpoint
    with InferenceClient(endpoint, "network") as client:
        before = client.predict(X).tobytes()
        children = [
            context.Process(
                target=stream_in_child, args=(endpoint, seed, results)
            )
            for seed in range(3)
        ]
        for child in children:
            child.start()
        received = {}
        try:
            for _ in children:
                seed, answers = results.get(timeout=SECONDS)
                received[seed] = answers
        except queue.Empty:
            pass
        finally:
            for child in children:
                child.join(5)
                if child.is_alive():
                    child.kill()
        assert client.predict(X, timeout=10).tobytes() == before
    right = {}
    for seed, answers in received.items():
        updates = np.random.default_rng(seed).integers(0, 8191, (200, 1, 2))
        digest, expected = 0, []
        for update in updates:
            digest = (17 * digest + update) % 8191
            expected.append(digest)
        right[seed] = sum(map(np.array_equal, answers, expected))
    codes = [child.exitcode for child in children]
    tell(right=right, codes=codes)
    assert right == {0: 200, 1: 200, 2: 200}
    assert codes == [0, 0, 0]
