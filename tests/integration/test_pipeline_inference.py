"""Inference as a stage of a pipeline, on a real server."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import DtypeMismatch, ModelNotFound, ShapeMismatch
from hermes.aeriel.testing import FakeModel, FakeTriton
from hermes.stillwater import stage
from hermes.stillwater.errors import InvalidPipeline, InvalidSeries
from hermes.stillwater.series import (
    Aligner,
    ArraySource,
    Framer,
    NumpySink,
    Prediction,
    SequenceEnd,
    Update,
)
from hermes.stillwater.triton import InferenceProcess

pytestmark = [pytest.mark.triton, pytest.mark.torch]

KERNEL_SIZE, STRIDE, RATE = 32, 8, 64.0
START = 1_400_000_000.0


def make_strain(size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, size), np.float32)


def offline(rig, strain: np.ndarray) -> np.ndarray:
    """The network over sliding windows, one at a time."""
    windows = np.lib.stride_tricks.sliding_window_view(strain, KERNEL_SIZE, 1)
    with InferenceClient(rig.calm.endpoint, "network") as client:
        return np.concatenate(
            [
                client.predict(np.ascontiguousarray(windows[None, :, begin]))
                for begin in range(0, windows.shape[1], STRIDE)
            ]
        )


def interleave(streams: list[np.ndarray], number: int) -> list:
    """One update of each stream in turn, and an end of each."""
    packages: list[Update | SequenceEnd] = [
        Update(
            strain[None, :, STRIDE * index : STRIDE * (index + 1)],
            START + STRIDE * index / RATE,
            RATE,
            sequence=name,
            index=index,
        )
        for index in range(number)
        for name, strain in enumerate(streams)
    ]
    return packages + [SequenceEnd(name) for name in range(len(streams))]


@pytest.mark.parametrize("chunk_size", [7, 1000])
def test_a_stream_becomes_a_file_with_times(rig, tmp_path, chunk_size) -> None:
    strain = make_strain(STRIDE * 60 + 3)
    path = tmp_path / "scores.npz"
    with InferenceClient(rig.calm.endpoint, "stream") as client:
        aligner = Aligner(client.spec, reference="end")
    pipeline = (
        ArraySource(strain, RATE, START, chunk_size)
        >> Framer(update_size=STRIDE)
        >> InferenceProcess(rig.calm.endpoint, "stream")
        >> aligner
        >> NumpySink(path)
    )

    statistics = pipeline.run()

    found = np.load(path)
    expected = offline(rig, strain)
    values, times = found["output_0"], found["output_0.times"]
    np.testing.assert_array_equal(values, expected)
    ends = START + (KERNEL_SIZE + STRIDE * np.arange(len(expected))) / RATE
    np.testing.assert_array_equal(times, ends)
    assert statistics["Framer"].num_sent == 62  # with the end


@pytest.mark.parametrize("pause", [0, 0.005])
def test_sequences_share_a_stage_and_keep_their_order(rig, pause) -> None:
    """Also where the next stage is slow, and its channel full."""
    streams = [make_strain(STRIDE * 40, seed) for seed in range(4)]
    packages = interleave(streams, 40)
    inference = InferenceProcess(rig.calm.endpoint, "digest-of-four")
    updates = [
        p if isinstance(p, SequenceEnd) else digest_update(p) for p in packages
    ]

    found = []
    with stage(updates) >> inference as pipeline:
        for package in pipeline:
            found.append(package)
            time.sleep(pause)

    for name in range(4):
        mine = [p for p in found if p.sequence == name]
        assert isinstance(mine[-1], SequenceEnd)
        assert [p.index for p in mine[:-1]] == list(range(40))
        digest = np.zeros((1, 2), np.float32)
        for index, prediction in enumerate(mine[:-1]):
            assert isinstance(prediction, Prediction)
            assert prediction.start == START + STRIDE * index / RATE
            digest = np.fmod(17 * digest + (index + name), 8191)
            np.testing.assert_array_equal(prediction.outputs["y"], digest)


def digest_update(update: Update) -> Update:
    number = update.index + update.sequence
    return Update(
        np.full((1, 2), number, np.float32),
        update.start,
        update.sample_rate,
        update.sequence,
        update.index,
    )


def test_arrays_without_a_sequence_are_requests(rig) -> None:
    kernels = [make_strain(KERNEL_SIZE, seed)[None] for seed in range(50)]
    with InferenceClient(rig.calm.endpoint, "network") as client:
        expected = [client.predict(kernel) for kernel in kernels]

    with stage(kernels) >> InferenceProcess(
        rig.calm.endpoint, "network", max_in_flight=3
    ) as pipeline:
        found = list(pipeline)

    np.testing.assert_array_equal(found, expected)


def test_arrays_for_a_model_with_a_state_are_one_sequence(rig) -> None:
    strain = make_strain(STRIDE * 20)
    updates = np.split(strain, 20, axis=1)
    expected = rig.uninterrupted("stream", updates)

    with stage(updates) >> InferenceProcess(
        rig.calm.endpoint, "stream"
    ) as pipeline:
        found = list(pipeline)

    np.testing.assert_array_equal(found, [e["output_0"] for e in expected])


@pytest.mark.slow
def test_a_pipeline_outlives_the_server_it_is_on(rig, tell) -> None:
    strain = make_strain(STRIDE * 400)
    updates = np.split(strain, 400, axis=1)
    expected = rig.uninterrupted("stream", updates)
    servers = [rig.serve("stream", "snapshotter-stream", "network")]
    servers.append(rig.serve("stream", "snapshotter-stream", "network"))
    inference = InferenceProcess(
        [server.endpoint for server in servers], "stream", max_in_flight=4
    )
    victims = iter(servers)

    def kill() -> None:
        time.sleep(0.5)
        rig.kill(next(victims))

    with stage(updates, rate=200) >> inference as pipeline:
        found = []
        for result in pipeline:
            found.append(result)
            if len(found) == 50:
                thread = threading.Thread(target=kill)
                thread.start()
        thread.join()

    equal = sum(
        np.array_equal(f, e["output_0"])
        for f, e in zip(found, expected, strict=True)
    )
    tell(equal=equal, of=len(expected))
    assert equal == len(expected)


def test_a_wrong_update_ends_the_pipeline_with_the_clients_error(rig) -> None:
    updates = [np.zeros((2, STRIDE), np.float32)] * 3
    updates.append(np.zeros((5, STRIDE), np.float32))
    begin = time.monotonic()
    with (
        pytest.raises(ShapeMismatch, match="snapshot_update"),
        stage(updates) >> InferenceProcess(rig.calm.endpoint, "stream") as p,
    ):
        list(p)
    assert time.monotonic() - begin < 10


def test_what_no_framer_has_cut_names_the_framer(rig) -> None:
    source = ArraySource(make_strain(100), RATE, START)
    with pytest.raises(
        InvalidSeries, match=r"put a Framer\(update_size=8\) before it"
    ):
        (source >> InferenceProcess(rig.calm.endpoint, "stream")).run()


@pytest.mark.parametrize("size", [4, 16])
def test_updates_of_a_wrong_size_name_the_framer(rig, size) -> None:
    source = ArraySource(make_strain(100), RATE, START)
    inference = InferenceProcess(rig.calm.endpoint, "stream")
    with pytest.raises((InvalidSeries, ShapeMismatch)) as caught:
        (source >> Framer(update_size=size) >> inference).run()
    told = " ".join([str(caught.value), *caught.value.__notes__])
    assert f"{size} samples" in told
    assert "come from a Framer(update_size=8)" in told


def test_updates_of_a_wrong_dtype_name_the_framers_option(rig) -> None:
    source = ArraySource(make_strain(100).astype(float), RATE, START)
    inference = InferenceProcess(rig.calm.endpoint, "stream")
    with pytest.raises(DtypeMismatch, match="is float64") as caught:
        (source >> Framer(update_size=STRIDE) >> inference).run()
    assert "Framer(..., dtype='float32')" in caught.value.__notes__[0]


def test_updates_for_a_model_without_a_state_are_refused() -> None:
    shape = ("FP32", [-1, 2, STRIDE])
    double = FakeModel.of(
        "double", lambda x: 2 * x, {"x": shape}, {"y": shape}
    )
    source = ArraySource(make_strain(100), RATE, START)
    with FakeTriton(double) as fake:
        inference = InferenceProcess(fake.endpoint, "double")
        with pytest.raises(InvalidSeries, match="name the ensemble that"):
            (source >> Framer(update_size=STRIDE) >> inference).run()


def test_arrays_for_a_model_with_a_state_of_its_own_are_a_sequence() -> None:
    count = FakeModel.stateful(
        "count",
        lambda state, x: (state + x.size, state + x.size),
        initial=0,
        inputs={"x": ("FP32", [1, -1])},
        outputs={"total": ("INT64", [1])},
    )
    updates = [np.zeros((1, size), np.float32) for size in (3, 4)]
    with FakeTriton(count) as fake:
        inference = InferenceProcess(fake.endpoint, "count", replay=False)
        with stage(updates) >> inference as pipeline:
            assert [int(total.item()) for total in pipeline] == [3, 7]


def test_an_unknown_model_ends_the_pipeline(rig) -> None:
    inference = InferenceProcess(rig.calm.endpoint, "missing")
    with (
        pytest.raises(ModelNotFound, match="missing"),
        stage([1]) >> inference as p,
    ):
        list(p)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidPipeline, match="workers=2"):
        InferenceProcess("127.0.0.1:1", "model", workers=2)
    with pytest.raises(InvalidPipeline, match="max_in_flight=0"):
        InferenceProcess("127.0.0.1:1", "model", max_in_flight=0)
