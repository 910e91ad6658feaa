"""From what was answered to what was asked for; no server.

The reference is a whole stream in numpy: kernels that overlap, a prediction
for each, and their running average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from hermes.aeriel.client._requests import Prepared, to_request
from hermes.aeriel.client._responses import cut, trim
from hermes.aeriel.specs import (
    ModelSpec,
    StreamInput,
    StreamOutput,
    StreamSpec,
    TensorSpec,
)


def finish(outputs, spec: ModelSpec, prepared: Prepared):
    """Both, as an answer to a padded tail would need them."""
    trimmed = trim(outputs, prepared.rows, prepared.of)
    return cut(trimmed, spec, prepared.predictions)


@dataclass
class Stream:
    """An ensemble that streams, and what it answers.

    Its outputs: ``scores`` with a row per kernel; ``average`` with
    ``block`` samples per kernel, each the average of ``num_updates``
    predictions; ``trace``, the same without a channel axis.
    """

    stride: int
    batch: int
    kernel: int
    block: int
    num_updates: int
    channels: int

    @property
    def update_size(self) -> int:
        return self.stride * self.batch

    def spec(self) -> ModelSpec:
        entry = StreamInput(
            "u",
            {"m/x": self.channels},
            self.stride,
            self.update_size,
            self.kernel,
            self.batch,
            0,
        )
        shape = (1, self.channels, self.update_size)
        sizes = {
            "scores": self.batch,
            "average": self.batch * self.block,
            "trace": self.batch * self.block,
        }
        return ModelSpec(
            "model",
            None,
            {"u": TensorSpec("u", shape, np.dtype("f4"))},
            {},
            {"m/x": TensorSpec("m/x", shape, np.dtype("f4"))},
            StreamSpec(
                {"u": entry},
                {n: StreamOutput(n, 0, size) for n, size in sizes.items()},
                None,
            ),
            is_stateful=True,
        )

    def answers(self, samples: np.ndarray) -> list[dict[str, np.ndarray]]:
        """The answer to each update of a stream ``(channels, time)``."""
        padded = np.pad(samples, ((0, 0), (self.kernel, 0)))
        kernels = sliding_window_view(padded, self.kernel, axis=-1)
        kernels = kernels[:, self.stride :: self.stride].swapaxes(0, 1)
        averages = [self.average(kernels, n) for n in range(len(kernels))]
        found = []
        for first in range(0, len(kernels), self.batch):
            rows = slice(first, first + self.batch)
            average = np.concatenate(averages[rows], axis=-1)[None]
            found.append(
                {
                    "scores": kernels[rows].mean(-1),
                    "average": average,
                    "trace": average[:, 0],
                    "other": np.ones(5),
                }
            )
        return found

    def average(self, kernels: np.ndarray, last: int) -> np.ndarray:
        """The block of samples that is ready with one more prediction.

        Each prediction is its kernel's end, repeated to be long enough.
        """
        blocks = []
        for n in range(max(0, last - self.num_updates + 1), last + 1):
            size = self.num_updates * self.block
            prediction = np.resize(kernels[n].T, (size, self.channels)).T
            begin = (self.num_updates - 1 - last + n) * self.block
            start = size - self.block - begin
            blocks.append(prediction[:, start : start + self.block])
        return np.mean(blocks, axis=0)


streams = st.builds(
    Stream,
    stride=st.integers(1, 4),
    batch=st.integers(1, 5),
    kernel=st.integers(4, 9),
    block=st.integers(1, 3),
    num_updates=st.integers(1, 3),
    channels=st.integers(1, 3),
)


@given(streams, st.integers(0, 3), st.data())
def test_the_answer_to_a_tail_is_that_of_its_samples(
    model: Stream, num_full: int, data: st.DataObject
) -> None:
    """Whatever comes after the tail does not show in what is kept."""
    spec = model.spec()
    size = data.draw(st.integers(1, model.update_size))
    rng = np.random.default_rng(size)
    shape = (model.channels, (num_full + 1) * model.update_size)
    samples = rng.normal(size=shape).astype("f4")
    end = num_full * model.update_size + size
    prepared = to_request(spec, samples[:, end - size : end], allow_tail=True)
    sent = samples.copy()
    sent[:, -model.update_size :] = prepared.tensors["u"][0]

    kept = finish(model.answers(sent)[-1], spec, prepared)

    number = size // model.stride
    wanted = model.answers(samples)[-1]
    assert kept["scores"].shape == (number, model.channels)
    np.testing.assert_array_equal(kept["scores"], wanted["scores"][:number])
    items = number * model.block
    for name in ("average", "trace"):
        expected = wanted[name][..., :items]
        # One sample per update: nothing is left, on whichever axis.
        if model.batch * model.block > 1:
            np.testing.assert_array_equal(kept[name], expected)
        assert kept[name].size == expected.size
    np.testing.assert_array_equal(kept["other"], wanted["other"])


def two_streams() -> ModelSpec:
    entries = {
        name: StreamInput(name, {f"m/{name}": 1}, stride, 12, 12, batch, 0)
        for name, stride, batch in (("fast", 3, 4), ("slow", 6, 2))
    }
    outputs = {
        name: StreamOutput(name, 0, size)
        for name, size in (("fast", 4), ("slow", 2), ("none", 7))
    }
    return ModelSpec(
        "m", None, {}, {}, stream=StreamSpec(entries, outputs, None)
    )


def test_streams_of_several_batches_are_cut_alike() -> None:
    answer = {
        "fast": np.arange(8).reshape(4, 2),
        "slow": np.arange(2),
        "none": np.ones((2, 3)),
    }
    found = cut(answer, two_streams(), 1)
    np.testing.assert_array_equal(found["fast"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(found["slow"], [0])
    assert found["none"].shape == (2, 3)
    assert cut({"slow": np.ones(2)}, two_streams(), 0)["slow"].size == 0


def test_a_full_update_is_answered_whole() -> None:
    answer = {"fast": np.ones(4), "slow": np.ones(())}
    assert cut(answer, two_streams(), None) == answer
    assert cut(answer, ModelSpec("m", None, {}, {}), 1) == answer


def test_a_single_number_cannot_be_cut() -> None:
    found = cut({"fast": np.ones(())}, two_streams(), 1)
    assert found["fast"].shape == ()


@given(st.integers(1, 5), st.integers(2, 6))
def test_rows_of_padding_are_taken_off(rows: int, of: int) -> None:
    answer = {
        "batch": np.arange(of * 3).reshape(of, 3),
        "words": np.full(of, b"a", object),
        "total": np.ones((of + 1, of)),
        "number": np.ones(()),
    }
    found = trim(answer, min(rows, of), of)
    np.testing.assert_array_equal(found["batch"], answer["batch"][:rows])
    assert len(found["words"]) == min(rows, of)
    assert found["total"].shape == (of + 1, of)
    assert found["number"].shape == ()
    assert found["batch"].base is answer["batch"].base


def test_an_answer_to_what_was_not_padded_is_left_alone() -> None:
    answer = {"y": np.ones((4, 2))}
    spec = ModelSpec("m", None, {}, {})
    assert trim(answer, None, None) == answer
    assert finish(answer, spec, Prepared({})) == answer


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_batch_comes_back_as_it_was_given(rows: int) -> None:
    spec = ModelSpec(
        "m",
        None,
        {"x": TensorSpec("x", (4, 2), np.dtype("f4"))},
        {"y": TensorSpec("y", (4,), np.dtype("f4"))},
    )
    x = np.arange(rows * 2, dtype="f4").reshape(rows, 2)
    prepared = to_request(spec, x)
    answer = {"y": prepared.tensors["x"].sum(1)}
    np.testing.assert_array_equal(
        finish(answer, spec, prepared)["y"], x.sum(1)
    )
