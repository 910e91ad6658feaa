"""Every prediction gets the time that it speaks about, and only valid ones.

The models here answer with the numbers of the samples that they see, so that
each value says which time belongs to it.
"""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.series import (
    Aligner,
    Chunk,
    Framer,
    Output,
    Prediction,
    SequenceEnd,
    Series,
    Update,
)

START = 1_400_000_000


def numbers(begin, size):
    return np.arange(begin, begin + size, dtype=np.float64)[None]


def chunks(sizes, gaps, rate):
    """Samples that are their own numbers, counted from START."""
    begin = 0
    for size, gap in zip(sizes, gaps, strict=True):
        begin += gap
        start = (round(START * rate) + begin) / rate
        yield Chunk(numbers(begin, size), start, rate)
        begin += size


def framed(framer, packages):
    for package in packages:
        yield from framer.process(package)
    yield from framer.finish()


def served(packages, kernel, stride, answer):
    """Keep a snapshot for each sequence, as a server would, step by step."""
    snapshots, kernels = {}, {}
    for package in packages:
        if isinstance(package, SequenceEnd):
            yield package
            continue
        key = package.sequence
        before = snapshots.get(key, np.zeros(kernel))
        seen = np.concatenate([before, package.data[0, 0]])
        ends = range(kernel + stride, len(seen) + 1, stride)
        fresh = [seen[end - kernel : end] for end in ends]
        snapshots[key] = seen[-kernel:]
        kernels.setdefault(key, []).extend(fresh)
        yield package.answer(answer(kernels[key], len(fresh)))


def aligned(aligner, predictions):
    return [out for p in predictions for out in aligner.process(p)]


def merged(pieces, name):
    """Values and times of each sequence; pieces must be contiguous."""
    found = {}
    for piece in pieces:
        if isinstance(piece, Series) and piece.name == name:
            found.setdefault(piece.sequence, []).append(piece)
    return {
        key: (
            np.concatenate([p.values for p in many]),
            np.concatenate([p.times for p in many]),
        )
        for key, many in found.items()
    }


shapes = st.tuples(
    st.integers(1, 9),  # stride
    st.integers(1, 4),  # batch
    st.integers(0, 30),  # kernel beyond the stride
)
stretches = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=1, max_size=5
)
rates = st.sampled_from([16384.0, 4096.0, 3000.0, 10.0, 100 / 3])


