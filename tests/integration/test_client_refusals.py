"""What the client refuses, before anything is sent; and what it fills up."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    DtypeMismatch,
    InvalidRequest,
    ModelNotFound,
    ShapeMismatch,
)
from hermes.aeriel.serve import serve

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

X = np.arange(64, dtype=np.float32).reshape(1, 2, 32) / 64
UPDATE = np.ones((2, 8), np.float32)


def test_wrong_models_and_versions_are_named(rig, tell) -> None:
    address = rig.calm.endpoint.grpc
    with pytest.raises(ModelNotFound, match="missing") as model:
        InferenceClient(address, "missing")
    with pytest.raises(ModelNotFound, match="'stream' version 3") as version:
        InferenceClient(address, "stream", 3)
    tell(str(model.value), str(version.value))
    for told in (model, version):
        assert re.search(r"ready are: .*'network'.*'stream'", str(told.value))


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        ({"inptu": X}, InvalidRequest, "'input'.*'inptu'"),
        ({}, InvalidRequest, "'input'"),
        (X[:, :1], ShapeMismatch, r"\(1, 1, 32\).*\(None, 2, 32\)"),
        (X[0], ShapeMismatch, r"\(2, 32\).* a batch of one is x\[None\]"),
        (X.astype(np.float64), DtypeMismatch, "float64.*float32"),
        (X.astype(complex), DtypeMismatch, "complex128"),
        (np.array(["a"]), DtypeMismatch, "input"),
        ([[1, 2], [3]], ShapeMismatch, "no array"),
    ],
)
@pytest.mark.parametrize("way", ["predict", "submit", "infer"])
def test_a_request_that_does_not_fit_is_not_sent(
    rig, x, error, match, way
) -> None:
    before = rig.num_inferences(rig.calm)
    with InferenceClient(rig.calm.endpoint, "network") as client:
        with pytest.raises(error, match=match):
            getattr(client, way)(x)
        assert "0 pending" in repr(client)
    assert rig.num_inferences(rig.calm) == before


@pytest.mark.parametrize(
    ("update", "error"),
    [
        ({"snapshot": UPDATE}, InvalidRequest),
        (UPDATE[:1], ShapeMismatch),
        (np.ones((2, 9), np.float32), ShapeMismatch),
        (UPDATE.astype(np.float64), DtypeMismatch),
    ],
)
def test_an_update_that_does_not_fit_harms_no_sequence(
    rig, update, error, make_updates, assert_same, tell
) -> None:
    updates = make_updates("stream", 60)
    with (
        InferenceClient(rig.calm.endpoint, "stream") as client,
        client.sequence() as sequence,
    ):
        results = []
        for index, right in enumerate(updates):
            results.append(sequence.send(right).result(10))
            if index == 20:
                with pytest.raises(error):
                    sequence.send(update)
    tell(assert_same(results, rig.uninterrupted("stream", updates)))


@pytest.mark.parametrize(
    "sequence_id", [0, -1, 2**63, 2**64, "a", "5", 1.0, True, False, b"a"]
)
@pytest.mark.parametrize("way", ["sequence", "submit"])
def test_an_impossible_sequence_id_is_refused(rig, sequence_id, way) -> None:
    with InferenceClient(rig.calm.endpoint, "stream") as client:
        call = {
            "sequence": lambda: client.sequence(sequence_id),
            "submit": lambda: client.submit(UPDATE, 1, sequence_id, True),
        }[way]
        with pytest.raises(InvalidRequest, match="sequence_id"):
            call()
        assert "0 pending" in repr(client)


@pytest.mark.parametrize("sequence_id", [1, 2**63 - 1, np.int64(7)])
def test_the_first_and_the_last_sequence_id_work(rig, sequence_id) -> None:
    with (
        InferenceClient(rig.calm.endpoint, "stream") as client,
        client.sequence(sequence_id) as sequence,
    ):
        assert sequence.id == sequence_id
        assert sequence.send(UPDATE).result(10).index == 0


def test_a_stateful_model_refuses_requests_without_a_sequence(rig) -> None:
    with (
        InferenceClient(rig.calm.endpoint, "stream") as client,
        pytest.raises(InvalidRequest, match=r"client\.sequence\(\)"),
    ):
        client.predict(UPDATE)


def test_only_the_outputs_that_were_asked_for_come(
    rig, make_updates, tell
) -> None:
    updates = make_updates("several", 40)
    expected = rig.uninterrupted("several", updates)
    equal = {}
    with InferenceClient(rig.calm.endpoint, "several") as client:
        for name in ("scores", "output_stream"):
            with client.sequence(outputs=[name]) as sequence:
                results = list(sequence.stream(updates))
            assert {tuple(r.outputs) for r in results} == {(name,)}
            equal[name] = sum(
                r.output.tobytes() == wanted[name].tobytes()
                for r, wanted in zip(results, expected, strict=True)
            )
        with pytest.raises(InvalidRequest, match=r"'scroes'.*'scores'"):
            client.sequence(outputs=["scroes"])
    tell(equal)
    assert equal == {"scores": 40, "output_stream": 40}


@pytest.mark.parametrize("samples", [1, 7, 8, 15, 16, 31, 32])
def test_a_tail_gives_the_predictions_that_end_within_it(
    rig, samples, tell
) -> None:
    """A kernel ends with each eight samples: those of the artifact."""
    rng = np.random.default_rng(samples)
    data = rng.standard_normal((2, 10 * 32 + samples), np.float32)
    updates = [data[:, i : i + 32] for i in range(0, data.shape[1], 32)]
    with (
        InferenceClient(rig.calm.endpoint, "batched") as client,
        client.sequence() as sequence,
    ):
        results = list(sequence.stream(updates))
    padded = np.pad(data, ((0, 0), (32, 0)))
    kernels = sliding_window_view(padded, 32, axis=-1)[:, 8::8]
    kernels = np.ascontiguousarray(kernels.transpose(1, 0, 2))
    # The server has computed whole batches.
    whole = np.zeros((44, 2, 32), np.float32)
    whole[: len(kernels)] = kernels
    session = onnxruntime.InferenceSession(rig.repository.artifacts["network"])
    expected = np.concatenate(
        [session.run(None, {"input": part})[0] for part in np.split(whole, 11)]
    )[: len(kernels)]
    found = np.concatenate([result.output for result in results])
    equal = sum(map(np.array_equal, found, expected))
    tell(predictions=len(found), of_the_tail=samples // 8, equal=equal)
    assert len(found) == 40 + samples // 8
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_fixed_batch_is_filled_up_and_cut(rig, rows, tell) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 3), np.float32)
    session = onnxruntime.InferenceSession(rig.repository.artifacts["fixed"])
    padded = np.zeros((4, 3), np.float32)
    padded[:rows] = x
    expected = session.run(None, {"input": padded})[0][:rows]
    with InferenceClient(rig.calm.endpoint, "fixed") as client:
        found = client.predict(x)
        with pytest.raises(ShapeMismatch, match="5"):
            client.predict(np.zeros((5, 3), np.float32))
    tell(shape=found.shape)
    assert found.tobytes() == expected.tobytes()


def test_a_model_that_cannot_be_loaded_is_told_with_the_servers_words(
    rig, tmp_path, tell
) -> None:
    root = Path(rig.repository.root)
    shutil.copytree(root / "network", tmp_path / "network")
    shutil.copytree(root / "network", tmp_path / "broken")
    config = tmp_path / "broken" / "config.pbtxt"
    config.write_text(config.read_text().replace('"network"', '"broken"', 1))
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    with serve(
        tmp_path,
        server_args=["--model-control-mode=explicit"],
        free_ports=True,
        wait=True,
    ) as server:
        with pytest.raises(ModelNotFound) as broken:
            InferenceClient(server.endpoint, "broken")
        with pytest.raises(ModelNotFound) as unloaded:
            InferenceClient(server.endpoint, "network", load_timeout=None)
        with InferenceClient(server.endpoint, "network") as client:
            assert client.predict(X).shape == (1, 32)
    said = broken.value.server_message
    tell(repr(said), str(unloaded.value))
    assert "could not be loaded" in str(broken.value)
    assert said
    assert said in str(broken.value)
