"""The client when the real server fails requests, freezes or dies."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import Future

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    ClientError,
    DeadlineExceeded,
    InferenceError,
    ServerUnavailable,
    StreamBroken,
)

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

UPDATE = np.ones((2, 8), np.float32)
X = np.arange(64, dtype=np.float32).reshape(1, 2, 32) / 64
LOSSES = {"StreamBroken", "ServerUnavailable", "SequenceLost"}


def assert_told(futures: list[Future], sequence_id: int | None) -> None:
    """Each error names its request, and says something."""
    for number, future in enumerate(futures):
        error = future.exception(0)
        if error is not None:
            assert isinstance(error, ClientError)
            assert error.request_id == number
            assert error.sequence_id == sequence_id
            assert f" {number} " in str(error)


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_server_that_ends_in_mid_stream_ends_every_update(
    rig, way, outcomes, tell
) -> None:
    server = rig.serve("stream")
    end = {"kill": lambda: rig.kill(server), "stop": server.stop}[way]
    with InferenceClient(server.endpoint, "stream", timeout=30) as client:
        sequence = client.sequence(7, max_in_flight=10_000)
        futures = [sequence.send(UPDATE) for _ in range(20)]
        futures[-1].result(10)
        ending = threading.Thread(target=end)
        ending.start()
        refused = None
        deadline = time.monotonic() + 20
        while refused is None and time.monotonic() < deadline:
            try:
                futures.append(sequence.send(UPDATE))
            except ClientError as error:
                refused = error
            time.sleep(1e-4)
        counts = outcomes(futures)
        ending.join(60)
        begin = time.monotonic()
        sequence.close()
        assert time.monotonic() - begin < 1
    tell(counts, then=type(refused).__name__)
    assert isinstance(refused, ServerUnavailable | StreamBroken)
    assert counts["answer"] >= 20
    assert set(counts) - {"answer"} <= {*LOSSES, "InferenceError"}
    assert_told(futures, 7)


@pytest.mark.parametrize("sequence_id", [None, 9])
def test_a_killed_server_ends_the_requests_it_had(
    rig, sequence_id, outcomes, tell
) -> None:
    server = rig.serve("network", "stream")
    model, x = ("network", X) if sequence_id is None else ("stream", UPDATE)
    with (
        InferenceClient(server.endpoint, model, timeout=30) as client,
        rig.frozen(server),
    ):
        futures = [
            client.submit(x, number, sequence_id, number == 0)
            for number in range(200)
        ]
        rig.kill(server)
        counts = outcomes(futures)
    tell(counts)
    assert set(counts) <= {"StreamBroken", "ServerUnavailable"}
    assert counts.total() == 200
    assert_told(futures, sequence_id)


def test_a_killed_server_ends_the_updates_it_had(rig, outcomes, tell) -> None:
    server = rig.serve("stream")
    with InferenceClient(server.endpoint, "stream", timeout=30) as client:
        sequence = client.sequence(11, max_in_flight=300)
        with rig.frozen(server):
            futures = [sequence.send(UPDATE) for _ in range(200)]
            rig.kill(server)
            counts = outcomes(futures)
        with pytest.raises((ServerUnavailable, StreamBroken)):
            sequence.send(UPDATE)
    tell(counts)
    assert set(counts) <= LOSSES
    assert counts.total() == 200
    assert_told(futures, 11)


def test_deadlines_hold_while_a_server_stands_still(
    rig, outcomes, tell
) -> None:
    server = rig.serve("network")
    ends: dict[int, float] = {}
    with InferenceClient(server.endpoint, "network") as client:
        expected = client.predict(X)
        with rig.frozen(server):
            futures, sent = [], time.monotonic()
            for number in range(40):
                timeout = 0.5 + (number * 7 % 40) / 40
                future = client.submit(X, number, timeout=timeout)
                future.add_done_callback(
                    lambda _, n=number, t=timeout: ends.update(
                        {n: time.monotonic() - sent - t}
                    )
                )
                futures.append(future)
            patient = client.submit(X, timeout=30)
            counts = outcomes(futures)
            assert not patient.done()
        assert patient.result(10).tobytes() == expected.tobytes()
        assert client.predict(X, timeout=10).tobytes() == expected.tobytes()
    latest = max(ends.values())
    tell(counts, latest_by=f"{latest:.3f} s")
    assert counts == {DeadlineExceeded.__name__: 40}
    assert min(ends.values()) > -0.01
    assert latest < 0.25
    assert_told(futures, None)


def test_an_update_that_is_late_loses_its_sequence(
    rig, outcomes, tell
) -> None:
    server = rig.serve("stream")
    with InferenceClient(server.endpoint, "stream") as client:
        sequence = client.sequence(timeout=0.5)
        sequence.send(UPDATE).result(10)
        with rig.frozen(server):
            futures = [sequence.send(UPDATE) for _ in range(10)]
            counts = outcomes(futures)
        assert isinstance(futures[0].exception(0), DeadlineExceeded)
        # Its only place is free again, once the server has come round.
        with client.sequence() as another:
            assert another.send(UPDATE, timeout=10).result(10).index == 0
    tell(counts)
    assert counts == {"DeadlineExceeded": 1, "SequenceLost": 9}


@pytest.mark.parametrize("model", ["network", "stream"])
def test_a_client_of_a_frozen_server_closes_at_once(
    rig, model, outcomes, tell
) -> None:
    server = rig.serve(model)
    client = InferenceClient(server.endpoint, model)
    if model == "stream":
        sequence = client.sequence(max_in_flight=200)
        sequence.send(UPDATE).result(10)
    with rig.frozen(server):
        futures = [
            client.submit(X) if model == "network" else sequence.send(UPDATE)
            for _ in range(100)
        ]
        begin = time.monotonic()
        client.close()
        seconds = time.monotonic() - begin
        left = [
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith("hermes")
        ]
    counts = outcomes(futures)
    tell(counts, closed_in=f"{seconds:.3f} s", threads_left=left)
    assert seconds < 1
    assert left == []
    assert counts == {"ClientClosed": 100}


PROGRAM = """
import sys, time
import numpy as np
from hermes.aeriel.client import InferenceClient

