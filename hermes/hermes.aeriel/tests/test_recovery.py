"""Streams that outlive their servers, on fake ones that do as they are told.

What a user sees must be what an undisturbed stream gives: complete, in
order, without duplicates, bit for bit.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    ClientClosed,
    DeadlineExceeded,
    InferenceError,
    SequenceEnded,
    SequenceLost,
    ServerUnavailable,
    ShapeMismatch,
)
from hermes.aeriel.testing import (
    CloseStream,
    Drop,
    Duplicate,
    Expire,
    Fail,
    FakeModel,
    FakeTriton,
    Fault,
    Freeze,
    Kill,
    Restart,
    Slow,
    Swap,
)

NUM = 120
KERNEL, STRIDE = 20, 4
UPDATES = (
    np.random.default_rng(0).standard_normal((NUM, 2, STRIDE)).astype("f4")
)


def network(kernels: np.ndarray) -> np.ndarray:
    """Depends on every sample of the kernel, and on its place."""
    return np.cumsum(kernels, axis=-1).reshape(len(kernels), -1)[:, ::3]


def model(**changes) -> FakeModel:
    sizes = {"kernel_size": KERNEL, "stride_size": STRIDE, "num_channels": 2}
    return FakeModel.streaming("stream", network, **{**sizes, **changes})


@pytest.fixture(scope="module")
def undisturbed() -> list[np.ndarray]:
    with FakeTriton(model()) as fake, connect(fake) as client:
        return outputs(client, replay=False)


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with FakeTriton(model()) as fake:
        yield fake


@pytest.fixture
def other() -> Iterator[FakeTriton]:
    with FakeTriton(model()) as other:
        yield other


def connect(*fakes: FakeTriton, **arguments) -> InferenceClient:
    addresses = [fake.endpoint for fake in fakes]
    return InferenceClient(addresses, "stream", **{"timeout": 20, **arguments})


def outputs(client: InferenceClient, **arguments) -> list[np.ndarray]:
    with client.sequence(**arguments) as sequence:
        results = list(sequence.stream(UPDATES))
    assert [result.index for result in results] == list(range(NUM))
    return [result.output for result in results]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, another in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, another, strict=True)


def own_threads() -> list[str]:
    """The clients' threads that are left, not the fakes'."""
    kinds = ("cleanup", "deadlines", "io", "peers", "replay")
    ours = tuple(f"hermes-{kind}" for kind in kinds)
    return [t.name for t in threading.enumerate() if t.name.startswith(ours)]


@pytest.mark.parametrize("at", [1, 2, 3, 7, 40, NUM])
@pytest.mark.parametrize("fault", [Restart, Drop, Expire, CloseStream])
def test_a_fault_leaves_no_trace(fake, undisturbed, fault, at) -> None:
    fake.inject(fault(at=at))
    with connect(fake) as client:
        assert_same(outputs(client, replay=True), undisturbed)
    assert own_threads() == []


def test_a_killed_servers_stream_goes_on_elsewhere(
    fake, other, undisturbed
) -> None:
    with connect(fake, other) as client, client.sequence(replay=True) as s:
        found = []
        for result in s.stream(UPDATES):
            found.append(result.output)
            if result.index == 50:
                (fake if fake.num_requests else other).kill()
        assert_same(found, undisturbed)
        assert s.num_recoveries == 1
        assert "1 recoveries" in repr(s)


def test_a_stream_goes_to_and_fro(fake, other, undisturbed) -> None:
    """Each server dies in turn, and is back when the other one does."""
    with connect(fake, other) as client, client.sequence(replay=True) as s:
        found = []
        for result in s.stream(UPDATES):
            found.append(result.output)
            if result.index % 40 == 39:
                victim = fake if result.index % 80 == 39 else other
                victim.restart()
                time.sleep(0.1)
        assert_same(found, undisturbed)


def test_a_frozen_server_is_left_behind(fake, other, undisturbed) -> None:
    fake.inject(Freeze(at=30))
    with connect(fake, other) as client:
        found = outputs(client, replay=True, stall_timeout=0.5)
        assert_same(found, undisturbed)
        assert not client._link.peers.all[0].is_good


def test_many_faults_leave_no_trace(undisturbed) -> None:
    counts: Counter[str] = Counter()
    for seed in range(12):
        faults = random_faults(random.Random(seed))
        with (
            FakeTriton(model(), faults=faults) as fake,
            connect(fake) as client,
        ):
            assert_same(outputs(client, replay=True), undisturbed)
        left = len(fake.faults)
        counts.update(type(fault).__name__ for fault in faults)
        counts["left over"] += left
    print(dict(counts))
    assert counts["left over"] < counts.total() / 2


def random_faults(choose: random.Random) -> list[Fault]:
    kinds = [Restart, Drop, Expire, CloseStream, Duplicate, Swap]
    return [
        choose.choice(kinds)(at=choose.randrange(1, 2 * NUM))
        for _ in range(choose.randrange(1, 6))
    ]


def test_a_batched_stream_recovers(undisturbed) -> None:
    """Updates of several kernels, and of more than a kernel."""
    for batch_size in (3, 8):
        size = STRIDE * batch_size
        updates = np.concatenate(UPDATES, axis=-1)[:, : NUM // 8 * size]
        parts = np.split(updates, updates.shape[-1] // size, axis=-1)
        fault = Restart(at=len(parts) // 2)
        batched = model(batch_size=batch_size)
        with (
            FakeTriton(batched, faults=[fault]) as fake,
            connect(fake) as client,
            client.sequence(replay=True) as s,
        ):
            found = [result.output for result in s.stream(parts)]
            assert s.num_recoveries == 1
        joined = np.concatenate(found)
        expected = np.concatenate(undisturbed)[: len(joined)]
        np.testing.assert_array_equal(joined, expected)


def test_buffers_may_be_reused(fake, undisturbed) -> None:
    """What is sent again is what was given, whatever is there now."""
    fake.inject(Restart(at=60))
    buffer = np.empty((2, STRIDE), np.float32)

    def updates() -> Iterator[np.ndarray]:
        for update in UPDATES:
            buffer[:] = update
            yield buffer

    with connect(fake) as client, client.sequence(replay=True) as s:
        found = [result.output for result in s.stream(updates())]
    assert_same(found, undisturbed)


def test_only_what_rebuilds_the_state_is_sent_again(fake) -> None:
    with connect(fake) as client, client.sequence(replay=True) as s:
        for update in UPDATES[:50]:
            s.send(update).result()
        depth = client.spec.stream.replay_updates
        fake.restart()
        before = fake.num_requests
        s.send(UPDATES[50]).result()
        again = [*fake.requests[before:]]
    assert again.pop(0).sequence_end  # see below
    assert len(again) == depth + 1
    assert [r.sequence_start for r in again] == [True] + [False] * depth


def test_the_old_sequence_is_ended_first_on_the_same_server(fake) -> None:
    """It may hold the only place that the server has."""
    with connect(fake) as client, client.sequence(replay=True) as s:
        s.send(UPDATES[0]).result()
        old = fake.requests[-1].sequence_id
        fake.drop()
        s.send(UPDATES[1]).result()
        ends = [r for r in fake.requests if r.sequence_end]
        assert [r.sequence_id for r in ends] == [old]
        # START, too: some models of an ensemble may not know it any more,
        # and would keep the END from those that do
        assert ends[0].sequence_start
        assert fake.requests[-1].sequence_id != old
        assert s.id == old  # to its user it is the same


def test_no_lost_sequence_is_forgotten_on_the_server(fake) -> None:
    """The connection goes again before the first is known to have ended."""
    with connect(fake) as client, client.sequence(replay=True) as s:
        s.send(UPDATES[0]).result()
        fake.inject(Drop(at=1), Drop(at=2))
        s.send(UPDATES[1]).result(5)
        ends = [r.sequence_id for r in fake.requests if r.sequence_end]
        assert s.num_recoveries == 2
        assert s.id in ends[-2:]
        assert len({*ends}) == 2
    wait_until(lambda: fake.sequences == ())


def test_what_begins_after_its_end_is_ended_again(fake) -> None:
    """Some of the old connection's requests may come late, START and all."""
    with connect(fake) as client, client.sequence(replay=True) as s:
        s.send(UPDATES[0]).result()
        fake.drop()
        # the end of the lost sequence, and the beginning of the new one
        fake.inject(Slow(0.8, at=2))
        s.send(UPDATES[1]).result(5)
        wait_until(lambda: len([*ends(fake)]) == 2)
        assert {*ends(fake)} == {s.id}


