"""What a client reads from a configuration; no server."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hermes.aeriel.client._describe import (
    describe,
    is_stateful_alone,
    sees_sequence_id_alone,
    steps,
)
from hermes.aeriel.errors import UnsupportedModel

ENTRY = {
    "name": "x",
    "tensors": [
        {"name": "m/a", "channels": 2},
        {"name": "m/b", "channels": None},
    ],
    "stride_size": 2,
    "update_size": 4,
    "snapshot_size": 8,
    "batch_size": 2,
    "num_warmup": 3,
}


def tensor(name="x", datatype="TYPE_FP32", dims=("-1", "2"), **more) -> dict:
    return {"name": name, "data_type": datatype, "dims": list(dims), **more}


def config(*inputs: dict, **more) -> dict:
    return {
        "name": "model",
        "input": list(inputs) or [tensor()],
        "output": [tensor("y")],
        **more,
    }


def stream(**changes) -> dict:
    found = {
        "version": 1,
        "inputs": [ENTRY],
        "outputs": [{"name": "y", "num_warmup": 3, "size": 2}],
        "replay_updates": None,
        **changes,
    }
    return {"hermes.stream": {"string_value": json.dumps(found)}}


@pytest.mark.parametrize(
    ("datatype", "dtype", "wire"),
    [
        ("TYPE_FP32", "f4", "FP32"),
        ("TYPE_INT64", "i8", "INT64"),
        ("TYPE_BOOL", "?", "BOOL"),
        ("TYPE_STRING", "O", "BYTES"),
        ("TYPE_BF16", "f4", "BF16"),
    ],
)
def test_a_tensor_has_both_names_of_its_dtype(datatype, dtype, wire) -> None:
    spec = describe(config(tensor(datatype=datatype)), None, False)
    assert spec.inputs["x"].dtype == np.dtype(dtype)
    assert spec.inputs["x"].datatype == wire
    assert not spec.inputs["x"].optional


def test_a_dtype_that_numpy_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="Triton's TYPE_INVALID"):
        describe(config(tensor(datatype="TYPE_INVALID")), None, False)


def test_a_batch_axis_is_added_where_it_is_implied() -> None:
    found = describe(config(max_batch_size=8), 3, False)
    assert found.inputs["x"].shape == (None, None, 2)
    assert found.max_batch_size == 8
    assert found.version == 3
    plain = describe(config(), None, False)
    assert plain.inputs["x"].shape == (None, 2)
    assert plain.max_batch_size == 0


def test_clients_send_dims_not_what_the_model_sees() -> None:
    reshaped = tensor(
        dims=["4"], reshape={"shape": ["2", "2"]}, allow_ragged_batch=True
    )
    found = describe(config(reshaped, max_batch_size=2), None, False)
    assert found.inputs["x"].shape == (None, 4)


def test_an_input_may_be_optional() -> None:
    inputs = tensor(), tensor("z", optional=True)
    spec = describe(config(*inputs), None, False)
    assert [t.optional for t in spec.inputs.values()] == [False, True]


def control(*kinds: str) -> dict:
    return {
        "sequence_batching": {
            "control_input": [
                {"name": kind, "control": [{"kind": kind}]} for kind in kinds
            ]
        }
    }


def test_a_model_may_be_told_the_sequence() -> None:
    told = config(
        **control("CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_CORRID")
    )
    assert sees_sequence_id_alone(told)
    assert not sees_sequence_id_alone(
        config(**control("CONTROL_SEQUENCE_END"))
    )
    assert not sees_sequence_id_alone(config(sequence_batching={}))
    assert not sees_sequence_id_alone(config())
    assert not sees_sequence_id_alone(
        # protobuf leaves out what is the first of its kind: START
        config(
            sequence_batching={"control_input": [{"control": [{}]}]},
        )
    )
    assert not describe(told, None, True).sees_sequence_id
    assert describe(told, None, True, sees_sequence_id=True).sees_sequence_id


def test_a_state_needs_no_stream() -> None:
    stateful = config(sequence_batching={"direct": {}})
    assert is_stateful_alone(stateful)
    assert not is_stateful_alone(config())
    spec = describe(stateful, None, True)
    assert spec.is_stateful
    assert spec.stream is None
    assert spec.states == {}


def test_the_steps_of_an_ensemble_have_versions() -> None:
    parts = [
        {"model_name": "a", "model_version": "-1"},
        {"model_name": "b", "model_version": "2"},
        {"model_name": "c"},
    ]
    ensemble = config(ensemble_scheduling={"step": parts})
    assert steps(ensemble) == {"a": None, "b": 2, "c": None}
    assert steps(config()) == {}


def test_the_parts_of_an_update_are_known() -> None:
    update = tensor(datatype="TYPE_BF16", dims=["1", "3", "4"])
    spec = describe(config(update, parameters=stream()), None, True)
    assert spec.states["m/a"].shape == (1, 2, 4)
    assert spec.states["m/b"].shape == (1, 4)
    assert spec.states["m/b"].datatype == "BF16"
    assert spec.stream is not None
    assert spec.stream.replay_updates is None
    assert spec.stream.num_warmup == 3
    assert spec.stream.size == 2


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        (stream(version=2), "in version 2; this client reads 1: upgrade"),
        (stream(inputs=[{"name": "x"}]), "not what hermes-quiver writes"),
        (stream(outputs=None), "export the ensemble again"),
        (stream(inputs=[], replay_updates=1, outputs=[{}]), "export the"),
        (
            stream(inputs=[{**ENTRY, "name": "other"}]),
            r"\(KeyError\('other'\)\); export the ensemble again",
        ),
        ({"hermes.stream": {"string_value": "{"}}, "export the ensemble"),
        ({"hermes.stream": {}}, "export the ensemble again"),
    ],
)
def test_a_stream_that_cannot_be_read_is_refused(parameters, match) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        describe(config(parameters=parameters), None, True)
