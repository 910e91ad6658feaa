"""Sources give chunks; a replay gives them when they would have come."""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hermes.stillwater import series
from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series import (
    ArraySource,
    Chunk,
    GeneratorSource,
    HDF5Source,
    Lateness,
    Replay,
    StreamEnd,
)

RATE = 256.0
START = 1_400_000_000.0
DATA = np.arange(2000, dtype="float32").reshape(2, 1000)


def run(source):
    source.setup()
    try:
        return list(source.process(None))
    finally:
        source.teardown()


def joined(packages):
    *chunks, end = packages
    assert isinstance(end, StreamEnd)
    for a, b in itertools.pairwise(chunks):
        assert b.start == a.start + a.data.shape[1] / a.sample_rate
    return np.concatenate([c.data for c in chunks], axis=1)


@pytest.mark.parametrize("chunk_size", [1, 7, 1000, 5000, None])
def test_an_array_comes_in_chunks(chunk_size):
    source = ArraySource(DATA, RATE, START, chunk_size, stream="H1")
    packages = run(pickle.loads(pickle.dumps(source)))  # noqa: S301
    assert (joined(packages) == DATA).all()
    assert packages[0].start == START
    assert packages[-1] == StreamEnd("H1")
    size = chunk_size or round(RATE)
    assert len(packages) - 1 == -(-1000 // size)


def test_one_channel_needs_no_axis_of_its_own():
    packages = run(ArraySource(DATA[0], RATE, START))
    assert (joined(packages) == DATA[:1]).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": np.zeros((1, 2, 3))}, r"data of shape \(1, 2, 3\): give"),
        ({"sample_rate": math.inf}, "sample_rate=inf: give samples"),
        ({"start": START + 0.001}, "0.256 samples off"),
        ({"chunk_size": 0}, "chunk_size=0: give a whole number"),
    ],
)
def test_arrays_that_are_no_series_are_refused(options, match):
    with pytest.raises(InvalidSeries, match=match):
        ArraySource(**{"data": DATA, "sample_rate": RATE} | options)


def two_streams(size):
    for i in range(3):
        for stream in ("H1", "L1"):
            data = DATA[:, i * size : (i + 1) * size]
            yield Chunk(data, START + i * size / RATE, RATE, stream)
    yield StreamEnd("H1")


def test_a_generator_function_is_a_source():
    source = GeneratorSource(two_streams, 10)
    packages = run(source)
    assert source.name == "GeneratorSource"
    assert [p.stream for p in packages] == ["H1", "L1"] * 3 + ["H1"]


def test_what_a_generator_gives_must_be_chunks():
    source = GeneratorSource(lambda: [DATA], name="mine")
    with pytest.raises(InvalidSeries, match="'mine' gave ndarray: let it"):
        run(source)
    with pytest.raises(InvalidSeries, match="is no function: give the gen"):
        GeneratorSource(two_streams(10))


def write(path, data, attributes, name="strain"):
    with h5py.File(path, "a") as file:
        file[name] = data
        file[name].attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    "attributes",
    [
        {"x0": START, "dx": 1 / RATE, "xunit": "s"},
        {"t0": START, "dt": 1 / RATE},
        {"Xstart": int(START), "Xspacing": 1 / RATE, "Npoints": 1000},
        {"start_time": START, "delta_t": np.array([1 / RATE])},
        {"start": START, "sample_rate": RATE},
    ],
)
def test_files_of_other_tools_tell_their_times(tmp_path, attributes):
    path = write(tmp_path / "a.h5", DATA, attributes)
    packages = run(HDF5Source(path, "strain", chunk_size=99, stream="H1"))
    assert (joined(packages) == DATA).all()
    assert packages[0].data.dtype == DATA.dtype
    assert (packages[0].start, packages[0].sample_rate) == (START, RATE)
    assert packages[0].stream == "H1"


def test_files_come_in_the_order_of_their_times(tmp_path):
    paths = [
        write(
            tmp_path / f"{i}.h5",
            DATA[:, begin : begin + 250],
            {"x0": START + begin / RATE, "dx": 1 / RATE},
        )
        for i, begin in enumerate([750, 0, 500, 250])
    ]
    source = HDF5Source(list(map(str, paths)), ["strain"], chunk_size=100)
    packages = run(pickle.loads(pickle.dumps(source)))  # noqa: S301
    assert (joined(packages) == DATA).all()
    assert len(packages) == 4 * 3 + 1


