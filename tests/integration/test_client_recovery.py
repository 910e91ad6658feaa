"""Sequences that outlive their servers: complete, in order, the same bits."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient, Sequence, StreamResult
from hermes.aeriel.errors import (
    SequenceLost,
    ServerUnavailable,
    StreamBroken,
)
from hermes.aeriel.serve import Server

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

NUM_UPDATES = 400
MODELS = "stream", "batched", "averaged", "several"


def stream(
    sequence: Sequence, updates: list, events: Mapping[int, Callable]
) -> list[StreamResult]:
    """Stream, and let things happen when some of the results are there."""
    results = []
    for result in sequence.stream(updates):
        results.append(result)
        if result.index in events:
            events[result.index]()
    return results


def random_moments(seed: int) -> list[int]:
    """Three, so far apart that all that was under way has been answered.

    After the last there are updates that have not been sent: without any, a
    server that has answered all of them may be killed, and nobody notices.
    """
    draw = random.Random(seed)
    return [draw.randrange(first, first + 50) for first in (60, 185, 310)]


@pytest.fixture
def pair(rig) -> Callable[[str], list[Server]]:
    return lambda model: [rig.serve(model), rig.serve(model)]


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_outlives_three_kills_of_the_server_it_is_on(
    rig, pair, model, make_updates, assert_same, tell
) -> None:
    updates = make_updates(model, NUM_UPDATES)
    servers = pair(model)
    moments = random_moments(MODELS.index(model))
    chosen, pending = [], []

    def choose() -> None:
        server = rig.busiest(servers)
        chosen.append((server, rig.process(server)))

    def replace() -> None:
        server, process = chosen[-1]
        process.kill()
        pending.append(int(re.search(r"(\d+) pending", repr(client))[1]))
        rig.kill(server)
        servers[servers.index(server)] = rig.serve(model, at=server)

    # Asking which it is takes long: meanwhile all would be answered.
    events = dict.fromkeys(moments, replace)
    events |= {moment - 50: choose for moment in moments}
    addresses = [server.endpoint for server in servers]
    with InferenceClient(addresses, model, timeout=30) as client:
        with client.sequence(replay=True) as sequence:
            results = stream(sequence, updates, events)
        counts = assert_same(results, rig.uninterrupted(model, updates))
    recoveries = sequence.num_recoveries
    tell(counts, killed_at=moments, pending=pending, recoveries=recoveries)
    assert recoveries >= len(moments)


def test_a_kill_at_any_of_the_first_updates_changes_no_bit(
    rig, pair, make_updates, assert_same, tell
) -> None:
    """The snapshot is not full yet, and less than its updates are known."""
    updates = make_updates("averaged", 30)
    expected = rig.uninterrupted("averaged", updates)
    servers = pair("averaged")
    addresses = [server.endpoint for server in servers]
    told = []
    with InferenceClient(addresses, "averaged", timeout=30) as client:
        for moment in (0, 2, 6):
            with client.sequence(replay=True, max_in_flight=1) as sequence:
                before = [rig.num_inferences(server) for server in servers]

                def kill() -> None:
                    done = [rig.num_inferences(s) for s in servers]
                    grown = np.subtract(done, before)  # noqa: B023
                    victim = servers[int(grown.argmax())]
                    rig.kill(victim)
                    at = servers.index(victim)
                    servers[at] = rig.serve("averaged", at=victim)

                results = stream(sequence, updates, {moment: kill})
            told.append(assert_same(results, expected))
            assert sequence.num_recoveries >= 1
    tell(*told)


@pytest.mark.parametrize("model", ["stream", "several"])
def test_a_stream_outlives_a_clean_shutdown(
    rig, pair, model, make_updates, assert_same, tell
) -> None:
    """The server first refuses updates, and then ends the connection."""
    updates = make_updates(model, 1500)
    servers = pair(model)
    stopping = []

    def choose() -> None:
        server = rig.busiest(servers)
        stopping.append(threading.Thread(target=server.stop))

    def stop() -> None:
        stopping[0].start()

    events = {100: choose, 200: stop}
    addresses = [server.endpoint for server in servers]
    with InferenceClient(addresses, model, timeout=30) as client:
        with client.sequence(replay=True, stall_timeout=3) as sequence:
            results = stream(sequence, updates, events)
        counts = assert_same(results, rig.uninterrupted(model, updates))
    stopping[0].join(60)
    tell(counts, recoveries=sequence.num_recoveries)
    assert sequence.num_recoveries >= 1


def test_a_stream_leaves_a_server_that_stands_still(
    rig, pair, make_updates, assert_same, tell
) -> None:
    updates = make_updates("averaged", NUM_UPDATES)
    servers = pair("averaged")
    addresses = [server.endpoint for server in servers]
    frozen = []

    def freeze() -> None:
        process = rig.process(rig.busiest(servers))
        process.suspend()
        frozen.append(process)

    begin = time.monotonic()
    try:
        with (
            InferenceClient(addresses, "averaged", timeout=30) as client,
            client.sequence(replay=True, stall_timeout=2) as sequence,
        ):
            results = stream(sequence, updates, {150: freeze})
        seconds = time.monotonic() - begin
    finally:
        for process in frozen:
            process.resume()
    counts = assert_same(results, rig.uninterrupted("averaged", updates))
    tell(counts, recoveries=sequence.num_recoveries, seconds=round(seconds, 1))
    assert sequence.num_recoveries == 1
    assert 2 < seconds < 12


@pytest.mark.slow
def test_a_stream_waits_for_a_server_that_stands_still_for_30_s(
    rig, make_updates, assert_same, tell
) -> None:
    updates = make_updates("stream", NUM_UPDATES)
    server = rig.serve("stream")
    process = rig.process(server)
    thaw = threading.Timer(30, process.resume)

    def freeze() -> None:
        process.suspend()
        thaw.start()

    begin = time.monotonic()
    try:
        with (
            InferenceClient(server.endpoint, "stream", timeout=60) as client,
            client.sequence() as sequence,
        ):
            results = stream(sequence, updates, {150: freeze})
        seconds = time.monotonic() - begin
    finally:
        thaw.cancel()
        process.resume()
    counts = assert_same(results, rig.uninterrupted("stream", updates))
    tell(counts, seconds=round(seconds, 1))
    assert 30 < seconds < 35


@pytest.mark.parametrize("model", ["stream", "averaged"])
def test_a_stream_waits_for_its_only_server_to_be_restarted(
    rig, model, make_updates, assert_same, tell
) -> None:
    updates = make_updates(model, NUM_UPDATES)
    server = rig.serve(model)
    restart = threading.Timer(1, lambda: rig.serve(model, at=server))

    def kill() -> None:
        rig.kill(server)
        restart.start()

    with InferenceClient(server.endpoint, model, timeout=30) as client:
        with client.sequence(replay=True) as sequence:
            results = stream(sequence, updates, {200: kill})
        restart.join(30)
        counts = assert_same(results, rig.uninterrupted(model, updates))
    tell(counts, recoveries=sequence.num_recoveries)
    assert sequence.num_recoveries >= 1


def test_a_restarted_server_is_told_to_load_the_model_again(
    rig, make_updates, assert_same, tell
) -> None:
    """Servers that load models on demand begin with none."""
    updates = make_updates("stream", NUM_UPDATES)
    server = rig.serve()

    def replace() -> None:
        rig.kill(server)
        rig.serve(at=server)

    with InferenceClient(server.endpoint, "stream", timeout=30) as client:
        with client.sequence(replay=True) as sequence:
            results = stream(sequence, updates, {200: replace})
        counts = assert_same(results, rig.uninterrupted("stream", updates))
    tell(counts, recoveries=sequence.num_recoveries)


def test_single_requests_go_on_after_a_restart(rig, tell) -> None:
    server = rig.serve("network")
    x = np.random.default_rng(0).standard_normal((3, 2, 32), np.float32)
    with InferenceClient(server.endpoint, "network", timeout=10) as client:
        before = client.predict(x)
        rig.kill(server)
        with pytest.raises((StreamBroken, ServerUnavailable)) as caught:
            client.predict(x)
        rig.serve("network", at=server)
        after = client.predict(x)
        assert client.predict(x).tobytes() == before.tobytes()
    tell(between=type(caught.value).__name__, equal=(before == after).all())
    assert after.tobytes() == before.tobytes()


def test_an_idle_sequence_is_lost_and_the_error_says_why(
    rig, make_updates, tell
) -> None:
    updates = make_updates("impatient", 21)
    with (
        InferenceClient(rig.calm.endpoint, "impatient") as client,
        client.sequence(41) as sequence,
    ):
        for result in sequence.stream(updates[:20]):
            last = result
        time.sleep(3)
        lost = sequence.send(updates[20]).exception(10)
        with pytest.raises(SequenceLost, match="lost an update"):
            sequence.send(updates[20])
    tell(answered=last.index + 1, then=type(lost).__name__)
    assert isinstance(lost, SequenceLost)
    assert "idled for longer" in str(lost)
    assert "max_sequence_idle_microseconds" in str(lost)
    assert "replay=True" in str(lost)
    assert lost.request_id == 20
    assert lost.sequence_id == 41
    assert "START" in lost.server_message


def test_an_idle_sequence_is_found_again(
    rig, make_updates, assert_same, tell
) -> None:
    updates = make_updates("impatient", 60)
    with (
        InferenceClient(rig.calm.endpoint, "impatient") as client,
        client.sequence(replay=True) as sequence,
    ):
        results = list(sequence.stream(idling(updates, {20, 40})))
    # The reference is a stream of another model with the same network.
    counts = assert_same(results, rig.uninterrupted("stream", updates))
    tell(counts, recoveries=sequence.num_recoveries)
    assert sequence.num_recoveries == 2


def idling(updates: list, moments: set[int]) -> Iterator[np.ndarray]:
    for index, update in enumerate(updates):
        if index in moments:
            time.sleep(3)
        yield update


def test_a_state_that_only_its_config_declares_is_kept(rig, tell) -> None:
    updates = np.random.default_rng(0).standard_normal((50, 1, 4), np.float32)
    with InferenceClient(rig.calm.endpoint, "sum") as client:
        assert client.spec.is_stateful
        assert client.spec.stream is None
        with client.sequence() as sequence:
            answers = [r.output for r in sequence.stream(updates)]
    expected = np.cumsum(updates, axis=0, dtype=np.float32)
    tell(equal=sum(map(np.array_equal, answers, expected)))
    np.testing.assert_array_equal(answers, expected)


def test_a_state_that_no_updates_rebuild_is_lost_with_its_server(
    rig, tell, outcomes
) -> None:
    server = rig.serve("sum")
    update = np.ones((1, 4), np.float32)
    client = InferenceClient(server.endpoint, "sum", timeout=10)
    with closing(client), client.sequence(replay=True) as sequence:
        sequence.send(update).result(10)
        with rig.frozen(server):
            futures = [sequence.send(update) for _ in range(20)]
            rig.kill(server)
        counts = outcomes(futures)
        error = futures[0].exception(0)
    tell(counts)
    assert counts == {"SequenceLost": 20}
    assert "replay_updates" in str(error)
    assert error.request_id == 1