def ends(fake: FakeTriton) -> Iterator[int]:
    return (r.sequence_id for r in fake.requests if r.sequence_end)


def test_a_sequence_that_does_not_replay_is_lost(fake) -> None:
    with connect(fake) as client, client.sequence() as s:
        s.send(UPDATES[0]).result()
        fake.expire()
        future = s.send(UPDATES[1])
        with pytest.raises(SequenceLost, match=r"idled .*replay=True") as e:
            future.result(5)
        assert "must specify the START flag" in e.value.server_message
        assert e.value.sequence_id == s.id
        assert e.value.request_id == 1
        with pytest.raises(SequenceLost, match="begin another one"):
            s.send(UPDATES[2])


STOPPING = (
    "in ensemble 'stream', [request id: 27] Server is stopping, scheduler for"
    " model has stopped accepting new inference requests"
)


def test_a_server_that_shuts_down_refuses_and_is_left(
    fake, other, undisturbed
) -> None:
    """What the real one says between SIGTERM and its end."""
    fake.inject(Fail(at=30, message=STOPPING, num=None))
    with connect(fake, other) as client:
        assert_same(outputs(client, replay=True), undisturbed)
        assert not client._link.peers.all[0].is_good
    with connect(fake) as client, client.sequence() as sequence:
        fake.inject(Fail(message=STOPPING))
        with pytest.raises(ServerUnavailable, match="is stopping"):
            sequence.send(UPDATES[0]).result(5)


