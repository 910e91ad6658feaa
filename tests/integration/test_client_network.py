"""The client when the network between it and the real server is bad."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    DeadlineExceeded,
    ServerUnavailable,
    StreamBroken,
)
from hermes.aeriel.testing import FaultyProxy

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

UPDATE = np.ones((2, 8), np.float32)
X = np.arange(64, dtype=np.float32).reshape(1, 2, 32) / 64


@pytest.fixture
def proxy(rig) -> Iterator[FaultyProxy]:
    with FaultyProxy(rig.calm.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy_of_its_own(rig) -> Iterator[FaultyProxy]:
    """In front of a server of its own: what a reset leaves there stays."""
    with FaultyProxy(rig.serve("stream").endpoint) as proxy:
        yield proxy


@pytest.fixture
def on_resets(rig, tell) -> Iterator[Callable[..., None]]:
    """The same, for work with many resets.

    Triton 24.10 may crash (in its gRPC endpoint) when it answers on a stream
    that is just being reset. That is not what is tested here: then the work is
    done again, on another server.
    """
    with ExitStack() as proxies:

        def do(model: str, work: Callable[[FaultyProxy], object]) -> None:
            for left in (2, 1, 0):
                server = rig.serve(model)
                proxy = proxies.enter_context(FaultyProxy(server.endpoint))
                try:
                    work(proxy)
                except DeadlineExceeded:
                    if not left or "Signal (11) received" not in server.logs():
                        raise
                    tell("Triton has crashed")
                else:
                    return

        yield do


def test_deadlines_hold_while_nothing_moves_and_what_waits_arrives(
    proxy, outcomes, tell
) -> None:
    with InferenceClient(proxy.endpoint, "network") as client:
        expected = client.predict(X).tobytes()
        proxy.stall()
        begin = time.monotonic()
        short = [client.submit(X, n, timeout=1) for n in range(50)]
        long = [client.submit(X, n, timeout=30) for n in range(50)]
        late = outcomes(short)
        seconds = time.monotonic() - begin
        assert not any(future.done() for future in long)
        proxy.resume()
        in_time = outcomes(long)
        right = sum(f.result(0).tobytes() == expected for f in long)
        assert client.predict(X, timeout=10).tobytes() == expected
    tell(late, in_time, right=right, seconds=f"{seconds:.3f}")
    assert late == {"DeadlineExceeded": 50}
    assert in_time == {"answer": 50}
    assert right == 50
    assert 1 <= seconds < 1.3


def test_a_stream_goes_on_after_a_stall(
    rig, proxy, make_updates, assert_same, tell
) -> None:
    updates = make_updates("averaged", 400)
    stalls = [50, 150, 333]
    resumes = []
    results = []
    with (
        InferenceClient(proxy.endpoint, "averaged", timeout=30) as client,
        client.sequence() as sequence,
    ):
        for result in sequence.stream(updates):
            results.append(result)
            if result.index in stalls:
                proxy.stall()
                resumes.append(threading.Timer(1, proxy.resume))
                resumes[-1].start()
    for resume in resumes:
        resume.join(10)
    tell(assert_same(results, rig.uninterrupted("averaged", updates)))


def test_a_long_way_does_not_destroy_the_throughput_of_what_is_in_flight(
    rig, proxy, make_updates, assert_same, tell
) -> None:
    updates = make_updates("stream", 200)
    proxy.delay(0.1)
    with (
        InferenceClient(proxy.endpoint, "stream", timeout=30) as client,
        client.sequence(max_in_flight=32) as sequence,
    ):
        begin = time.monotonic()
        results = list(sequence.stream(updates))
        seconds = time.monotonic() - begin
        begin = time.monotonic()
        sequence.send(updates[0]).result(10)
        way = time.monotonic() - begin
    counts = assert_same(results, rig.uninterrupted("stream", updates))
    tell(counts, seconds=f"{seconds:.2f}", there_and_back=f"{way:.3f}")
    assert way >= 0.2
    # One after another they would take 40 s; seven rounds take 1.4 s.
    assert seconds < 5


@pytest.mark.parametrize("model", ["stream", "averaged", "several"])
def test_a_stream_outlives_resets_of_its_connection(
    rig, on_resets, model, make_updates, assert_same, tell
) -> None:
    """The server still holds the old sequence, in the only place it has."""
    updates = make_updates(model, 400)
    drops = {70, 200, 201, 330}

    def stream(proxy: FaultyProxy) -> None:
        results, pending = [], []
        with InferenceClient(proxy.endpoint, model, timeout=30) as client:
            with client.sequence(replay=True) as sequence:
                for result in sequence.stream(updates):
                    results.append(result)
                    if result.index in drops:
                        pending.append(repr(client).split()[-2])
                        proxy.drop()
            counts = assert_same(results, rig.uninterrupted(model, updates))
        recoveries = sequence.num_recoveries
        tell(counts, recoveries=recoveries, pending=pending)
        assert recoveries >= 3

    on_resets(model, stream)


@pytest.mark.parametrize("model", ["stream", "several"])
def test_a_reset_in_the_middle_of_a_recovery_is_recovered_from_too(
    rig, on_resets, model, make_updates, assert_same, tell
) -> None:
    """What the server began in the recovery must not keep its only place."""
    updates = make_updates(model, 100)
    expected = rig.uninterrupted(model, updates)
    gaps = iter(np.random.default_rng(0).uniform(0.002, 0.02, 30))
    counts: Counter[str] = Counter()
    recoveries: Counter[int] = Counter()

    def stream_all(proxy: FaultyProxy) -> None:
        for gap in gaps:
            results = []
            with (
                InferenceClient(proxy.endpoint, model, timeout=30) as client,
                client.sequence(replay=True) as sequence,
            ):
                for result in sequence.stream(updates):
                    results.append(result)
                    if result.index == 40:
                        proxy.drop()
                        time.sleep(gap)
                        proxy.drop()
            counts.update(assert_same(results, expected))
            recoveries[sequence.num_recoveries] += 1

    on_resets(model, stream_all)
    tell(counts, recoveries)
    # Where Triton has crashed, one of the streams is missing.
    assert counts == {"equal": 100 * sum(recoveries.values())}
    assert sum(recoveries.values()) >= 28


def test_a_stream_outlives_a_network_that_is_gone_for_a_while(
    rig, proxy_of_its_own, make_updates, assert_same, tell
) -> None:
    proxy = proxy_of_its_own
    updates = make_updates("stream", 300)
    back = threading.Timer(3, lambda: proxy.refuse(False))
    results = []
    with (
        InferenceClient(proxy.endpoint, "stream", timeout=30) as client,
        client.sequence(replay=True) as sequence,
    ):
        for result in sequence.stream(updates):
            results.append(result)
            if result.index == 100:
                proxy.refuse()
                proxy.drop()
                back.start()
    back.join(10)
    counts = assert_same(results, rig.uninterrupted("stream", updates))
    tell(counts, recoveries=sequence.num_recoveries)
    assert sequence.num_recoveries >= 1


def test_a_reset_without_replay_is_told_and_the_client_goes_on(
    proxy_of_its_own, outcomes, tell
) -> None:
    proxy = proxy_of_its_own
    with InferenceClient(proxy.endpoint, "stream", timeout=20) as client:
        sequence = client.sequence(3, max_in_flight=100)
        sequence.send(UPDATE).result(10)
        proxy.stall()
        futures = [sequence.send(UPDATE) for _ in range(50)]
        proxy.drop()
        counts = outcomes(futures)
        with pytest.raises((ServerUnavailable, StreamBroken)):
            sequence.send(UPDATE)
        sequence.close()
        proxy.resume()
    tell(counts)
    assert set(counts) <= {"StreamBroken", "ServerUnavailable", "SequenceLost"}
    assert counts.total() == 50
    for number, future in enumerate(futures, start=1):
        assert future.exception(0).request_id == number
        assert future.exception(0).sequence_id == 3


def test_a_stalled_network_does_not_keep_a_client_from_closing(
    proxy, outcomes, tell
) -> None:
    client = InferenceClient(proxy.endpoint, "network")
    client.predict(X)
    proxy.stall()
    futures = [client.submit(X) for _ in range(100)]
    begin = time.monotonic()
    client.close()
    seconds = time.monotonic() - begin
    counts = outcomes(futures)
    tell(counts, closed_in=f"{seconds:.3f} s")
    assert seconds < 1
    assert counts == {"ClientClosed": 100}


def test_a_stall_in_the_middle_of_large_requests_blocks_nobody(
    rig, proxy, outcomes, tell
) -> None:
    """Buffers are full: a request cannot even be sent in time."""
    rows = np.random.default_rng(0).standard_normal(
        (4096, 2, 32), np.float32
    )  # one megabyte
    with (
        InferenceClient(proxy.endpoint, "network", timeout=30) as client,
        InferenceClient(rig.calm.endpoint, "network") as direct,
    ):
        expected = direct.predict(rows).tobytes()
        assert client.predict(rows).tobytes() == expected
        proxy.stall()
        begin = time.monotonic()
        futures = [client.submit(rows, timeout=2) for _ in range(16)]
        sending = time.monotonic() - begin
        counts = outcomes(futures)
        seconds = time.monotonic() - begin
        proxy.resume()
        assert client.predict(rows, timeout=20).tobytes() == expected
    tell(counts, sending=f"{sending:.2f}", seconds=f"{seconds:.2f}")
    assert counts == {DeadlineExceeded.__name__: 16}
    assert seconds < 3


def test_a_thin_network_changes_no_bit(
    rig, proxy, make_updates, assert_same, tell
) -> None:
    updates = make_updates("several", 100)
    proxy.throttle(100_000)
    proxy.delay(0.02)
    with (
        InferenceClient(proxy.endpoint, "several", timeout=30) as client,
        client.sequence() as sequence,
    ):
        results = list(sequence.stream(updates))
    counts: Counter[str] = assert_same(
        results, rig.uninterrupted("several", updates)
    )
    tell(counts)