def test_datasets_are_joined_to_channels(tmp_path):
    facts = {"x0": START, "dx": 1 / RATE}
    path = write(tmp_path / "a.h5", DATA[0], facts, "H1/strain")
    write(path, DATA[1], facts, "L1/strain")
    packages = run(HDF5Source(path, ["L1/strain", "H1/strain"]))
    assert (joined(packages) == DATA[::-1]).all()
    assert len(packages) == 5


def test_times_may_be_given_instead_of_attributes(tmp_path):
    path = write(tmp_path / "a.h5", DATA, {})
    source = HDF5Source(path, "strain", sample_rate=RATE, start=START)
    assert (joined(run(source)) == DATA).all()


def test_rates_whose_inverse_is_no_float_are_whole_numbers(tmp_path):
    path = write(tmp_path / "a.h5", DATA, {"x0": START, "dx": 1 / 49})
    assert 1 / (1 / 49) != 49
    assert run(HDF5Source(path, "strain"))[0].sample_rate == 49
    path = write(tmp_path / "b.h5", DATA, {"x0": START, "dx": 60.0})
    chunk = run(HDF5Source(path, "strain", start=600))[0]
    assert (chunk.sample_rate, chunk.data.shape) == (1 / 60, (2, 1))


@pytest.mark.parametrize(
    ("name", "data", "facts", "match"),
    [
        ("strain", DATA, {"dx": 1}, r"\['dx'\], none of which .*: give start"),
        ("strain", DATA, {"x0": 0}, "none of which is .*: give sample_rate"),
        ("strain", DATA, {"x0": 0.5, "dx": 1}, r"a\.h5: start=0\.5 is 0\.500"),
        ("strain", DATA, {"x0": 0, "dx": 0}, "samples 0.0 s apart: give"),
        ("strain", DATA[None], {}, r"shape \(1, 2, 1000\): name datasets"),
        ("other", DATA, {}, r"has no 'strain', but \['other'\]: name"),
        ("strain/a", DATA, {}, r"group without segments, of \['a'\]: name"),
    ],
)
def test_files_without_times_are_refused(tmp_path, name, data, facts, match):
    path = write(tmp_path / "a.h5", data, facts, name)
    with pytest.raises(InvalidSeries, match=match):
        run(HDF5Source(path, "strain"))


def test_datasets_that_do_not_fit_together_are_refused(tmp_path):
    path = write(tmp_path / "a.h5", DATA[0], {"x0": 0, "dx": 1}, "a/0")
    write(path, DATA[1], {"x0": 1, "dx": 1}, "b")
    write(path, DATA[1], {"x0": 9999, "dx": 1}, "a/1")
    with pytest.raises(InvalidSeries, match=r"differ in \(start, rate, sam"):
        run(HDF5Source(path, ["a/0", "b"]))
    with pytest.raises(InvalidSeries, match="different numbers of segments"):
        run(HDF5Source(path, ["a", "b"]))


def test_what_is_no_hdf5_is_refused(tmp_path):
    with pytest.raises(InvalidSeries, match="cannot be read as HDF5: "):
        run(HDF5Source(tmp_path / "missing.h5", "strain"))
    with pytest.raises(InvalidSeries, match="give one of each at least"):
        HDF5Source([], "strain")
    with pytest.raises(InvalidSeries, match="chunk_size=0: give a whole"):
        HDF5Source("a", "strain", chunk_size=0)


@pytest.mark.parametrize(
    ("call", "module", "extra"),
    [
        ("HDF5Source('a', 'b')", "h5py", "hdf5"),
        ("HDF5Sink('a.h5')", "h5py", "hdf5"),
        ("ParquetSink('a.parquet')", "pyarrow", "parquet"),
    ],
)
def test_a_missing_extra_is_named(call, module, extra):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from hermes.stillwater.errors import ExtraMissing\n"
        "from hermes.stillwater.series import *\n"
        f"try: {call}\n"
        "except ExtraMissing as error: print(error)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert f"needs the extra '{extra}' of hermes-stillwater" in found.stdout


class Clock:
    """Time passes while somebody sleeps or works."""

    def __init__(self, sleeps_short=1.0):
        self.now = 5.0
        self.sleeps_short = sleeps_short

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += max(seconds * self.sleeps_short, 1e-6)


