"""Faults on order, seen with Triton's own stubs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Self

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes.aeriel.testing import (
    CloseStream,
    Drop,
    Duplicate,
    Expire,
    Fail,
    FakeModel,
    FakeTriton,
    Freeze,
    Garble,
    InvalidFake,
    Kill,
    Lose,
    Restart,
    Slow,
    Swap,
)

X = ("FP32", [2])


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    double = FakeModel.of("double", lambda x: 2 * x, {"x": X}, {"y": X})
    total = FakeModel.stateful(
        "total", lambda s, x: (s + x, s + x), 0, {"x": X}, {"y": X}
    )
    with FakeTriton(double, total) as fake:
        yield fake


def question(number: int, model: str = "double", **parameters):
    message = service_pb2.ModelInferRequest(model_name=model, id=str(number))
    message.inputs.add(name="x", datatype="FP32", shape=[2])
    content = np.full(2, number, np.float32).tobytes()
    message.raw_input_contents.append(content)
    if "sequence_id" in parameters:
        sequence_id = parameters.pop("sequence_id")
        message.parameters["sequence_id"].int64_param = sequence_id
    for name, value in parameters.items():
        message.parameters[name].bool_param = value
    return message


class Wire:
    """A channel with one stream, and what arrived on it."""

    def __init__(self, fake: FakeTriton) -> None:
        self._channel = grpc.insecure_channel(
            fake.endpoint.grpc,
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._call = self.stub.ModelStreamInfer(iter(self._queue.get, None))
        self.answers: queue.Queue = queue.Queue()
        self.code: grpc.StatusCode | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._call.cancel()
        self._queue.put(None)
        self._reader.join(5)
        self._channel.close()

    def send(self, *numbers: int, **parameters) -> None:
        for number in numbers:
            self._queue.put(question(number, **parameters))

    def take(self, num: int = 1) -> list[str]:
        """Ids of the next answers, or their errors."""
        several = [self.answers.get(timeout=5) for _ in range(num)]
        return [a.error_message or a.infer_response.id for a in several]

    def finish(self) -> grpc.StatusCode | None:
        """How the stream ended."""
        self._queue.put(None)
        return self.end()

    def end(self) -> grpc.StatusCode | None:
        self._reader.join(5)
        assert not self._reader.is_alive()
        return self.code

    def _read(self) -> None:
        try:
            for answer in self._call:
                self.answers.put(answer)
        except grpc.RpcError:
            pass
        self.code = self._call.code()


@pytest.fixture
def wire(fake) -> Iterator[Wire]:
    with Wire(fake) as wire:
        yield wire


def values(answer) -> np.ndarray:
    (content,) = answer.infer_response.raw_output_contents
    return np.frombuffer(content, np.float32)


def test_a_frozen_server_answers_what_came_before_and_then_nothing(
    fake, wire
) -> None:
    fake.inject(Freeze(at=3))
    wire.send(1, 2, 3, 4)
    assert wire.take(2) == ["1", "2"]
    time.sleep(0.2)
    assert wire.answers.empty()
    assert fake.num_requests == 3
    assert "frozen" in repr(fake)
    with Wire(fake) as late:  # connects, as to a process that is stopped
        late.send(5)
        with pytest.raises(grpc.RpcError, match="Deadline Exceeded"):
            late.stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=0.2)
        fake.thaw()
        assert late.take() == ["5"]
    assert wire.take(2) == ["3", "4"]


def test_a_freeze_can_end_by_itself(fake, wire) -> None:
    fake.inject(Freeze(0.2, at=2))
    begin = time.monotonic()
    wire.send(1, 2)
    assert wire.take(2) == ["1", "2"]
    assert 0.2 <= time.monotonic() - begin < 2


def test_a_drop_resets_after_the_answers_before_it(fake, wire) -> None:
    wire.send(0)
    wire.take()
    fake.inject(Drop(at=3))
    wire.send(1, 2)
    assert wire.take(2) == ["1", "2"]
    wire.send(3, 4)
    assert wire.end() is grpc.StatusCode.UNAVAILABLE
    assert wire.answers.empty()
    with Wire(fake) as again:
        again.send(5)
        assert again.take() == ["5"]
    assert fake.faults == ()


def test_a_stream_can_end_as_if_all_were_well(fake, wire) -> None:
    fake.inject(CloseStream(at=2))
    wire.send(1, 2, 3)
    assert wire.take() == ["1"]
    assert wire.end() is grpc.StatusCode.OK
    assert wire.answers.empty()
    assert fake.num_requests == 2


def test_one_request_fails_alone(fake, wire) -> None:
    fake.inject(Fail("out of memory", at=2))
    wire.send(1, 2, 3)
    answers = [wire.answers.get(timeout=5) for _ in range(3)]
    assert [a.error_message for a in answers] == ["", "out of memory", ""]
    assert [a.infer_response.id for a in answers] == ["1", "2", "3"]


def test_an_error_need_not_say_whose_it_is(fake, wire) -> None:
    fake.inject(Fail("out of memory", with_id=False))
    wire.send(1)
    answer = wire.answers.get(timeout=5)
    assert answer.error_message == "out of memory"
    assert answer.infer_response.id == ""


def test_slow_answers_come_one_after_another(fake, wire) -> None:
    fake.inject(Slow(0.1, at=2, num=2))
    begin = time.monotonic()
    wire.send(1, 2, 3, 4)
    assert wire.take(4) == ["1", "2", "3", "4"]
    assert 0.2 <= time.monotonic() - begin < 2
    fake.inject(Slow(0.01))
    assert fake.faults == (Slow(0.01),)
    wire.send(5)
    assert wire.take() == ["5"]
    assert fake.faults == (Slow(0.01),)
    fake.heal()
    assert fake.faults == ()


def test_answers_can_change_places(fake, wire) -> None:
    fake.inject(Swap(at=2), Swap(at=5))
    wire.send(1, 2, 3, 4, 5)
    assert wire.take(4) == ["1", "3", "2", "4"]
    # nothing comes after it that it could wait for
    assert wire.finish() is grpc.StatusCode.OK
    assert wire.take() == ["5"]


def test_answers_can_be_lost_and_come_twice(fake, wire) -> None:
    fake.inject(Lose(at=1, num=2), Duplicate(at=4))
    wire.send(1, 2, 3, 4, 5)
    assert wire.take(4) == ["3", "4", "4", "5"]


def test_answers_can_be_something_else(fake, wire) -> None:
    other = {"q": np.zeros((3, 1), np.int64)}
    fake.inject(Garble(other), Garble(at=2))
    wire.send(1, 2, 3)
    answers = [wire.answers.get(timeout=5).infer_response for _ in range(3)]
    assert answers[0].outputs[0].name == "q"
    assert answers[0].outputs[0].datatype == "INT64"
    assert [*answers[0].outputs[0].shape] == [3, 1]
    assert [len(a.raw_output_contents[0]) for a in answers] == [24, 4, 8]
    assert [*answers[1].outputs[0].shape] == [2]


def test_a_lost_answer_was_seen_by_the_model_and_a_failed_one_not(
    fake, wire
) -> None:
    fake.inject(Lose(at=2), Fail(at=3))
    wire.send(1, model="total", sequence_id=7, sequence_start=True)
    wire.send(2, 4, 8, model="total", sequence_id=7)
    answers = [wire.answers.get(timeout=5) for _ in range(3)]
    assert values(answers[0])[0] == 1
    assert answers[1].error_message
    assert values(answers[2])[0] == 1 + 2 + 8


def test_sequences_expire_on_order(fake, wire) -> None:
    fake.inject(Expire(7, at=3))
    for sequence_id in 7, 8:
        wire.send(
            1, model="total", sequence_id=sequence_id, sequence_start=True
        )
    wire.send(2, model="total", sequence_id=7)
    wire.send(3, model="total", sequence_id=8)
    assert wire.take(2) == ["1", "1"]
    assert "sequence 7 to model 'total' must specify" in wire.take()[0]
    assert wire.take() == ["3"]
    assert fake.sequences == (("total", 8),)
    fake.expire()
    assert fake.sequences == ()


def test_a_killed_server_is_gone_until_it_is_restarted(fake, wire) -> None:
    wire.send(1, model="total", sequence_id=7, sequence_start=True)
    wire.take()
    fake.inject(Kill())
    wire.send(2, model="total", sequence_id=7)
    assert wire.end() is grpc.StatusCode.UNAVAILABLE
    assert "stopped" in repr(fake)
    with pytest.raises(grpc.RpcError, match="refused"):
        wire.stub.ServerLive(service_pb2.ServerLiveRequest())
    fake.refuse(False)  # does not bring it back
    fake.restart()
    with Wire(fake) as again:
        again.send(3, model="total", sequence_id=7)
        assert "must specify the START flag" in again.take()[0]


def test_a_server_can_be_another_one_at_once(fake, wire) -> None:
    fake.inject(Restart(at=2))
    wire.send(1, model="total", sequence_id=7, sequence_start=True)
    wire.send(2, model="total", sequence_id=7)
    assert wire.end() is grpc.StatusCode.UNAVAILABLE
    with Wire(fake) as again:
        again.send(3, model="total", sequence_id=7)
        assert "must specify the START flag" in again.take()[0]


def test_a_stopped_server_says_goodbye(fake, wire) -> None:
    wire.send(1)
    wire.take()
    port = fake.endpoint.grpc
    fake.stop()
    fake.stop()
    assert wire.end() in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }
    fake.restart()
    assert fake.endpoint.grpc == port
    with Wire(fake) as again:
        again.send(2)
        assert again.take() == ["2"]


def test_new_connections_can_be_refused(fake, wire) -> None:
    wire.send(1)
    wire.take()
    fake.refuse()
    with Wire(fake) as refused:
        assert refused.end() is grpc.StatusCode.UNAVAILABLE
    wire.send(2)
    assert wire.take() == ["2"]
    fake.heal()
    with Wire(fake) as welcome:
        welcome.send(3)
        assert welcome.take() == ["3"]


def test_the_network_can_be_made_worse(fake, wire) -> None:
    wire.send(1)
    wire.take()
    fake.network.delay(0.1)
    begin = time.monotonic()
    wire.send(2)
    assert wire.take() == ["2"]
    assert time.monotonic() - begin >= 0.2


def test_faults_count_the_requests_of_a_model(fake, wire) -> None:
    fake.inject(Fail("a", model="total"), Fail("b", at=3))
    wire.send(1, 2)
    wire.send(3, model="total", sequence_id=7, sequence_start=True)
    wire.send(4)
    assert wire.take(4) == ["1", "2", "a", "4"]


def test_faults_hit_unary_requests_too(fake, wire) -> None:
    fake.inject(Fail("no"), CloseStream(at=2), Lose(at=3), Duplicate(at=4))
    infer = wire.stub.ModelInfer
    with pytest.raises(grpc.RpcError, match="no") as failed:
        infer(question(1))
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    with pytest.raises(grpc.RpcError) as closed:
        infer(question(2))
    assert closed.value.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.RpcError) as lost:
        infer(question(3), timeout=0.2)
    assert lost.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert infer(question(4)).id == "4"


def test_leaving_ends_what_is_frozen_or_slow(fake) -> None:
    with Wire(fake) as slow, Wire(fake) as lost, Wire(fake) as frozen:
        fake.inject(Slow(60), Freeze(60, at=2))
        slow.send(1)
        fake.wait_for_requests(1)
        frozen.send(2)
        fake.wait_for_requests(2)
        begin = time.monotonic()
        fake.close()
        assert time.monotonic() - begin < 2
        for wire in slow, lost, frozen:
            assert wire.end() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("fault", [Drop, Slow])
def test_a_fault_that_hits_nothing_is_refused(fault) -> None:
    with pytest.raises(InvalidFake, match="they count from 1"):
        fault(at=0)
    with pytest.raises(InvalidFake, match="hits no request"):
        fault(num=0)
