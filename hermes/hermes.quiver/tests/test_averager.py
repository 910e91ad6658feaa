"""The averager's graph against the plain loop it stands for."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.quiver.errors import DtypeMismatch, ShapeMismatch
from hermes.quiver.streaming import OnlineAverager


@st.composite
def averagers(draw: st.DrawFn) -> OnlineAverager:
    update_size = draw(st.integers(1, 6))
    num_updates = draw(st.integers(1, 8))
    span = update_size * num_updates
    return OnlineAverager(
        update_size=update_size,
        num_updates=num_updates,
        batch_size=draw(st.integers(1, 5)),
        prediction_size=span + draw(st.integers(0, 5)),
        channels=draw(st.sampled_from([None, 1, 3])),
        dtype=draw(st.sampled_from(["float32", "float64"])),
        divide_by_contributions=draw(st.booleans()),
    )


def predictions_for(averager: OnlineAverager, num_requests: int) -> np.ndarray:
    channels = () if averager.channels is None else (averager.channels,)
    size = num_requests * averager.batch_size, *channels
    rng = np.random.default_rng(0)
    shape = (*size, averager.prediction_size)
    return rng.standard_normal(shape).astype(averager.dtype)


def stream(averager: OnlineAverager, predictions: np.ndarray) -> np.ndarray:
    """What the server would give out, joined along time."""
    session = onnxruntime.InferenceSession(
        averager.to_onnx().SerializeToString()
    )
    states = {
        s.input_name: np.zeros(s.shape, s.dtype) for s in averager.states
    }
    names = ["output_stream", *(s.output_name for s in averager.states)]
    outputs = []
    for start in range(0, len(predictions), averager.batch_size):
        batch = predictions[start : start + averager.batch_size]
        output, *kept = session.run(names, {"update": batch, **states})
        states = dict(zip(states, kept, strict=True))
        assert output.shape == averager.output_shape
        outputs.append(output[0])
    return np.concatenate(outputs, axis=-1)


def loop(averager: OnlineAverager, predictions: np.ndarray) -> np.ndarray:
    """Add up, sample by sample, what the predictions say about it."""
    block, depth = averager.update_size, averager.num_updates
    blocks = []
    for last in range(len(predictions)):
        first = max(0, last - depth + 1)
        total = np.zeros_like(predictions[0][..., :block])
        for index in range(first, last + 1):
            # the newest prediction covers it earliest of those it uses
            begin = averager.prediction_size - block * (depth - last + index)
            total = total + predictions[index][..., begin : begin + block]
        count = last - first + 1 if averager.divide_by_contributions else depth
        blocks.append(total / predictions.dtype.type(count))
    return np.concatenate(blocks, axis=-1)


@settings(max_examples=60, deadline=None)
@given(averagers(), st.integers(1, 8))
def test_the_stream_is_the_average_to_the_last_bit(
    averager: OnlineAverager, num_requests: int
) -> None:
    predictions = predictions_for(averager, num_requests)
    np.testing.assert_array_equal(
        stream(averager, predictions), loop(averager, predictions)
    )


def test_batches_do_not_change_a_bit() -> None:
    results = []
    for batch_size in (1, 3, 12):
        averager = OnlineAverager(4, 6, batch_size, 30)
        results.append(
            stream(averager, predictions_for(averager, 24 // batch_size))
        )
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_constant_is_its_own_average_from_the_start() -> None:
    averager = OnlineAverager(8, 16, 4, 128)
    ones = np.full((40, 128), 0.1, np.float32)
    averages = stream(averager, ones)
    np.testing.assert_allclose(averages, 0.1, rtol=1e-6)
    plain = OnlineAverager(8, 16, 4, 128, divide_by_contributions=False)
    assert stream(plain, ones)[0] == pytest.approx(0.1 / 16)


def test_deep_averages_stay_close_to_double_precision() -> None:
    averager = OnlineAverager(8, 256, 64, 4096)
    predictions = predictions_for(averager, 10)
    double = loop(averager, predictions.astype(np.float64))
    np.testing.assert_allclose(
        stream(averager, predictions), double, rtol=0, atol=1e-6
    )


def test_the_newest_samples_of_a_prediction_are_used() -> None:
    averager = OnlineAverager(2, 2, 1, 6)
    (row,) = np.arange(6, dtype=np.float32)[None]
    averages = stream(averager, row[None])
    # of 0 1 2 3 | 4 5 the last two blocks are used; the older one is due
    np.testing.assert_array_equal(averages, [2, 3])


@pytest.mark.parametrize(
    ("sizes", "error", "match"),
    [
        ({"update_size": 0}, ShapeMismatch, "update_size is 0"),
        ({"num_updates": 0}, ShapeMismatch, "num_updates is 0"),
        ({"batch_size": 0}, ShapeMismatch, "batch_size is 0"),
        (
            {"num_updates": 9},
            ShapeMismatch,
            "averaging 9 updates of 2 samples needs predictions of 18",
        ),
        ({"dtype": np.int32}, DtypeMismatch, "floating point, not int32"),
    ],
)
def test_impossible_averages_are_refused(sizes, error, match) -> None:
    arguments = {
        "update_size": 2,
        "num_updates": 4,
        "batch_size": 1,
        "prediction_size": 16,
    }
    with pytest.raises(error, match=match):
        OnlineAverager(**{**arguments, **sizes})
