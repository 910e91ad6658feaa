"""Chunks of any length become updates of one, with exact times."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.stillwater.errors import GapFound, InvalidSeries, OverlapFound
from hermes.stillwater.series import (
    Chunk,
    Framer,
    SequenceEnd,
    StreamEnd,
    Update,
    stride_size,
)

RATE = 4096.0
START = 1_400_000_000


def run(framer, packages):
    given_ = [out for p in packages for out in framer.process(p)]
    return [*given_, *framer.finish()]


def resent(package):
    return pickle.loads(pickle.dumps(package))  # noqa: S301


def updates(packages):
    return [p for p in packages if isinstance(p, Update)]


def ends(packages):
    return [p.sequence for p in packages if isinstance(p, SequenceEnd)]


def samples(size, begin=0, channels=2, dtype="float32"):
    row = np.arange(begin, begin + size, dtype=dtype)
    return np.stack([row + 1000 * i for i in range(channels)])


def chunk(begin, size, rate=RATE, stream=None, **options):
    time = (START * round(rate) + begin) / rate
    return Chunk(samples(size, begin, **options), time, rate, stream)


def joined(found):
    return np.concatenate([u.data[0] for u in found], axis=1)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=12),
    stride=st.integers(1, 7),
    batch=st.integers(1, 4),
    pad=st.booleans(),
)
def test_updates_are_the_samples_in_order_whatever_the_chunks(
    sizes, stride, batch, pad
):
    framer = Framer(stride_size=stride, batch_size=batch, pad=pad)
    begins = np.cumsum([0, *sizes])
    size, total = stride * batch, int(begins[-1])
    out = run(
        framer,
        [chunk(int(b), n) for b, n in zip(begins, sizes, strict=False)],
    )
    found = updates(out)
    number = -(-total // size) if pad else total // size
    assert [u.index for u in found] == list(range(number))
    assert all(u.data.shape == (1, 2, size) for u in found)
    assert [u.start for u in found] == [
        START + i * size / RATE for i in range(number)
    ]
    if found:
        whole = joined(found)
        kept = min(total, number * size)
        assert (whole[:, :kept] == samples(kept)).all()
        assert not whole[:, kept:].any()
        assert found[-1].num_padded == number * size - kept
        assert not any(u.num_padded for u in found[:-1])
    assert ends(out) == ([(None, 0)] if total else [])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_of_interleaved_streams_is_cut_as_if_alone(data):
    sizes = {
        s: data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=6))
        for s in ("H1", "L1", 3)
    }
    chunks = {
        s: [
            chunk(int(b), n, stream=s)
            for b, n in zip(np.cumsum([0, *many]), many, strict=False)
        ]
        for s, many in sizes.items()
    }
    order = data.draw(
        st.permutations([s for s, many in sizes.items() for _ in many])
    )
    pending = {s: iter(c) for s, c in chunks.items()}
    together = run(Framer(8), [next(pending[s]) for s in order])
    for stream, alone in chunks.items():
        expected = run(Framer(8), alone)
        found = [
            p
            for p in together
            if isinstance(p, Update | SequenceEnd) and p.sequence[0] == stream
        ]
        assert list(map(repr, found)) == list(map(repr, expected))
        for a, b in zip(updates(found), updates(expected), strict=True):
            assert (a.data == b.data).all()


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    gap=st.sampled_from(["fill", "restart"]),
    overlap=st.sampled_from(["trim", "restart"]),
    size=st.integers(1, 9),
    pad=st.booleans(),
)
def test_gaps_and_overlaps_follow_the_policy_sample_by_sample(
    data, gap, overlap, size, pad
):
    steps = data.draw(
        st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 15)), max_size=8)
    )
    framer = Framer(
        size,
        gap=gap,
        overlap=overlap,
        max_fill=1 if gap == "fill" else None,
        fill_value=-5,
        pad=pad,
    )
    packages, expected = [], []  # one dict of sample -> value a sequence
    position = 100
    for shift, length in steps:
        begin = position + shift
        packages.append(chunk(begin, length, channels=1))
        if length:
            position = slow_step(expected, begin, length, gap, overlap)
    out = run(framer, packages)
    assert ends(out) == [(None, i) for i in range(len(expected))]
    for number, wanted in enumerate(expected):
        found = [u for u in updates(out) if u.sequence == (None, number)]
        if not pad:
            kept = len(wanted) - len(wanted) % size
            wanted = {k: wanted[k] for k in sorted(wanted)[:kept]}  # noqa: PLW2901
        assert [u.index for u in found] == list(range(-(-len(wanted) // size)))
        if not wanted:
            continue
        values = joined(found)[0]
        first = min(wanted)
        assert found[0].start == START + first / RATE
        assert sorted(wanted) == list(range(first, first + len(wanted)))
        got = values[: len(wanted)]
        assert got.tolist() == [wanted[k] for k in sorted(wanted)]
        assert len(values) - len(wanted) == found[-1].num_padded < size
        marked = {
            first + u.index * size + i
            for u in found
            for begin, end in u.filled
            for i in range(begin, end)
        }
        assert marked == {k for k, v in wanted.items() if v == -5}


def slow_step(expected, begin, length, gap, overlap):
    """What a chunk does, the slow and obvious way."""
    due = max(expected[-1]) + 1 if expected else None
    policy = "restart"
    if due is not None and begin != due:
        policy = gap if begin > due else overlap
    elif due is not None:
        policy = None
    if policy == "restart":
        expected.append({})
        due = begin
    if policy == "fill":
        expected[-1].update(dict.fromkeys(range(due, begin), -5))
    for sample in range(max(begin, due), begin + length):
        expected[-1][sample] = float(sample)
    return max(expected[-1]) + 1


def test_times_do_not_drift_in_ten_years_at_16384_hz():
    rate, years = 16384.0, 10 * 365 * 86400
    framer = Framer(4096, gap="restart")
    first = list(framer.process(Chunk(np.zeros((1, 4096)), START, rate)))
    size = 16384 * 3 + 1
    late = START + years + 1 / rate
    out = list(framer.process(Chunk(np.zeros((1, size)), late, rate)))
    assert first[0].start == START
    starts = [u.start for u in updates(out)]
    assert starts == [late + 0.25 * i for i in range(12)]


@pytest.mark.parametrize(
    "rate", [16384.0, 4000.0, 3000.0, 1 / 60, 100 / 3, 1e5]
)
def test_starts_that_floats_round_are_no_gaps(rate):
    framer = Framer(7)
    origin = round(START * rate)
    size = 10
    packages = [
        Chunk(np.zeros((1, size)), (origin + i * size) / rate, rate)
        for i in range(1000)
    ]
    out = updates(run(framer, packages))
    assert len(out) == -(-10000 // 7)
    assert [u.start for u in out] == [
        (origin + i * 7) / rate for i in range(len(out))
    ]


def test_updates_within_a_chunk_are_views_of_it():
    data = samples(1000)
    out = updates(Framer(100).process(Chunk(data, START, RATE)))
    assert len(out) == 10
    assert all(np.shares_memory(u.data, data) for u in out)


def test_updates_of_several_chunks_own_their_samples():
    framer = Framer(100)
    first, second = samples(150), samples(150, 150)
    list(framer.process(Chunk(first, START, RATE)))
    (update,) = [
        u
        for u in framer.process(Chunk(second, START + 150 / RATE, RATE))
        if u.index == 1
    ]
    first[:], second[:] = -1, -1
    assert (update.data[0] == samples(100, 100)).all()


def test_samples_are_converted_to_the_declared_dtype():
    framer = Framer(4, dtype="float32")
    out = updates(run(framer, [chunk(0, 6, dtype="float64")]))
    assert [u.data.dtype for u in out] == ["float32", "float32"]
    assert (joined(out)[:, :6] == samples(6)).all()


def test_several_inputs_take_their_channels():
    inputs = {"strain": slice(0, 2), "witness": [3, 2], "state": 4}
    framer = Framer(4, inputs=inputs)
    data = samples(4, channels=5)
    (update,) = framer.process(Chunk(data, START, RATE))
    assert (update.data["strain"] == data[None, :2]).all()
    assert (update.data["witness"] == data[None, [3, 2]]).all()
    assert (update.data["state"] == data[None, 4:]).all()


def test_a_stream_that_ended_begins_another_sequence():
    framer = Framer(4)
    packages = [
        chunk(0, 5, stream="a"),
        StreamEnd("a"),
        StreamEnd("never seen"),
        chunk(100, 3, stream="a", channels=1),
    ]
    out = run(framer, packages)
    assert ends(out) == [("a", 0), ("a", 1)]
    assert [u.num_padded for u in updates(out)] == [0, 3, 1]


def test_chunks_of_no_samples_change_nothing():
    framer = Framer(4)
    out = run(framer, [chunk(50, 0), chunk(0, 2), chunk(9, 0), chunk(2, 2)])
    assert [u.start for u in updates(out)] == [START]


def test_a_gap_is_named_in_gps_and_samples():
    framer = Framer(4)
    list(framer.process(chunk(0, 4096, stream="H1")))
    match = (
        r"8192 samples of stream 'H1' are missing: GPS 1400000001.0 to"
        r" 1400000003.0, 2 s \(samples 5734400004096 to 5734400012288 at 4096"
        r" Hz\); say gap='fill' with max_fill seconds, or gap='restart'"
    )
    with pytest.raises(GapFound, match=match):
        list(framer.process(chunk(3 * 4096, 1, stream="H1")))


def test_an_overlap_is_named_in_gps_and_samples():
    framer = Framer(4)
    list(framer.process(chunk(0, 4096)))
    match = r"1024 samples of stream None come again: GPS 1400000000.5 to"
    with pytest.raises(OverlapFound, match=match):
        list(framer.process(chunk(2048, 1024)))


def test_a_gap_too_long_to_fill_is_an_error():
    framer = Framer(4, gap="fill", max_fill=0.5)
    list(framer.process(chunk(0, 8)))
    with pytest.raises(GapFound, match=r"longer than max_fill=0\.5 s: raise"):
        list(framer.process(chunk(8 + 2049, 8)))


def test_a_gap_too_long_to_fill_restarts_if_declared():
    framer = Framer(4, gap="fill", max_fill=0.5, long_gap="restart")
    out = run(framer, [chunk(0, 8), chunk(8 + 2048, 8), chunk(9000, 8)])
    assert ends(out) == [(None, 0), (None, 1)]
    assert sum(bool(u.filled) for u in updates(out)) == 512


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (chunk(4, 4, rate=2048.0), "2 channels of float32 at 2048 Hz at GPS"),
        (chunk(4, 4, channels=3), "to 3 channels of float32"),
        (chunk(4, 4, dtype="float64"), "to 2 channels of float64"),
        (Chunk(np.zeros(4), START, RATE), r"shape \(4,\): give a numpy"),
        (Chunk([[1.0]], START, RATE), r"shape list: give a numpy"),
    ],
)
def test_what_changes_within_a_stream_is_refused(second, match):
    framer = Framer(4)
    list(framer.process(chunk(0, 4)))
    with pytest.raises(InvalidSeries, match=match):
        list(framer.process(second))


@pytest.mark.parametrize(
    ("package", "match"),
    [
        (Chunk(samples(4), START + 0.3 / RATE, RATE), "0.300 samples off"),
        (Chunk(samples(4), float("nan"), RATE), "start=nan .* finite GPS"),
        (Chunk(samples(4), START, 0.0), "sample_rate=0.0: give samples per"),
        (Chunk(samples(4), START, None), "sample_rate=None: give samples per"),
        (Chunk(samples(4), START + 3e-7, 4e6), "cannot tell samples at 4e"),
        (Chunk(samples(4), START, RATE, ["H1"]), r"\['H1'\] cannot tell"),
        (Chunk(np.array([["a"]]), START, RATE), "<U1, which do not become"),
        (samples(4), "ndarray came to a Framer, which takes Chunks"),
    ],
)
def test_what_is_no_chunk_is_refused(package, match):
    with pytest.raises(InvalidSeries, match=match):
        list(Framer(4).process(package))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dtype": "float32"}, "complex64, which do not become float32"),
        ({"sample_rate": 16384}, "but sample_rate=16384 was declared"),
        ({"inputs": {"a": [2]}}, r"inputs\['a'\]=\[2\] are no channels"),
        ({"inputs": {"a": slice(2, 2)}}, "are no channels of data with 2"),
        ({"inputs": {"a": 7}}, r"inputs\['a'\]=7 are no channels"),
    ],
)
def test_chunks_that_do_not_fit_the_options_are_refused(options, match):
    framer = Framer(4, **options)
    with pytest.raises(InvalidSeries, match=match):
        list(framer.process(chunk(0, 4, dtype="complex64")))


def test_integers_are_not_filled_with_what_is_none():
    framer = Framer(4, gap="fill", max_fill=1, fill_value=float("nan"))
    with pytest.raises(InvalidSeries, match="fill_value=nan is no int16"):
        list(framer.process(chunk(0, 4, dtype="int16")))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "the size of updates is unknown"),
        ({"batch_size": 2}, "the size of updates is unknown"),
        ({"update_size": 8, "batch_size": 2}, "size of updates is unknown"),
        ({"update_size": 0}, "update_size=0: give a whole number"),
        ({"update_size": 1.5}, "update_size=1.5: give a whole number"),
        ({"stride_size": True}, "stride_size=True: give a whole number"),
        (
            {"update_size": 8, "stride_size": 3, "batch_size": 2},
            "update_size=8, but stride_size x batch_size is 6",
        ),
        (
            {"inference_sampling_rate": 3, "sample_rate": 4096},
            "is 1365.33 samples between predictions",
        ),
        ({"inference_sampling_rate": 3}, "give it with the sample_rate"),
        ({"update_size": 1, "gap": "trim"}, "gap='trim': give one of error"),
        ({"update_size": 1, "overlap": "fill"}, "overlap='fill': give one"),
        ({"update_size": 1, "long_gap": "fill"}, "long_gap='fill': give"),
        ({"update_size": 1, "gap": "fill"}, "gap='fill' with max_fill=None"),
        ({"update_size": 1, "max_fill": 1}, "gap='error' with max_fill=1"),
        (
            {"update_size": 1, "gap": "fill", "max_fill": 0},
            "max_fill=0: give seconds",
        ),
        ({"update_size": 1, "sample_rate": -1}, "sample_rate=-1: give"),
        ({"update_size": 1, "workers": 2}, "workers=2, but chunks of a"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(InvalidSeries, match=match):
        Framer(**options)


def test_the_stride_follows_from_the_rates():
    framer = Framer(
        inference_sampling_rate=512, sample_rate=4096, batch_size=2
    )
    (update,) = framer.process(chunk(0, 16))
    assert update.data.shape == (1, 2, 16)
    assert stride_size(16384, 0.5) == 32768
    with pytest.raises(InvalidSeries, match=r"is 0\.5 samples between"):
        stride_size(256, 512)


def test_packages_and_the_stage_can_be_sent_to_another_process():
    framer = resent(Framer(4))
    (update,) = framer.process(resent(chunk(0, 4)))
    copy = resent(update)
    assert repr(copy) == repr(update)
    assert repr(update) == (
        "Update(float32[1, 2, 4], start=1400000000.0, sequence=(None, 0),"
        " index=0, num_padded=0)"
    )
    prediction = copy.answer({"y": np.zeros((1, 2))})
    assert resent(prediction).sequence == (None, 0)
    assert repr(prediction).startswith("Prediction({y: float64[1, 2]},")
    assert chunk(8, 4).end == START + 12 / RATE
    assert repr(chunk(0, 4)).startswith("Chunk(float32[2, 4], start=14")