def test_a_sequence_whose_server_went_while_it_idled_is_lost(fake) -> None:
    with connect(fake) as client, client.sequence() as s:
        s.send(UPDATES[0]).result()
        fake.restart()
        with pytest.raises(ConnectionError, match="replay=True"):
            s.send(UPDATES[1]).result(5)


@pytest.mark.parametrize("pause", [0, 0.2])
def test_who_streams_without_replay_is_told_that_the_server_is_gone(
    fake, pause
) -> None:
    """Whether updates are under way when it goes, or none."""

    def updates() -> Iterator[np.ndarray]:
        yield from UPDATES[:20]
        time.sleep(pause)
        fake.kill()
        time.sleep(pause)
        yield from UPDATES[20:]

    with connect(fake) as client, client.sequence() as sequence:
        with pytest.raises(ServerUnavailable, match="replay=True"):
            list(sequence.stream(updates()))
        with pytest.raises(ServerUnavailable, match="begin another one"):
            sequence.send(UPDATES[20])


def test_results_come_before_the_error_of_what_cannot_be_sent(fake) -> None:
    fake.inject(Slow(seconds=0.02))
    updates = [*UPDATES[:5], np.zeros((3, STRIDE), "f4")]
    found = []
    with (
        connect(fake) as client,
        client.sequence() as sequence,
        pytest.raises(ShapeMismatch),
    ):
        found.extend(r.index for r in sequence.stream(updates))
    assert found == [0, 1, 2, 3, 4]


def test_a_state_of_unbounded_memory_is_lost() -> None:
    adder = FakeModel.stateful(
        "stream",
        lambda state, x: (state + x, state + x),
        np.zeros((1, 3), np.float32),
        {"x": ("FP32", [1, 3])},
        {"y": ("FP32", [1, 3])},
    )
    x = np.ones((1, 3), np.float32)
    with (
        FakeTriton(adder, faults=[Restart(at=5)]) as fake,
        connect(fake) as client,
        client.sequence(replay=True) as s,
    ):
        for _ in range(4):
            s.send(x).result()
        with pytest.raises(SequenceLost, match="cannot be rebuilt"):
            s.send(x).result(5)