def replayed(source, clock, work=0.0, **options):
    """When each chunk came, seconds after the begin."""
    replay = Replay(source, clock=clock, sleep=clock.sleep, **options)
    times = []
    replay.setup()
    for _ in replay.process(None):
        times.append(clock.now - 5.0)
        clock.now += work
    replay.teardown()
    return times, replay.statistics()


def test_a_chunk_comes_when_its_last_sample_would_exist():
    times, statistics = replayed(
        ArraySource(DATA, RATE, START, 64), Clock(), work=0.1
    )
    assert times[:15] == pytest.approx([0.25 * (i + 1) for i in range(15)])
    assert times[15] == pytest.approx(1000 / RATE)
    assert statistics == Lateness(16, 0, 0.0)


def test_a_replay_may_be_faster_and_does_not_drift():
    data = np.zeros(100_000)
    source = ArraySource(data, 10.0, START, 1)
    times, _ = replayed(source, Clock(0.9), speed=10.0, work=0.003)
    assert times[:-1] == pytest.approx(0.01 * np.arange(1, 100_001), abs=2e-6)


def test_a_late_chunk_delays_no_other_and_is_reported(caplog):
    clock = Clock()

    def slow_once():
        for chunk in run(ArraySource(DATA, RATE, START, 64)):
            if isinstance(chunk, Chunk) and chunk.start == START + 1:
                clock.now += 0.5  # reading it took that long
            yield chunk

    with caplog.at_level(logging.WARNING):
        times, statistics = replayed(GeneratorSource(slow_once), clock)
    assert times[:8] == pytest.approx([0.25, 0.5, 0.75, 1, 1.5, 1.5, 1.75, 2])
    assert statistics == Lateness(16, 1, pytest.approx(0.25))
    assert [r.getMessage() for r in caplog.records] == [
        "Replay: the chunk of stream None at GPS 1400000001.0 is 0.250 s late",
        "Replay: 1 of 16 chunks were late, by up to 0.250 s",
    ]


def test_a_replay_that_never_catches_up_says_so_now_and_then(caplog):
    with caplog.at_level(logging.WARNING):
        _, statistics = replayed(
            ArraySource(np.zeros(1000), 10.0, START, 1), Clock(), work=0.2
        )
    assert statistics.num_late == 998
    assert statistics.longest == pytest.approx(99.9)
    assert len(caplog.records) < 12


@pytest.mark.parametrize(("gaps", "delay"), [("wait", 100), ("skip", 0)])
def test_gaps_are_waited_for_or_skipped(gaps, delay):
    def with_gap():
        yield Chunk(np.zeros((1, 10)), 0.0, 10.0)
        yield Chunk(np.zeros((1, 10)), 101.0, 10.0)
        yield Chunk(np.zeros((1, 10)), 102.0, 10.0)

    times, _ = replayed(GeneratorSource(with_gap), Clock(), gaps=gaps)
    assert times == pytest.approx([1, 2 + delay, 3 + delay])


def test_public_names_are_sorted_and_there():
    assert list(series.__all__) == sorted(series.__all__)
    assert all(hasattr(series, name) for name in series.__all__)


class Counter(PipelineProcess):
    """A source that is called again and again."""

    def setup(self):
        self.left = 3

    def process(self, package):
        assert package is None
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        if self.left == 1:
            return None
        return Chunk(np.zeros((1, 10)), 3.0 - self.left, 10.0)

    def teardown(self):
        self.left = None


def test_a_source_that_is_called_again_and_again_is_replayed():
    source = Counter()
    times, _ = replayed(source, Clock())
    assert times == pytest.approx([1, 3])
    assert source.left is None


def test_a_replay_in_real_time_takes_its_time():
    source = ArraySource(np.zeros(100), 1000.0, START, 10)
    replay = pickle.loads(pickle.dumps(Replay(source, speed=2)))  # noqa: S301
    import time

    begin = time.monotonic()
    run(replay)
    assert 0.05 <= time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        (DATA, {}, "is no source: give a stage"),
        (Counter(), {"speed": 0}, "speed=0: give seconds of data"),
        (Counter(), {"gaps": "fill"}, "gaps='fill': give one of wait, skip"),
        (Counter(), {"max_lateness": -1}, "max_lateness=-1: give seconds"),
    ],
)
def test_replays_that_make_no_sense_are_refused(source, options, match):
    with pytest.raises(InvalidSeries, match=match):
        Replay(source, **options)
