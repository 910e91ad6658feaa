"""The snapshotter's graph against the plain loop it stands for."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from hermes.quiver.errors import ShapeMismatch
from hermes.quiver.streaming import Snapshotter, StreamedTensor

DTYPES = ("float32", "float64", "float16", "int32")


@st.composite
def snapshotters(draw: st.DrawFn) -> Snapshotter:
    snapshot_size = draw(st.integers(1, 40))
    channels = draw(
        st.lists(
            st.one_of(st.none(), st.integers(1, 3)), min_size=1, max_size=4
        )
    )
    return Snapshotter(
        [StreamedTensor(f"t{i}", c) for i, c in enumerate(channels)],
        snapshot_size=snapshot_size,
        stride_size=draw(st.integers(1, snapshot_size)),
        batch_size=draw(st.integers(1, 5)),
        dtype=draw(st.sampled_from(DTYPES)),
    )


def stream(snapshotter: Snapshotter, samples: np.ndarray) -> list[np.ndarray]:
    """The kernels of each tensor, as the server would make them."""
    session = onnxruntime.InferenceSession(
        snapshotter.to_onnx().SerializeToString()
    )
    (kept,) = snapshotter.states
    state = np.zeros(kept.shape, samples.dtype)
    names = [tensor.name for tensor in snapshotter.tensors]
    kernels = []
    size = snapshotter.update_size
    for start in range(0, samples.shape[-1], size):
        update = samples[None, :, start : start + size]
        *outputs, state = session.run(
            [*names, kept.output_name],
            {"snapshot_update": update, kept.input_name: state},
        )
        kernels.append(outputs)
    return [np.concatenate(parts) for parts in zip(*kernels, strict=True)]


def loop(snapshotter: Snapshotter, samples: np.ndarray) -> list[np.ndarray]:
    """The slow obvious way: zeros before the stream, a window per stride."""
    kernel, stride = snapshotter.snapshot_size, snapshotter.stride_size
    padded = np.pad(samples, ((0, 0), (kernel, 0)))
    expected = []
    first = 0
    for tensor in snapshotter.tensors:
        part = padded[first : first + tensor.num_channels]
        first += tensor.num_channels
        windows = []
        for end in range(kernel + stride, padded.shape[-1] + 1, stride):
            window = part[:, end - kernel : end]
            windows.append(window[0] if tensor.channels is None else window)
        expected.append(np.stack(windows))
    return expected


@settings(max_examples=60, deadline=None)
@given(snapshotters(), st.integers(1, 6))
def test_streamed_kernels_are_the_sliding_windows(
    snapshotter: Snapshotter, num_updates: int
) -> None:
    rng = np.random.default_rng(0)
    size = num_updates * snapshotter.update_size
    samples = rng.integers(1, 100, (snapshotter.num_channels, size))
    samples = samples.astype(snapshotter.dtype)

    for actual, expected in zip(
        stream(snapshotter, samples), loop(snapshotter, samples), strict=True
    ):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@settings(max_examples=60, deadline=None)
@given(snapshotters())
def test_exactly_the_warmup_kernels_are_padded(
    snapshotter: Snapshotter,
) -> None:
    num_updates = snapshotter.replay_updates + 2
    size = num_updates * snapshotter.update_size
    samples = np.ones((snapshotter.num_channels, size), snapshotter.dtype)

    kernels, *_ = stream(snapshotter, samples)

    is_full = (kernels == 1).reshape(len(kernels), -1).all(axis=1)
    assert not is_full[: snapshotter.num_warmup].any()
    assert is_full[snapshotter.num_warmup :].all()


@settings(max_examples=30, deadline=None)
@given(snapshotters())
def test_replay_updates_rebuild_the_state(snapshotter: Snapshotter) -> None:
    rng = np.random.default_rng(0)
    depth, size = snapshotter.replay_updates, snapshotter.update_size
    shape = (snapshotter.num_channels, (depth + 3) * size)
    samples = rng.integers(1, 100, shape).astype(snapshotter.dtype)

    whole = stream(snapshotter, samples)
    replayed = stream(snapshotter, samples[:, 2 * size :])

    for a, b in zip(whole, replayed, strict=True):
        last = snapshotter.batch_size
        np.testing.assert_array_equal(a[-last:], b[-last:])


def test_kernels_do_not_overlap_when_the_stride_is_the_kernel() -> None:
    snapshotter = Snapshotter([StreamedTensor("x", 2)], 8, 8)
    samples = np.arange(48, dtype=np.float32).reshape(2, 24)

    (kernels,) = stream(snapshotter, samples)

    assert snapshotter.num_warmup == 0
    np.testing.assert_array_equal(
        kernels, samples.reshape(2, 3, 8).transpose(1, 0, 2)
    )


def test_a_stride_of_one_gives_every_window() -> None:
    snapshotter = Snapshotter([StreamedTensor("x", 1)], 16, 1, batch_size=4)
    samples = np.arange(64, dtype=np.float32)[None]

    (kernels,) = stream(snapshotter, samples)

    np.testing.assert_array_equal(
        kernels[snapshotter.num_warmup :, 0],
        sliding_window_view(samples[0], 16),
    )


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"stride_size": 9}, "stride_size=9 is larger than the kernel of 8"),
        ({"stride_size": 0}, "stride_size is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"tensors": [StreamedTensor("x", 0)]}, "channels of x is 0"),
        ({"tensors": []}, "needs at least one tensor"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict, match: str) -> None:
    arguments = {
        "tensors": [StreamedTensor("x", 2)],
        "snapshot_size": 8,
        "stride_size": 2,
    }
    with pytest.raises(ShapeMismatch, match=match):
        Snapshotter(**{**arguments, **sizes})