@pytest.mark.parametrize("replay", [False, True])
def test_an_update_that_fails_takes_those_behind_it_along(
    fake, undisturbed, replay
) -> None:
    """Their answers may be those to another stream: nobody can know."""
    fake.inject(Slow(seconds=0.005), Fail(at=11, message="poisoned"))
    with connect(fake) as client, client.sequence(replay=replay) as s:
        futures = [s.send(update) for update in UPDATES[:30]]
        errors = [future.exception(5) for future in futures]
        with pytest.raises(SequenceLost, match="poisoned"):
            s.send(UPDATES[30])
    kinds = [type(error).__name__ for error in errors]
    assert (
        kinds == ["NoneType"] * 10 + ["InferenceError"] + ["SequenceLost"] * 19
    )
    print(Counter(kinds))
    assert errors[15].__cause__ is not None
    assert errors[15].request_id == 15
    assert_same([f.result().output for f in futures[:10]], undisturbed[:10])
    fake.wait_for_requests(31)
    assert fake.sequences == ()  # and its place is free


def test_a_state_that_cannot_be_rebuilt_is_lost(fake) -> None:
    with connect(fake) as client, client.sequence(replay=True) as s:
        for update in UPDATES[:10]:
            s.send(update).result()
        fake.restart()
        fake.inject(Fail(at=3, message="out of memory"))
        with pytest.raises(SequenceLost, match="rebuilt: out of memory") as e:
            s.send(UPDATES[10]).result(5)
        assert e.value.server_message == "out of memory"


def test_a_recovery_ends_at_the_deadline(fake) -> None:
    with (
        connect(fake, timeout=1.5) as client,
        client.sequence(replay=True) as s,
    ):
        s.send(UPDATES[0]).result()
        fake.kill()
        began = time.monotonic()
        futures = [s.send(update) for update in UPDATES[1:5]]
        with pytest.raises(DeadlineExceeded, match="nor a server to go"):
            futures[0].result(5)
        assert 1.3 < time.monotonic() - began < 2.5
        for future in futures[1:]:
            assert isinstance(
                future.exception(1), DeadlineExceeded | SequenceLost
            )
    assert own_threads() == []


def test_a_server_that_dies_again_and_again_is_not_hammered(fake) -> None:
    fake.inject(Drop(at=5, num=None))
    with (
        connect(fake, timeout=2) as client,
        client.sequence(replay=True) as s,
    ):
        futures = [s.send(update) for update in UPDATES[:10]]
        with pytest.raises(SequenceLost, match="Connection reset"):
            futures[-1].result(5)
        assert s.num_recoveries < 30


def test_closing_ends_a_recovery_at_once(fake) -> None:
    with connect(fake) as client:
        sequence = client.sequence(replay=True)
        sequence.send(UPDATES[0]).result()
        fake.kill()
        future = sequence.send(UPDATES[1])
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    with pytest.raises(ClientClosed):
        future.result(0)
    assert own_threads() == []


def test_leaving_while_it_recovers_loses_nothing(fake, undisturbed) -> None:
    with connect(fake) as client:
        fake.inject(Kill(at=10))
        with client.sequence(replay=True) as sequence:
            futures = [sequence.send(update) for update in UPDATES[:20]]
            time.sleep(0.2)
        with pytest.raises(SequenceEnded, match="has ended"):
            sequence.send(UPDATES[20])
        fake.restart()
        found = [future.result(10).output for future in futures]
        assert_same(found, undisturbed[:20])


