"""The client against a transport whose answers the test decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    ClientClosed,
    DeadlineExceeded,
    DtypeMismatch,
    InferenceError,
    InvalidRequest,
    ModelNotFound,
    SequenceEnded,
    SequenceLost,
    ServerUnavailable,
    ShapeMismatch,
    StreamBroken,
    UnsupportedModel,
)
from hermes.aeriel.testing import FakeTransport, Request, Response

STATELESS = {
    "name": "mean",
    "input": [
        {"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", "2", "4"]}
    ],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["-1", "2"]}],
}
STREAM = {
    "version": 1,
    "inputs": [
        {
            "name": "snapshot_update",
            "tensors": [
                {"name": "mean/x", "channels": 2},
                {"name": "mean/z", "channels": None},
            ],
            "stride_size": 2,
            "update_size": 4,
            "snapshot_size": 7,
            "batch_size": 2,
            "num_warmup": 3,
        }
    ],
    "outputs": [{"name": "y", "num_warmup": 3, "size": 2}],
    "replay_updates": 2,
}
ENSEMBLE = {
    "name": "ensemble",
    "input": [
        {
            "name": "snapshot_update",
            "data_type": "TYPE_FP32",
            "dims": ["1", "3", "4"],
        }
    ],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["-1", "2"]}],
    "parameters": {"hermes.stream": {"string_value": json.dumps(STREAM)}},
    "ensemble_scheduling": {
        "step": [
            {"model_name": "snapshotter", "model_version": "-1"},
            {"model_name": "mean", "model_version": "1"},
        ]
    },
}
SNAPSHOTTER = {"name": "snapshotter", "sequence_batching": {"direct": {}}}
CONFIGS = {c["name"]: c for c in (STATELESS, ENSEMBLE, SNAPSHOTTER)}

Answer = Callable[[Request], Response | None]


def mean(request: Request) -> Response:
    (x,) = request.inputs.values()
    return Response(request.id, {"y": x.mean(-1)})


def two(request: Request) -> Response:
    return Response(request.id, {"a": array(1), "b": array(2)})


def echo(request: Request) -> Response:
    return Response(request.id, dict(request.inputs))


def never(request: Request) -> None:
    """Accept a request and never answer it."""


def connect(name="mean", answer=mean, configs=CONFIGS, **arguments):
    transport = FakeTransport(answer, configs)
    client = InferenceClient("host:1", name, transport=transport, **arguments)
    return client, transport


def array(*shape: int) -> np.ndarray:
    size = int(np.prod(shape))
    return np.arange(size, dtype=np.float32).reshape(shape)


def test_the_server_describes_the_model() -> None:
    client, transport = connect("ensemble")
    spec = client.spec
    assert spec.inputs["snapshot_update"].shape == (1, 3, 4)
    assert spec.outputs["y"].shape == (None, 2)
    assert spec.states["mean/x"].shape == (1, 2, 4)
    assert spec.states["mean/z"].shape == (1, 4)
    assert spec.stream.replay_updates == 2
    assert spec.stream.inputs["snapshot_update"].stride_size == 2
    assert spec.is_stateful
    assert transport.asked == [
        ("ensemble", None),
        ("snapshotter", None),
        ("mean", 1),
    ]
    assert "state  mean/x float32[1, 2, 4]" in str(spec)
    client.close()


def test_a_batch_axis_belongs_to_the_shape() -> None:
    config = {**STATELESS, "max_batch_size": 8}
    client, _ = connect(configs={"mean": config})
    assert client.spec.inputs["x"].shape == (None, None, 2, 4)
    client.close()


def test_predict_returns_the_array() -> None:
    client, transport = connect()
    with client:
        x = array(3, 2, 4)
        np.testing.assert_array_equal(client.predict(x), x.mean(-1))
        np.testing.assert_array_equal(client.predict({"x": x}), x.mean(-1))
    assert transport.requests[0].sequence_id == 0
    assert transport.is_closed


def test_several_outputs_come_by_name() -> None:
    client, _ = connect(answer=two)
    with client:
        assert set(client.predict(array(1, 2, 4))) == {"a", "b"}


def test_answers_find_their_requests_in_any_order() -> None:
    client, transport = connect(answer=never)
    with client:
        futures = [
            client.submit(np.full((1, 2, 4), i, "f4")) for i in range(9)
        ]
        for request in reversed(transport.requests):
            transport.on_response(mean(request))
        for i, future in enumerate(futures):
            assert (future.result(timeout=5) == i).all()


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (
            array(1, 2, 4).astype("f8"),
            DtypeMismatch,
            "'x' is float64, but the",
        ),
        ([[[0.0] * 4] * 2], DtypeMismatch, r"\.astype\(np\.float32\)"),
        (array(1, 2, 5), ShapeMismatch, r"'x' has shape \(1, 2, 5\), but"),
        (array(2, 4), ShapeMismatch, r"takes \(None, 2, 4\)"),
        ({"z": array(1, 2, 4)}, InvalidRequest, "takes 'x'; given were 'z'"),
        ({}, InvalidRequest, "takes 'x'; given were"),
    ],
)
def test_arrays_that_do_not_fit_are_not_sent(x, error, match) -> None:
    client, transport = connect()
    with client, pytest.raises(error, match=match):
        client.submit(x)
    assert transport.requests == []


def test_the_servers_error_reaches_its_request_alone() -> None:
    def answer(request: Request) -> Response:
        if (request.inputs["x"] < 0).any():
            return Response(request.id, error="negative input")
        return mean(request)

    client, _ = connect(answer=answer)
    with client:
        bad = client.submit(-1 - array(1, 2, 4), request_id="bad")
        good = client.submit(array(1, 2, 4))
        with pytest.raises(
            InferenceError, match="request bad to 'mean': negative input"
        ):
            bad.result(timeout=5)
        assert good.result(timeout=5).shape == (1, 2)


def test_an_answer_that_cannot_be_read_is_an_error() -> None:
    client, _ = connect(answer=lambda r: Response(r.id, None))
    with client, pytest.raises(TypeError):
        client.predict(array(1, 2, 4), timeout=5)


def test_an_unanswered_request_ends_at_its_deadline() -> None:
    client, transport = connect(answer=never)
    with client:
        begin = time.monotonic()
        slow = client.submit(array(1, 2, 4), timeout=0.6)
        fast = client.submit(array(1, 2, 4), timeout=0.2, request_id=7)
        with pytest.raises(
            DeadlineExceeded,
            match=r"request 7 to 'mean': no answer within 0.2",
        ):
            fast.result(timeout=5)
        assert time.monotonic() - begin < 0.5
        assert not slow.done()
        with pytest.raises(DeadlineExceeded):
            slow.result(timeout=5)
        # an answer that comes too late is nobody's
        transport.on_response(mean(transport.requests[0]))
        transport.answer = mean
        assert client.predict(array(1, 2, 4)).shape == (1, 2)


@pytest.mark.parametrize(
    "reason", [StreamBroken("cut"), ServerUnavailable("gone")]
)
def test_a_broken_stream_fails_all_that_is_pending(reason) -> None:
    client, transport = connect(answer=never)
    with client:
        futures = [client.submit(array(1, 2, 4)) for _ in range(5)]
        transport.drop(reason)
        for future in futures:
            with pytest.raises(type(reason), match="request to 'mean': "):
                future.result(timeout=5)
        transport.answer = mean
        assert client.predict(array(1, 2, 4)).shape == (1, 2)
        assert len(transport.connections) == 2


def test_a_request_that_cannot_be_sent_is_refused() -> None:
    client, transport = connect()
    with client:
        client.predict(array(1, 2, 4))
        transport.connections[-1].is_open = False
        with pytest.raises(StreamBroken, match="has ended"):
            client.submit(array(1, 2, 4))
        assert "0 pending" in repr(client)


def test_an_error_without_a_request_fails_all() -> None:
    client, transport = connect(answer=never)
    with client:
        future = client.submit(array(1, 2, 4))
        transport.on_response(Response("", error="out of memory"))
        with pytest.raises(StreamBroken, match="out of memory"):
            future.result(timeout=5)


def test_closing_fails_what_is_pending_and_leaves_no_thread() -> None:
    before = threading.active_count()
    client, _ = connect(answer=never)
    future = client.submit(array(1, 2, 4))
    assert "1 pending" in repr(client)
    client.close()
    client.close()
    with pytest.raises(ClientClosed, match="closed before it was answered"):
        future.result(timeout=5)
    with pytest.raises(ClientClosed, match="make another one"):
        client.submit(array(1, 2, 4))
    assert "closed" in repr(client)
    assert threading.active_count() == before


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_forgotten_client_is_closed_once_nothing_is_pending() -> None:
    before = threading.active_count()
    client, transport = connect(answer=never)
    future = client.submit(array(1, 2, 4))
    del client
    answer = Response(transport.requests[0].id, {"y": array(1, 2)})
    with pytest.warns(ResourceWarning, match="'mean' at .* was not closed"):
        transport.on_response(answer)
    assert future.result(timeout=5).shape == (1, 2)
    wait_until(lambda: threading.active_count() == before)


@pytest.mark.parametrize("replay", [False, True])
def test_a_forgotten_sequence_is_ended(replay: bool) -> None:
    client, transport = connect("ensemble")
    with client:
        with pytest.warns(ResourceWarning, match="1 updates sent.* not ended"):
            client.sequence(replay=replay).send(array(3, 4)).result(timeout=5)
        wait_until(lambda: len(transport.requests) == 2)
        assert transport.requests[1].sequence_end


def test_a_sequence_keeps_its_client() -> None:
    sequence = connect("ensemble")[0].sequence()
    with sequence:
        sequence.send(array(3, 4)).result(timeout=5)
    with pytest.warns(ResourceWarning, match="'ensemble' at .* not closed"):
        del sequence


def test_a_callback_that_raises_harms_nobody(caplog) -> None:
    client, transport = connect(answer=never)
    with client:
        first = client.submit(array(1, 2, 4))
        first.add_done_callback(lambda _: 1 / 0)
        transport.on_response(mean(transport.requests[0]))
        transport.answer = mean
        assert client.predict(array(1, 2, 4)).shape == (1, 2)
    assert "ZeroDivisionError" in caplog.text


def test_a_request_cannot_be_cancelled_any_more() -> None:
    client, transport = connect(answer=never)
    with client:
        future = client.submit(array(1, 2, 4))
        assert not future.cancel()
        transport.on_response(mean(transport.requests[0]))
        assert future.result(timeout=5).shape == (1, 2)


def test_a_missing_model_is_an_error_and_leaves_nothing() -> None:
    transport = FakeTransport(mean, CONFIGS)
    with pytest.raises(ModelNotFound, match="no model 'other'"):
        InferenceClient("host:1", "other", transport=transport)
    assert transport.is_closed


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"input": [{"name": "x", "data_type": "TYPE_FP8", "dims": []}]},
            "no dtype for Triton's TYPE_FP8",
        ),
        (
            {"parameters": {"hermes.stream": {"string_value": "{"}}},
            "export the ensemble again",
        ),
        (
            {
                "parameters": {
                    "hermes.stream": {"string_value": '{"version": 2}'}
                }
            },
            "in version 2; this client reads 1",
        ),
    ],
)
def test_models_beyond_this_client_are_refused(changes, match) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        connect(configs={"mean": {**STATELESS, **changes}})


def stream_mean(request: Request) -> Response:
    (x,) = request.inputs.values()
    return Response(request.id, {"y": x[:, :2].mean(-1).repeat(2, 0)})


def flags(transport: FakeTransport) -> list[tuple[bool, bool]]:
    return [(r.sequence_start, r.sequence_end) for r in transport.requests]


def test_a_sequence_starts_and_ends_once() -> None:
    client, transport = connect("ensemble", stream_mean)
    with client, client.sequence() as sequence:
        results = list(sequence.stream(array(5, 3, 4)))
    assert flags(transport) == [
        (True, False),
        *[(False, False)] * 4,
        (False, True),
    ]
    assert {r.sequence_id for r in transport.requests} == {sequence.id}
    assert not transport.requests[-1].inputs["snapshot_update"].any()
    assert [r.index for r in results] == [0, 1, 2, 3, 4]
    for result, update in zip(results, array(5, 3, 4), strict=True):
        np.testing.assert_array_equal(result.output[0], update[:2].mean(-1))


def test_a_result_knows_how_much_of_it_is_warm_up() -> None:
    client, _ = connect("ensemble", stream_mean)
    with client, client.sequence() as sequence:
        assert sequence.num_warmup == 3
        results = list(sequence.stream(array(3, 3, 4)))
    assert [r.num_warmup for r in results] == [2, 1, 0]
    assert [r.is_valid for r in results] == [False, False, True]
    assert results[0].latency >= 0
    assert repr(results[0]).startswith("StreamResult(index=0, outputs={'y':")


def test_the_last_update_may_carry_the_end() -> None:
    client, transport = connect("ensemble", stream_mean)
    with client, client.sequence() as sequence:
        sequence.send(array(3, 4)).result(timeout=5)
        sequence.send(array(3, 4), end=True).result(timeout=5)
        with pytest.raises(SequenceEnded, match="begin another one"):
            sequence.send(array(3, 4))
    assert flags(transport) == [(True, False), (False, True)]
    assert "2 updates sent, ended" in repr(sequence)


def test_each_sequence_has_a_stream_of_its_own() -> None:
    client, transport = connect("ensemble", never)
    with client:
        first, second = client.sequence(), client.sequence()
        futures = [s.send(array(3, 4)) for s in (first, second)]
        transport.connections[1].on_response(
            stream_mean(transport.requests[1])
        )
        assert futures[1].result(5).index == 0
        transport.connections[0].drop(StreamBroken("cut"))
        with pytest.raises(StreamBroken, match="cut"):
            futures[0].result(5)
        transport.answer = stream_mean
        assert second.send(array(3, 4)).result(5).index == 1


def test_an_id_can_be_used_again_after_its_end() -> None:
    client, transport = connect("ensemble", never)
    x = array(1, 3, 4)
    with client:
        client.submit(x, sequence_id=5, sequence_start=True, sequence_end=True)
        client.submit(x, sequence_id=5, sequence_start=True)
        assert len(transport.connections) == 2
        # to the server they are two sequences, for nothing may join them
        assert len({r.sequence_id for r in transport.requests}) == 2


def test_a_sequence_that_lost_an_update_takes_no_more() -> None:
    client, transport = connect("ensemble", stream_mean)
    with client, client.sequence() as sequence:
        sequence.send(array(3, 4)).result(5)
        transport.answer = lambda r: Response(r.id, error="too loud")
        lost = sequence.send(array(3, 4))
        with pytest.raises(InferenceError, match="too loud"):
            lost.result(5)
        transport.answer = stream_mean
        with pytest.raises(SequenceLost, match=r"lost an update .*too loud"):
            sequence.send(array(3, 4))
    # the slot is given back all the same
    assert transport.requests[-1].sequence_end


def test_a_body_that_raises_ends_the_sequence() -> None:
    client, transport = connect("ensemble", stream_mean)
    with client:
        sequence = client.sequence()
        sequence.send(array(3, 4)).result(timeout=5)
        with pytest.raises(ZeroDivisionError), sequence:
            _ = 1 / 0
    assert flags(transport) == [(True, False), (False, True)]


def test_an_unused_sequence_sends_nothing() -> None:
    client, transport = connect("ensemble", stream_mean)
    with client, client.sequence():
        pass
    assert transport.requests == []


def test_leaving_does_not_wait_for_a_dead_server() -> None:
    client, transport = connect("ensemble", never)
    begin = time.monotonic()
    with client, client.sequence() as sequence:
        sequence.send(array(3, 4))
        transport.drop(ServerUnavailable("gone"))
    assert time.monotonic() - begin < 1


def test_a_stream_is_bounded_by_max_in_flight() -> None:
    client, transport = connect("ensemble", never)
    pulled = []

    def updates():
        for i in range(10):
            pulled.append(i)
            yield array(3, 4)

    with client:
        sequence = client.sequence(max_in_flight=3)
        results = sequence.stream(updates())
        thread = threading.Thread(target=lambda: next(results))
        thread.start()
        time.sleep(0.2)
        assert len(pulled) == 3
        for request in list(transport.requests):
            transport.on_response(stream_mean(request))
        thread.join(5)
        assert len(results.gi_frame.f_locals["pending"]) == 2


def test_a_stream_is_given_in_updates_not_in_samples() -> None:
    client, transport = connect("ensemble", stream_mean)
    with client, client.sequence() as sequence:
        with pytest.raises(InvalidRequest, match=r"\(3, 40\).*one by one"):
            sequence.stream(array(3, 40))
        assert len(list(sequence.stream(array(5, 3, 4)))) == 5
    assert len(transport.requests) == 6  # and the END


def test_an_error_in_a_stream_is_raised_in_its_place() -> None:
    def answer(request: Request) -> Response:
        if request.inputs["snapshot_update"].sum() > 1000:
            return Response(request.id, error="too loud")
        return stream_mean(request)

    client, _ = connect("ensemble", answer)
    updates = [array(3, 4), array(3, 4), array(3, 4) + 1000, array(3, 4)]
    with client, client.sequence() as sequence:
        results = sequence.stream(updates)
        assert [next(results).index, next(results).index] == [0, 1]
        with pytest.raises(InferenceError, match=r"update 2 of sequence \d+"):
            next(results)


def test_parts_of_an_update_are_joined_in_the_declared_order() -> None:
    client, transport = connect("ensemble", stream_mean)
    x, z = array(2, 4), -array(4)
    with client, client.sequence() as sequence:
        sequence.send({"mean/z": z, "mean/x": x}).result(timeout=5)
        with pytest.raises(InvalidRequest, match="also needs 'mean/z'"):
            sequence.send({"mean/x": x})
    sent = transport.requests[0].inputs["snapshot_update"]
    np.testing.assert_array_equal(sent[0], np.concatenate([x, z[None]]))


def test_a_stateful_model_needs_a_sequence() -> None:
    client, _ = connect("ensemble")
    with client:
        with pytest.raises(InvalidRequest, match=r"through client\.sequence"):
            client.predict(array(1, 3, 4))
        with pytest.raises(InvalidRequest, match="0 means no sequence"):
            client.submit(array(1, 3, 4), sequence_id=0)
        with pytest.raises(InvalidRequest, match="between 1 and"):
            client.sequence(2**63)
        with pytest.raises(InvalidRequest, match="max_in_flight=0"):
            client.sequence(max_in_flight=0)


def test_an_id_belongs_to_one_sequence_at_a_time() -> None:
    client, _ = connect("ensemble", stream_mean)
    with client:
        first = client.sequence(77)
        with pytest.raises(InvalidRequest, match="77 of this client has not"):
            client.sequence(77)
        first.send(array(3, 4), end=True).result(5)
        with client.sequence(77) as second:
            second.send(array(3, 4)).result(5)
        client.sequence(77)


def test_a_sequence_that_gets_no_place_says_so() -> None:
    client, _ = connect("ensemble", never)
    with client, client.sequence() as sequence:
        future = sequence.send(array(3, 4), timeout=0.1)
        with pytest.raises(DeadlineExceeded, match="places for"):
            future.result(5)


@pytest.mark.parametrize("address", [None, 3, object()])
def test_what_is_no_address_is_refused(address) -> None:
    with pytest.raises(InvalidRequest, match="give 'host:port' of a server"):
        InferenceClient(
            address, "mean", transport=FakeTransport(mean, CONFIGS)
        )


def test_numbers_must_be_numbers() -> None:
    with pytest.raises(InvalidRequest, match="model_version='1' is no whole"):
        InferenceClient(
            "a:1", "mean", "1", transport=FakeTransport(mean, CONFIGS)
        )
    client, _ = connect("ensemble")
    with client, pytest.raises(InvalidRequest, match="sequence_id='a' is no"):
        client.sequence("a")


def test_what_is_no_array_is_refused() -> None:
    client, _ = connect()
    with client:
        with pytest.raises(ShapeMismatch, match="'x' is no array: "):
            client.predict([[1.0], [1.0, 2.0]])
        with pytest.raises(DtypeMismatch, match=r"takes float32$"):
            client.predict(None)


def test_a_stateless_model_has_no_sequences() -> None:
    client, _ = connect("mean")
    with client, pytest.raises(InvalidRequest, match="keeps no state"):
        client.sequence()


def test_a_model_of_several_inputs_wants_names() -> None:
    config = {
        **STATELESS,
        "input": [
            {"name": n, "data_type": "TYPE_STRING", "dims": ["1"]}
            for n in "ab"
        ],
    }
    client, _ = connect(answer=echo, configs={"mean": config})
    with client:
        with pytest.raises(InvalidRequest, match="a dict with 'a', 'b'"):
            client.submit(array(1))
        answer = client.predict({"a": ["x"], "b": [b"y"]})
    assert answer["a"].dtype == object


def test_several_outputs_have_no_single_one() -> None:
    client, _ = connect("ensemble", two)
    with client, client.sequence() as sequence:
        result = sequence.send(array(3, 4)).result(timeout=5)
        with pytest.raises(InvalidRequest, match=r"take \.outputs\[name\]"):
            _ = result.output


def test_many_threads_share_one_client() -> None:
    client, _ = connect()
    failures = []

    def work(seed: int) -> None:
        for i in range(50):
            x = np.full((1, 2, 4), seed * 100 + i, np.float32)
            if not (client.predict(x) == seed * 100 + i).all():
                failures.append((seed, i))

    with client:
        threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert failures == []