def updates():
    for number in range(1000):
        if number == 50:
            print("ready", flush=True)
            sys.stdin.readline()  # until the server is frozen
            print("frozen", flush=True)
        yield np.ones((2, 8), np.float32)

left = None
try:
    with InferenceClient(sys.argv[1], "stream") as client:
        with client.sequence() as sequence:
            for result in sequence.stream(updates()):
                pass
except KeyboardInterrupt:
    print("left", time.monotonic(), flush=True)
"""


def test_an_interrupted_program_leaves_a_frozen_server_at_once(
    rig, tmp_path, tell
) -> None:
    server = rig.serve("stream")
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    program = subprocess.Popen(
        [sys.executable, str(script), server.endpoint.grpc],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program, rig.frozen(server) as process:
        process.send_signal(signal.SIGCONT)
        guard = threading.Timer(60, program.kill)
        guard.start()
        assert program.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "frozen\n"
        time.sleep(0.5)
        begin = time.monotonic()
        program.send_signal(signal.SIGINT)
        words = program.stdout.readline().split()
        code = program.wait(20)
        ended = time.monotonic() - begin
        guard.cancel()
    assert words[0] == "left"
    left = float(words[1]) - begin
    tell(code, left_after=f"{left:.3f} s", ended_after=f"{ended:.3f} s")
    assert code == 0
    assert left < 1.5


def test_one_poisoned_request_fails_alone(rig, outcomes, tell) -> None:
    requests = np.random.default_rng(0).integers(0, 10, (1000, 1, 5))
    requests[500, 0, 2] = 99  # no such row
    with InferenceClient(rig.calm.endpoint, "lookup") as client:
        table = np.concatenate(
            [client.predict(rows) for rows in np.arange(10).reshape(2, 1, 5)],
            axis=1,
        )[0]
        futures = [
            client.submit(x, request_id=i) for i, x in enumerate(requests)
        ]
        counts = outcomes(futures)
        right = sum(
            np.array_equal(future.result(), table[rows])
            for future, rows in zip(futures, requests, strict=True)
            if future.exception() is None
        )
        error = futures[500].exception()
    tell(counts, right=right)
    assert counts == {"answer": 999, "InferenceError": 1}
    assert right == 999
    assert isinstance(error, InferenceError)
    assert "request 500 to 'lookup'" in str(error)
    assert "99" in error.server_message
    assert error.request_id == 500


def test_what_a_callback_raises_comes_out_of_get_and_nothing_is_lost(
    rig, tell
) -> None:
    def callback(y, request_id, sequence_id):
        assert sequence_id is None
        if request_id % 10 == 0:
            raise KeyError(request_id)
        return request_id, float(y.sum())

    counts, numbers = Counter(), []
    with InferenceClient(
        rig.calm.endpoint, "network", callback=callback
    ) as client:
        for number in range(100):
            client.infer(X, request_id=number)
        deadline = time.monotonic() + 20
        while counts.total() < 100 and time.monotonic() < deadline:
            try:
                found = client.get()
            except KeyError as error:
                counts["raised"] += 1
                numbers.append(error.args[0])
            else:
                if found is None:
                    time.sleep(0.001)
                else:
                    counts["answer"] += 1
                    numbers.append(found[0])
        assert client.get() is None
    tell(counts)
    assert counts == {"answer": 90, "raised": 10}
    assert sorted(numbers) == list(range(100))


# The standard library's Future logs what its callbacks raise.
def test_a_future_whose_callback_raises_harms_nobody(
    rig, outcomes, tell, caplog
) -> None:
    def explode(_: Future) -> None:
        raise OSError("from a callback")

    with InferenceClient(rig.calm.endpoint, "network") as client:
        expected = client.predict(X).tobytes()
        futures = []
        for _ in range(100):
            future = client.submit(X)
            future.add_done_callback(explode)
            futures.append(future)
        counts = outcomes(futures)
        right = sum(f.result().tobytes() == expected for f in futures)
        assert client.predict(X).tobytes() == expected
    tell(counts, right=right, logged=len(caplog.records))
    caplog.clear()
    assert counts == {"answer": 100}
    assert right == 100


def test_a_sequence_without_start_is_refused(rig) -> None:
    with InferenceClient(rig.calm.endpoint, "stream") as client:
        future = client.submit(UPDATE[None], sequence_id=7)
        with pytest.raises(InferenceError, match="START"):
            future.result(10)


def test_nothing_at_the_address_is_told_within_the_timeout(tell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ServerUnavailable, match=address):
            InferenceClient(address, "stream", connect_timeout=2)
        seconds = time.monotonic() - begin
    tell(seconds=f"{seconds:.2f}")
    assert seconds < 3


def test_a_port_that_accepts_and_says_nothing_is_told_in_time(tell) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(
            (ServerUnavailable, DeadlineExceeded), match=address
        ) as caught:
            InferenceClient(address, "stream", connect_timeout=2)
        seconds = time.monotonic() - begin
    tell(type(caught.value).__name__, seconds=f"{seconds:.2f}")
    assert seconds < 3


@pytest.mark.parametrize("port", ["http", "metrics"])
def test_the_wrong_port_of_a_server_is_told(rig, port, tell) -> None:
    address = getattr(rig.calm.endpoint, port)
    begin = time.monotonic()
    with pytest.raises(ServerUnavailable, match=address) as caught:
        InferenceClient(address, "stream", connect_timeout=2)
    seconds = time.monotonic() - begin
    tell(str(caught.value), seconds=f"{seconds:.2f}")
    assert seconds < 3
    # The server has not taken it amiss.
    connection = http.client.HTTPConnection(rig.calm.endpoint.http, timeout=5)
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().status == 200
    connection.close()


def test_requests_fail_at_once_when_nobody_listens_any_more(rig, tell) -> None:
    server = rig.serve("network")
    with InferenceClient(server.endpoint, "network", timeout=20) as client:
        client.predict(X)
        rig.kill(server)
        kinds, begin = Counter(), time.monotonic()
        for _ in range(10):
            with pytest.raises((StreamBroken, ServerUnavailable)) as caught:
                client.predict(X)
            kinds[type(caught.value).__name__] += 1
        seconds = time.monotonic() - begin
    tell(kinds, seconds=f"{seconds:.2f}")
    assert seconds < 10