def wait_until(condition, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lost_sequence_does_not_keep_its_place(fake) -> None:
    """Else nobody could have it until the server's idle timeout."""
    update = UPDATES[:1]
    with connect(fake) as client:
        sequences = [client.sequence() for _ in range(2)]
        for sequence in sequences:
            sequence.send(UPDATES[0]).result(5)
        client.submit(update, 0, 9, sequence_start=True).result(5)
        assert len(fake.sequences) == 3
        fake.refuse()
        fake.drop()
        for sequence in sequences:
            with pytest.raises((SequenceLost, ConnectionError)):
                sequence.send(UPDATES[1]).result(5)
        with pytest.raises((SequenceLost, ConnectionError)):
            client.submit(update, 1, 9).result(5)
        fake.refuse(False)
        wait_until(lambda: fake.sequences == ())
    assert own_threads() == []


def test_a_server_that_was_left_keeps_no_place(
    fake, other, undisturbed
) -> None:
    fake.inject(Freeze(at=30))
    with connect(fake, other) as client:
        found = outputs(client, replay=True, stall_timeout=0.5)
        assert_same(found, undisturbed)
        assert len(fake.sequences) == 1
        fake.thaw()
        wait_until(lambda: fake.sequences == ())
    assert own_threads() == []


def test_leaving_many_sequences_takes_no_longer_than_one(fake) -> None:
    """Of a server that stands still: Ctrl-C is not to wait for each."""
    with (
        connect(fake) as client,
        client.sequence() as a,
        client.sequence() as b,
        client.sequence() as c,
    ):
        for sequence in (a, b, c):
            sequence.send(UPDATES[0]).result(5)
        fake.freeze()
        futures = [s.send(UPDATES[1]) for s in (a, b, c)]
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert all(isinstance(f.exception(0), ClientClosed) for f in futures)


def test_a_source_that_raises_loses_no_results(fake, undisturbed) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from UPDATES[:7]
        raise OSError("the disk is gone")

    found = []
    with connect(fake) as client, client.sequence() as sequence:
        results = sequence.stream(source())
        with pytest.raises(OSError, match="the disk is gone"):
            found.extend(result.output for result in results)
    assert_same(found, undisturbed[:7])


def test_sequences_spread_over_the_servers(fake, other) -> None:
    with connect(fake, other) as client:
        deadline = time.monotonic() + 5
        while not all(p.is_good for p in client._link.peers.all):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(4):
            with client.sequence() as sequence:
                sequence.send(UPDATES[0]).result(5)
    assert len(fake.sequences) == len(other.sequences) == 0
    starts = [sum(r.sequence_start for r in f.requests) for f in (fake, other)]
    assert starts == [2, 2]


def test_a_server_that_is_back_is_used_again(fake, other) -> None:
    with connect(fake, other) as client:
        fake.kill()
        for _ in range(3):
            with client.sequence(replay=True) as sequence:
                sequence.send(UPDATES[0]).result(5)
        fake.restart()
        deadline = time.monotonic() + 8
        while not all(p.is_good for p in client._link.peers.all):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        other.kill()
        with client.sequence(replay=True) as sequence:
            sequence.send(UPDATES[0]).result(5)


def test_a_server_with_another_model_is_not_used(fake) -> None:
    with FakeTriton(model(stride_size=5)) as strange:
        with (
            connect(fake, strange, timeout=2) as client,
            client.sequence(replay=True) as sequence,
        ):
            sequence.send(UPDATES[0]).result(5)
            fake.kill()
            with pytest.raises(DeadlineExceeded):
                sequence.send(UPDATES[1]).result(5)
        assert strange.num_requests == 0


def test_a_slow_reader_is_bounded(fake, undisturbed) -> None:
    """send() waits for room; a Future's callback must not, and does not."""
    with (
        connect(fake) as client,
        client.sequence(max_in_flight=4) as sequence,
    ):
        fake.freeze()
        futures = [sequence.send(update) for update in UPDATES[:4]]
        with pytest.raises(DeadlineExceeded, match="max_in_flight"):
            sequence.send(UPDATES[4], timeout=0.3)
        fake.thaw()
        # it was not sent, so nothing is lost
        futures += [sequence.send(update) for update in UPDATES[4:9]]
        found = [future.result(5).output for future in futures]
    assert_same(found, undisturbed[:9])


def test_a_callback_may_send(fake, undisturbed) -> None:
    done = threading.Event()
    found: list[np.ndarray] = []
    with (
        connect(fake) as client,
        client.sequence(max_in_flight=1) as sequence,
    ):

        def go_on(future) -> None:
            found.append(future.result().output)
            if len(found) == 10:
                done.set()
            else:
                sequence.send(UPDATES[len(found)]).add_done_callback(go_on)

        sequence.send(UPDATES[0]).add_done_callback(go_on)
        assert done.wait(5)
    assert_same(found, undisturbed[:10])


def test_an_error_says_whose_it_is(fake) -> None:
    with (
        connect(fake) as client,
        client.sequence(sequence_id=77) as sequence,
    ):
        fake.inject(Fail(at=1, message="out of memory"))
        with pytest.raises(InferenceError, match="sequence 77") as e:
            sequence.send(UPDATES[0]).result(5)
    assert e.value.request_id == 0
    assert e.value.sequence_id == 77
    assert e.value.server_message == "out of memory"