@settings(max_examples=150, deadline=None)
@given(
    shape=shapes,
    stretch=stretches,
    rate=rates,
    pad=st.booleans(),
    reference=st.sampled_from(["start", "centre", "end"]),
)
def test_a_direct_output_has_the_times_of_sliding_windows(
    shape, stretch, rate, pad, reference
):
    stride, batch, more = shape
    kernel = stride + more
    sizes, gaps = zip(*stretch, strict=True)
    framer = Framer(
        stride_size=stride, batch_size=batch, gap="restart", pad=pad
    )
    warmup = -(-kernel // stride) - 1
    aligner = Aligner(
        stride_size=stride,
        snapshot_size=kernel,
        batch_size=batch,
        outputs={"ends": Output(warmup, batch)},
        reference=reference,
    )
    pieces = aligned(
        aligner,
        served(
            framed(framer, chunks(sizes, gaps, rate)),
            kernel,
            stride,
            lambda kernels, n: {
                "ends": np.array([(k[0], k[-1]) for k in kernels[-n:]])
            },
        ),
    )
    expected = {
        (None, i): slow_windows(*part, kernel, stride, batch, pad)
        for i, part in enumerate(slow_sequences(sizes, gaps))
    }
    found = merged(pieces, "ends")
    assert set(found) == {key for key, wanted in expected.items() if wanted}
    for key, (values, times) in found.items():
        assert values.tolist() == expected[key]
        first, last = values.T
        means = {
            "start": first,
            "centre": (first + last + 1) / 2,
            "end": last + 1,
        }
        # one rounding, which hits the nearest float for whole samples
        wanted = (round(START * rate) + means[reference]) / rate
        assert (times == wanted).all()
    ends = [p.sequence for p in pieces if isinstance(p, SequenceEnd)]
    assert ends == list(expected)


def slow_sequences(sizes, gaps):
    """Begin and size of each stretch without gaps."""
    found, begin = [], 0
    for size, gap in zip(sizes, gaps, strict=True):
        begin += gap
        if size and found and sum(found[-1]) == begin:
            found[-1] = found[-1][0], found[-1][1] + size
        elif size:
            found.append((begin, size))
        begin += size
    return found


def slow_windows(begin, size, kernel, stride, batch, pad):
    """First and last sample of each kernel that lies in the data."""
    if not pad:
        size -= size % (stride * batch)
    if size < kernel:
        return []
    every = np.lib.stride_tricks.sliding_window_view(
        np.arange(begin, begin + size), kernel
    )
    ends = np.arange(size - kernel + 1) + kernel
    return [[w[0], w[-1]] for w in every[ends % stride == 0].tolist()]


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    divisor=st.integers(1, 3),
    more=st.integers(0, 9),
    sizes=st.lists(st.integers(0, 80), min_size=1, max_size=4),
    rate=rates,
    as_contract=st.booleans(),
)
def test_an_averaged_output_has_the_times_of_its_samples(
    shape, divisor, more, sizes, rate, as_contract
):
    block, batch, num_updates = shape
    stride = block * divisor
    length = num_updates * block  # of a prediction
    kernel = length * divisor + more
    warmup = -(-kernel // stride) - 1 + num_updates - 1
    stream = contract(
        stride, kernel, batch, {"noise": (warmup * block, batch * block)}
    )
    as_numbers = {
        "stride_size": stride,
        "snapshot_size": kernel,
        "batch_size": batch,
        "outputs": {
            "noise": Output(warmup * block, batch * block, num_updates)
        },
    }
    # One average and one block: the contract says as much of a direct output.
    is_told_apart = num_updates > 1 or block > 1
    if as_contract and is_told_apart:
        aligner = Aligner(stream)
    else:
        aligner = Aligner(**as_numbers)

    def answer(kernels, n):
        windows = [k[kernel - length * divisor :: divisor] for k in kernels]
        average = slow_average(windows, block, num_updates)
        return {"noise": average[None, None, -n * block :]}

    framer = Framer(stride_size=stride, batch_size=batch)
    pieces = aligned(
        aligner,
        served(
            framed(framer, chunks(sizes, [0] * len(sizes), rate)),
            kernel,
            stride,
            answer,
        ),
    )
    total = sum(sizes)
    kernels = total // stride
    items = max(kernels - warmup, 0) * block
    found = merged(pieces, "noise")
    assert bool(found) == bool(items)
    for values, times in found.values():
        assert values.shape == (items, 1)
        spoken = np.rint(values[:, 0])
        assert np.allclose(values[:, 0], spoken, atol=1e-9)
        assert (times == (round(START * rate) + spoken) / rate).all()
        rates_ = {p.sample_rate for p in pieces if isinstance(p, Series)}
        assert rates_ == {rate / divisor}


def slow_average(windows, block, num_updates):
    """Sums of what overlaps, over how many there are; finished ones."""
    size = (len(windows) + num_updates - 1) * block
    sums, counts = np.zeros(size), np.zeros(size)
    for k, window in enumerate(windows):
        sums[k * block : (k + num_updates) * block] += window
        counts[k * block : (k + num_updates) * block] += 1
    # the first ones, to which fewer contribute, are warm-up
    return (sums / counts)[: len(windows) * block]


def contract(stride, kernel, batch, outputs):
    """The parameter hermes.stream."""
    return {
        "version": 1,
        "inputs": [
            {
                "name": "snapshot_update",
                "tensors": [{"name": "a/b", "channels": 2}],
                "stride_size": stride,
                "update_size": stride * batch,
                "snapshot_size": kernel,
                "batch_size": batch,
                "num_warmup": -(-kernel // stride) - 1,
            }
        ],
        "outputs": [
            {"name": name, "num_warmup": warmup, "size": size}
            for name, (warmup, size) in outputs.items()
        ],
        "replay_updates": 3,
    }


def spec_of(stream):
    """What a client makes of it: attributes, and dicts by name."""

    def entries(many):
        return {e["name"]: SimpleNamespace(**e) for e in many}

    return SimpleNamespace(
        stream=SimpleNamespace(
            inputs=entries(stream["inputs"]),
            outputs=entries(stream["outputs"]),
        )
    )


def prediction(outputs, index=0, rate=64.0, size=16, **more):
    start = START + index * size / rate
    return Prediction(outputs, start, rate, (None, 0), index, **more)


STREAM = contract(4, 10, 4, {"score": (2, 4), "noise": (4 * 4, 16)})
SCORE = np.arange(4.0)[:, None]
NOISE = np.arange(32.0).reshape(1, 2, 16)
BOTH = {"score": SCORE, "noise": NOISE}


def test_a_spec_and_the_contract_say_the_same():
    for stream in (STREAM, spec_of(STREAM), spec_of(STREAM).stream):
        aligner = Aligner(stream)
        pieces = list(aligner.process(prediction(BOTH)))
        assert [p.name for p in pieces] == ["score"]
        assert pieces[0].values.tolist() == [[2], [3]]
        assert pieces[0].times.tolist() == [START + 12 / 64, START + 16 / 64]
        assert pieces[0].sample_rate == 16
        (score, noise) = aligner.process(prediction(BOTH, 1))
        assert score.start == START + 20 / 64
        assert noise.start == START + (16 - 2 * 4) / 64
        assert noise.values.shape == (16, 2)
        assert (noise.values == NOISE[0].T).all()


def test_offsets_move_the_times_of_each_output():
    aligner = Aligner(
        STREAM,
        reference={"score": "centre"},
        offset={"noise": -0.5, "score": 1e-3},
    )
    list(aligner.process(prediction(BOTH)))
    score, noise = aligner.process(prediction(BOTH, 1))
    assert score.times == pytest.approx(
        START + (20 - 5 + 4 * np.arange(4)) / 64 + 1e-3, abs=3e-7, rel=0
    )
    assert noise.start == START + 8 / 64 - 0.5


def test_padding_is_cut_off():
    aligner = Aligner(STREAM)
    list(aligner.process(prediction(BOTH)))
    score, noise = aligner.process(prediction(BOTH, 1, num_padded=5))
    assert (len(score.values), len(noise.values)) == (2, 8)
    assert list(aligner.process(prediction(BOTH, 2, num_padded=13))) == []


def test_what_the_client_has_cut_already_is_taken_as_well():
    aligner = Aligner(STREAM, only=("score",))
    list(aligner.process(prediction(BOTH)))
    cut = {"score": SCORE[:2], "noise": NOISE[..., :8]}
    (score,) = aligner.process(prediction(cut, 1, num_padded=5))
    assert score.values.tolist() == [[0], [1]]


@settings(max_examples=60, deadline=None)
@given(
    begin=st.integers(0, 60),
    length=st.integers(1, 40),
    kernel=st.integers(4, 20),
    batch=st.integers(1, 3),
    drop=st.booleans(),
)
def test_kernels_that_see_a_filled_gap_are_marked_or_dropped(
    begin, length, kernel, batch, drop
):
    stride, rate, total = 4, 64.0, 96
    framer = Framer(
        stride_size=stride,
        batch_size=batch,
        gap="fill",
        max_fill=10,
        fill_value=-1,
    )
    aligner = Aligner(
        stride_size=stride,
        snapshot_size=kernel,
        batch_size=batch,
        outputs={"y": Output(-(-kernel // stride) - 1, batch)},
        drop_filled=drop,
    )
    pieces = aligned(
        aligner,
        served(
            framed(
                framer,
                chunks([begin + 1, total], [0, length], rate),
            ),
            kernel,
            stride,
            lambda kernels, n: {
                "y": np.array([[k[-1], k.min()] for k in kernels[-n:]])
            },
        ),
    )
    series = [p for p in pieces if isinstance(p, Series)]
    ends = np.concatenate([p.times for p in series])
    saw = np.concatenate([p.values[:, 1] for p in series]) < 0
    marks = np.concatenate(
        [
            np.zeros(len(p.times), bool) if p.filled is None else p.filled
            for p in series
        ]
    )
    for piece in series:
        assert (np.diff(piece.times) == stride / rate).all()
    size = begin + 1 + length + total
    wanted = [
        e
        for e in range(stride, size + 1, stride)
        if e >= kernel
        and not (drop and e > begin + 1 and e - kernel < begin + 1 + length)
    ]
    assert ends.tolist() == [START + e / rate for e in wanted]
    assert (marks == saw).all()
    assert not (drop and marks.any())


def test_averages_of_kernels_that_see_a_filled_gap_are_marked():
    stride, kernel, num_updates = 4, 8, 3
    aligner = Aligner(
        stride_size=stride,
        snapshot_size=kernel,
        outputs={"y": Output(0, 4, num_updates)},
    )
    marks = []
    for index in range(12):
        filled = ((1, 2),) if index == 5 else ()
        (piece,) = aligner.process(
            prediction({"y": np.zeros((1, 4))}, index, size=4, filled=filled)
        )
        marks.append(piece.filled is not None and bool(piece.filled.all()))
    # kernels 5 and 6 see it, and each is in three averages
    assert [i for i, mark in enumerate(marks) if mark] == [5, 6, 7, 8]


def test_the_end_of_a_sequence_passes_through_and_another_may_begin():
    aligner = Aligner(STREAM, only=("score",))
    list(aligner.process(prediction(BOTH)))
    assert list(aligner.process(SequenceEnd((None, 0)))) == [
        SequenceEnd((None, 0))
    ]
    assert len(list(aligner.process(prediction(BOTH)))) == 1


@pytest.mark.parametrize(
    ("package", "match"),
    [
        (prediction(BOTH, 2), "prediction 2 of sequence .* where 1 at GPS"),
        (prediction(BOTH, 1, size=8), r"1400000000.125 came where 1 at GPS"),
        (prediction(BOTH, 0), "prediction 0 of sequence .* where 1 at GPS"),
        (prediction({"score": SCORE}, 1), r"has the outputs \['score'\], but"),
        (prediction(BOTH | {"x": SCORE}, 1), "'x'], but .* were declared"),
        (
            prediction(BOTH | {"score": SCORE[:3]}, 1),
            "'score' has 3 items for an update, but 4 were declared",
        ),
        (
            prediction(BOTH | {"score": np.zeros(())}, 1),
            "'score' has 0 items for an update",
        ),
        (
            prediction(BOTH | {"noise": np.zeros((2, 16))}, 1),
            r"shape \(2, 16\), but averages have",
        ),
        (Update(SCORE, START, 64.0, 0, 0), "Update came to an Aligner"),
    ],
)
def test_predictions_that_are_not_the_next_are_refused(package, match):
    aligner = Aligner(STREAM)
    list(aligner.process(prediction(BOTH)))
    with pytest.raises(InvalidSeries, match=match):
        list(aligner.process(package))


DIRECT = {"stride_size": 4, "snapshot_size": 8}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "how kernels lie is unknown"),
        (DIRECT, r"only=None of the outputs \[\]: give names"),
        ({"stream": STREAM, "only": ("x",)}, r"only=\('x',\) of the outputs"),
        ({"stream": STREAM, "workers": 2}, "workers=2, but predictions must"),
        ({"stream": STREAM, "reference": "middle"}, "reference='middle' of"),
        ({"stream": STREAM, "offset": float("nan")}, "offset=nan of output"),
        ({"stream": STREAM, "offset": {"x": 1}}, r"offset is given for \['x'"),
        ({"stream": {}}, "{} says nothing of 'inputs'"),
        ({"stream": object()}, "says nothing of 'inputs'"),
        (
            {"stream": contract(4, 8, 4, {"y": (3, 3)})},
            "'y' has 3 items per update of 4 kernels, and warms up for 3",
        ),
        (
            {"stream": STREAM | {"inputs": STREAM["inputs"] * 0}},
            r"inputs of \(stride, kernel, batch\) \[\]",
        ),
        (
            DIRECT | {"outputs": {"y": Output(0, 2)}},
            "'y' has 2 items per update of 1 kernels",
        ),
        (DIRECT | {"outputs": {"y": Output(0, 0)}}, "size of output 'y'=0"),
        (
            DIRECT | {"outputs": {"y": Output(0, 1, 0)}},
            "num_updates of output 'y'=0: give",
        ),
        (
            {"stride_size": 0, "snapshot_size": 8, "outputs": {}},
            "of the outputs",
        ),
        (
            {**DIRECT, "stride_size": 0, "outputs": {"y": Output(0, 1)}},
            "stride_size=0: give a whole",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(InvalidSeries, match=match):
        Aligner(**options)


def test_an_output_can_be_declared_where_the_stream_is_ambiguous():
    stream = contract(4, 8, 4, {"y": (3, 3), "z": (1, 4)})
    aligner = Aligner(stream, outputs={"y": Output(1, 4)})
    found = aligner.process(prediction({"y": SCORE, "z": SCORE}))
    assert {piece.name for piece in found} == {"y", "z"}


def test_the_stage_can_be_sent_to_another_process():
    aligner = pickle.loads(pickle.dumps(Aligner(STREAM)))  # noqa: S301
    (piece,) = aligner.process(prediction(BOTH))
    assert repr(pickle.loads(pickle.dumps(piece))) == (  # noqa: S301
        "Series('score', float64[2, 1], start=1400000000.1875,"
        " sample_rate=16.0, sequence=(None, 0))"
    )
