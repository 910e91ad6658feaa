"""Sinks write whole files or none; sources read the same bits again."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.stillwater import stage
from hermes.stillwater.errors import InvalidSeries, SinkUnwritable, StageDied
from hermes.stillwater.series import (
    ArraySource,
    Chunk,
    HDF5Sink,
    HDF5Source,
    NumpySink,
    ParquetSink,
    Prediction,
    SequenceEnd,
    Series,
    StreamEnd,
)

sys.path.insert(0, str(Path(__file__).parent))

import sample_stages as stages

START = 1_400_000_000
RATE = 16.0
SINKS = [
    (HDF5Sink, "out.h5"),
    (NumpySink, "out.npz"),
    (NumpySink, "out.npy"),
    (ParquetSink, "out.parquet"),
]


def run(sink, packages):
    sink.setup()
    try:
        for package in packages:
            assert sink.process(package) is None
        sink.finish()
    finally:
        sink.teardown()


def piece(begin, size, name="score", stream=None, number=0, **options):
    times = START + np.arange(begin, begin + size) / RATE
    values = np.arange(begin, begin + size, dtype="float32")[:, None]
    return Series(name, values, times, RATE, (stream, number), **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    rate=st.sampled_from([16384.0, 4000.0, 3000.0, 1 / 60]),
    channels=st.integers(1, 3),
    dtype=st.sampled_from(["float64", "float32", "int16", "complex64"]),
    chunk_size=st.integers(1, 60),
    gap=st.integers(0, 5),
)
def test_what_hdf5_is_written_comes_back_to_the_bit(
    tmp_path_factory, sizes, rate, channels, dtype, chunk_size, gap
):
    path = tmp_path_factory.mktemp("series") / "a.h5"
    origin = round(START * rate)
    rng = np.random.default_rng(sum(sizes))
    packages, wanted, position = [], {}, origin
    for size in sizes:
        data = rng.standard_normal((channels, size)).astype(dtype)
        packages.append(Chunk(data, position / rate, rate, "H1"))
        for i in range(size):
            wanted[(position + i) / rate] = data[:, i]
        position += size + gap
    run(HDF5Sink(path), [*packages, StreamEnd("H1")])
    if not wanted:
        return
    source = HDF5Source(path, "H1/data", chunk_size=chunk_size)
    *chunks, _ = source.process(None)
    found = {}
    for chunk in chunks:
        assert chunk.sample_rate == rate
        assert chunk.data.dtype == dtype
        first = round(chunk.start * rate)
        for i in range(chunk.data.shape[1]):
            found[(first + i) / rate] = chunk.data[:, i]
    assert list(found) == list(wanted)
    for time, values in wanted.items():
        assert (found[time] == values).all()


def test_hdf5_has_a_dataset_for_each_segment_with_times(tmp_path):
    path = tmp_path / "out.h5"
    marks = np.array([True, False, True, True])
    run(
        HDF5Sink(path, attributes={"model": "bbh", "version": 3}),
        [
            piece(0, 3),
            piece(3, 4, filled=marks),
            piece(50, 2),
            SequenceEnd((None, 0)),
            piece(52, 1, number=1),
        ],
    )
    with h5py.File(path) as file:
        assert dict(file.attrs) == {"model": "bbh", "version": 3}
        assert sorted(file["score"]) == ["0", "0.filled", "1", "2"]
        first = file["score/0"]
        assert first[:].tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert first.attrs["x0"] == START
        assert first.attrs["dx"] == 1 / RATE
        assert file["score/0.filled"][:].tolist() == [[3, 4], [5, 7]]
        assert file["score/1"].attrs["x0"] == START + 50 / RATE
    *chunks, _ = HDF5Source(path, "score").process(None)
    assert [(c.start, c.data.shape[1]) for c in chunks] == [
        (START, 7),
        (START + 50 / RATE, 2),
        (START + 52 / RATE, 1),
    ]


def test_hdf5_has_marks_wherever_they_are(tmp_path):
    packages = [
        piece(0, 200_000),
        piece(200_000, 200_000, filled=np.arange(200_000) == 7),
        piece(400_000, 3, filled=np.ones(3, bool)),
        piece(400_003, 3, number=1),  # another sequence, without a gap
    ]
    run(HDF5Sink(tmp_path / "out.h5"), packages)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["score/0.filled"][:].tolist() == [
            [200_007, 200_008],
            [400_000, 400_003],
        ]
        assert file["score/1"].shape == (3,)


def test_npz_has_values_and_times(tmp_path):
    path = tmp_path / "out.npz"
    packages = [
        piece(0, 3, stream="H1"),
        piece(0, 2, name="noise", stream="H1"),
        piece(3, 4, stream="H1", filled=np.ones(4, bool)),
        SequenceEnd(("H1", 0)),
        piece(50, 2, stream="H1", number=1),
        piece(0, 5),
    ]
    run(NumpySink(path, attributes={"model": "bbh"}), packages)
    found = np.load(path)
    values = [0, 1, 2, 3, 4, 5, 6, 50, 51]
    assert found["H1.score"].tolist() == [[v] for v in values]
    assert found["H1.score"].dtype == "float32"
    times = [START + v / RATE for v in values]
    assert found["H1.score.times"].tolist() == times
    assert found["H1.score.segment"].tolist() == [0] * 7 + [1] * 2
    assert found["H1.score.filled"].tolist() == [0] * 3 + [1] * 4 + [0] * 2
    assert found["H1.score.sample_rate"] == RATE
    assert found["H1.noise"].shape == (2, 1)
    assert found["score"].shape == (5, 1)
    assert json.loads(str(found["attributes"])) == {"model": "bbh"}


def test_npy_has_records(tmp_path):
    path = tmp_path / "out.npy"
    run(NumpySink(path), [piece(0, 3), piece(9, 1)])
    found = np.load(path)
    assert found["value"].tolist() == [[0], [1], [2], [9]]
    assert found["time"][-1] == START + 9 / RATE


def test_parquet_has_rows(tmp_path):
    path = tmp_path / "{name}.parquet"
    two = Series(
        "pair", np.arange(6.0).reshape(3, 2), START + np.arange(3.0), 1.0
    )
    packages = [piece(0, 3), two, piece(3, 1), piece(9, 1, stream="L1")]
    run(ParquetSink(path, attributes={"model": "bbh"}), packages)
    assert names(tmp_path) == ["pair.parquet", "score.parquet"]
    table = pyarrow.parquet.read_table(tmp_path / "score.parquet")
    assert table.to_pydict() == {
        "time": [START + v / RATE for v in (0, 1, 2, 3, 9)],
        "stream": [None] * 4 + ["L1"],
        "segment": [0] * 5,
        "filled": [False] * 5,
        "score": [0, 1, 2, 3, 9],
    }
    assert str(table.schema.field("score").type) == "float"
    facts = json.loads(table.schema.metadata[b"hermes"])
    assert facts == {"sample_rate": RATE, "model": "bbh"}
    pair = pyarrow.parquet.read_table(tmp_path / "pair.parquet")
    assert pair["pair_1"].to_pylist() == [1, 3, 5]


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_a_stream_of_nothing_makes_a_file_of_nothing(tmp_path, sink, name):
    run(sink(tmp_path / name), [SequenceEnd(0), piece(0, 0)])
    assert names(tmp_path) == [name]
    if name.endswith("h5"):
        assert not list(h5py.File(tmp_path / name))
    elif name.endswith("parquet"):
        table = pyarrow.parquet.read_table(tmp_path / name)
        assert table.num_rows == 0
    else:
        np.load(tmp_path / name)


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_a_stream_that_is_broken_off_leaves_nothing(tmp_path, sink, name):
    stage = sink(tmp_path / name)
    stage.setup()
    for i in range(10):
        stage.process(piece(i * 100_000, 100_000))
    assert len(names(tmp_path)) == 1
    assert name not in names(tmp_path)
    stage.teardown()
    assert names(tmp_path) == []


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_another_file_is_not_replaced_unless_declared(tmp_path, sink, name):
    path = tmp_path / name
    path.write_text("precious")
    with pytest.raises(SinkUnwritable, match="is there already: remove it"):
        sink(path)
    stage = sink(path, overwrite=True)
    stage.setup()
    stage.process(piece(0, 3))
    assert path.read_text() == "precious"
    stage.finish()
    stage.teardown()
    assert names(tmp_path) == [name]
    assert b"precious" not in path.read_bytes()


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, sink, name):
    stage = sink(tmp_path / name)
    with pytest.raises(SinkUnwritable, match="is there already"):
        run(stage, iter(lambda: (tmp_path / name).write_text("precious"), 8))
    stage = sink(tmp_path / ("_" + name))
    stage.setup()
    (tmp_path / ("_" + name)).write_text("precious")
    with pytest.raises(SinkUnwritable, match="is there already"):
        stage.finish()
    stage.teardown()
    assert (tmp_path / ("_" + name)).read_text() == "precious"


def test_places_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(SinkUnwritable, match="is a folder: give the path"):
        HDF5Sink(tmp_path)
    with pytest.raises(SinkUnwritable, match="make the folder"):
        HDF5Sink(tmp_path / "missing" / "out.h5")


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path, sink, name):
    code = (
        "import os, signal, sys\n"
        "import numpy as np\n"
        f"from hermes.stillwater.series import {sink.__name__}, Series\n"
        f"sink = {sink.__name__}(sys.argv[1])\n"
        "sink.setup()\n"
        "times = np.arange(1e6)\n"
        "sink.process(Series('y', times, times, 1.0))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / name
    killed = subprocess.run([sys.executable, "-c", code, str(path)])
    assert killed.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(f".{name}.")
    assert left.endswith(".partial")
    other = tmp_path / f".other-{name}.0123456789abcdef.partial"
    other.write_text("of another target")
    alive = sink(path)  # whoever writes at the same time keeps its file
    alive.setup()
    alive.process(piece(0, 3))
    assert left not in names(tmp_path)
    run(sink(path), [piece(0, 3)])
    alive.teardown()
    assert names(tmp_path) == sorted([name, other.name])


@pytest.mark.parametrize("path", ["out[1].npz", "{stream}-{segment:03d}.npz"])
@pytest.mark.parametrize(
    ("sink", "error"),
    [(stages.StuckSink, ValueError), (stages.KilledSink, StageDied)],
)
def test_a_killed_sink_of_a_pipeline_leaves_nothing(
    tmp_path, path, sink, error
):
    other = NumpySink(tmp_path / path)
    other.setup()
    other.process(piece(0, 3, stream="H1"))
    (theirs,) = names(tmp_path)
    with pytest.raises(error):
        (stage(stages.give_one_piece) >> sink(tmp_path / path)).run()
    assert names(tmp_path) == [theirs]
    other.teardown()


def test_an_error_while_cleaning_up_is_logged(caplog):
    with pytest.raises(StageDied, match="SIGKILL"):
        (stage(range(3)) >> stages.Careless()).run()
    assert "stage 'Careless' left something behind" in caplog.text


def test_each_segment_has_a_file_if_declared(tmp_path):
    stage = HDF5Sink(tmp_path / "{stream}-{segment}-{start}.h5")
    stage.setup()
    stage.process(piece(0, 3, stream="H1"))
    stage.process(piece(0, 3, stream="H1", name="late"))
    assert not [n for n in names(tmp_path) if not n.startswith(".")]
    stage.process(SequenceEnd(("H1", 0)))
    assert names(tmp_path) == [f"H1-0-{START}.h5"]
    stage.process(piece(50, 3, stream="H1", number=1))
    stage.process(piece(90, 3, stream="H1", number=1))
    assert f"H1-1-{START + 3}.h5" in names(tmp_path)
    stage.finish()
    stage.teardown()
    assert names(tmp_path) == [
        f"H1-0-{START}.h5",
        f"H1-1-{START + 3}.h5",
        f"H1-2-{START + 5}.h5",
    ]
    (chunk, _) = HDF5Source(
        tmp_path / f"H1-1-{START + 3}.h5", "H1/score"
    ).process(None)
    assert chunk.start == START + 50 / RATE


def test_series_that_begin_later_have_the_number_of_their_sequence(tmp_path):
    packages = [
        piece(0, 3),
        SequenceEnd((None, 0)),
        piece(50, 3, number=1),
        piece(50, 1, name="late", number=1),
    ]
    run(HDF5Sink(tmp_path / "out.h5"), packages)
    with h5py.File(tmp_path / "out.h5") as file:
        assert (list(file["score"]), list(file["late"])) == (["0", "1"], ["1"])
    run(HDF5Sink(tmp_path / "{segment}.h5"), packages)
    with h5py.File(tmp_path / "1.h5") as file:
        assert list(file) == ["late", "score"]


def test_each_stream_has_a_file_if_declared(tmp_path):
    packages = [
        piece(0, 3, stream=("H1", 4)),
        piece(0, 3, stream="L1"),
        piece(3, 3, stream=("H1", 4)),
    ]
    stage = NumpySink(tmp_path / "{stream}.npy")
    run(pickle.loads(pickle.dumps(stage)), packages)  # noqa: S301
    assert names(tmp_path) == ["H1-4.npy", "L1.npy"]
    assert len(np.load(tmp_path / "H1-4.npy")) == 6


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_memory_does_not_grow_with_the_stream(tmp_path, sink, name):
    stage = sink(tmp_path / name)
    stage.setup()
    stage.process(piece(0, 1000))
    tracemalloc.start()
    for i in range(1, 1000):
        stage.process(piece(i * 1000, 1000))
    stage.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stage.teardown()
    assert peak < 8e6
    assert (tmp_path / name).stat().st_size > 4e6


@pytest.mark.parametrize(
    ("packages", "match"),
    [
        ([Prediction({}, 0, 1, 0, 0)], "Prediction came to a sink"),
        ([piece(0, 3, stream="a/b")], "stream 'a/b' cannot be part of a"),
        ([piece(0, 3, name="..")], r"name '\.\.' cannot be part of a file"),
        ([piece(0, 1, stream=1), piece(0, 1, stream="1")], "are both called"),
        ([Chunk(np.zeros(3), 0, 1)], r"shape \(3,\): give \(channels, sam"),
        (
            [
                piece(0, 3),
                Series(
                    "score",
                    np.zeros(1),
                    START + np.ones(1) * 3 / RATE,
                    RATE,
                    (None, 0),
                ),
            ],
            r"from float32\[1\] for each time to float64\[\] for each",
        ),
        (
            [Series("score", np.zeros(3), np.arange(2.0), 1.0)],
            "for 2 times: give one value for each",
        ),
    ],
)
def test_what_is_no_series_is_refused(tmp_path, packages, match):
    with pytest.raises(InvalidSeries, match=match):
        run(HDF5Sink(tmp_path / "out.h5"), packages)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("sink", "name", "packages", "match"),
    [
        (
            ParquetSink,
            "a.parquet",
            [piece(0, 3), piece(0, 3, name="other")],
            "a table holds one series, but there are",
        ),
        (
            NumpySink,
            "a.npy",
            [piece(0, 3), piece(0, 3, name="other")],
            "an .npy file holds one series, but there are",
        ),
        (
            NumpySink,
            "a.npz",
            [piece(0, 3), Series("score", np.zeros(2), np.arange(2.0), 1.0)],
            "'score' changes from .* at 16 Hz to .* at 1 Hz: put {segment}",
        ),
        (
            NumpySink,
            "{start}.npz",
            [piece(0, 3), piece(5, 3), piece(9, 3)],
            "two segments would be .*: put {segment} and {stream} into",
        ),
    ],
)
def test_what_does_not_fit_into_a_file_is_refused(
    tmp_path, sink, name, packages, match
):
    with pytest.raises(InvalidSeries, match=match):
        run(sink(tmp_path / name), packages)


@pytest.mark.parametrize(
    ("sink", "path", "options", "match"),
    [
        (HDF5Sink, "{ifo}.h5", {}, "path '{ifo}.h5': give braces only in"),
        (HDF5Sink, "{}.h5", {}, "path '{}.h5': give braces only in"),
        (HDF5Sink, "{.h5", {}, "give braces only in"),
        (
            HDF5Sink,
            "a.h5",
            {"attributes": {"a": [1]}},
            r"attributes\['a'\]=\[1\]: give texts and numbers",
        ),
        (HDF5Sink, "a.h5", {"workers": 2}, "workers=2, but a file has one"),
        (NumpySink, "a.h5", {}, "path 'a.h5': give one that ends in .npz"),
        (NumpySink, "a.npy", {"attributes": {"a": 1}}, r"cannot say \['a'\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path, monkeypatch, sink, path, options, match
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSeries, match=match):
        sink(path, **options)


@pytest.mark.parametrize(("sink", "name"), SINKS)
def test_a_full_disk_is_a_sink_that_cannot_be_written(tmp_path, sink, name):
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        f"from hermes.stillwater.series import {sink.__name__}, Series\n"
        "from hermes.stillwater.errors import SinkUnwritable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"sink = {sink.__name__}(sys.argv[1])\n"
        "sink.setup()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "times = np.random.default_rng(0).random(10**6)\n"
        "try:\n"
        "    sink.process(Series('y', times, times, 1.0))\n"
        "    sink.finish()\n"
        "except SinkUnwritable as error:\n"
        "    print(error)\n"
        "sink.teardown()\n"
    )
    path = tmp_path / name
    full = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
    )
    assert full.returncode == 0, full.stderr
    assert f"{path} cannot be written: " in full.stdout
    assert names(tmp_path) == []


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may always
    with pytest.raises(SinkUnwritable, match="you may not write to the"):
        HDF5Sink(tmp_path / "out.h5")


def test_a_name_that_the_disk_refuses_is_named(tmp_path):
    stage = NumpySink(tmp_path / ("a" * 250 + ".npy"))
    with pytest.raises(SinkUnwritable, match="written: File name too long"):
        run(stage, [])


def test_a_file_system_without_links_is_enough(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    run(NumpySink(tmp_path / "a.npy"), [piece(0, 3)])
    assert names(tmp_path) == ["a.npy"]


def test_a_source_and_a_sink_fit_together(tmp_path):
    data = np.random.default_rng(0).standard_normal((2, 1000))
    source = ArraySource(data, 64.0, START, 77)
    run(HDF5Sink(tmp_path / "a.h5", chunks="strain"), source.process(None))
    *chunks, _ = HDF5Source(tmp_path / "a.h5", "strain").process(None)
    assert chunks[0].start == START
    joined = np.concatenate([c.data for c in chunks], axis=1)
    assert (joined == data).all()
