"""What is written of rows, and read again."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.aeriel.errors import RecordUnreadable, RecordUnwritable
from hermes.aeriel.monitor import Row, read
from hermes.aeriel.monitor._record import Recorder

HEADER = (
    "timestamp,ip,model,count,queue,compute_input,compute_infer,"
    "compute_output,request\n"
)
ROW = Row(
    1.5, "a:1", 'the "model", 1', 4, 10, 11, 12, 13, 60, 0.25, 2, 1, 0, 3
)
GPU = replace(
    ROW, gpu_utilization=0.5, gpu_memory_used=10, gpu_memory_total=2**40
)
ENSEMBLE = replace(ROW, model="whole", is_ensemble=True)


def test_a_csv_file_has_its_header_at_once_and_every_row_when_written(
    tmp_path,
):
    path = tmp_path / "the run.csv"
    with Recorder(path) as recorder:
        assert path.read_text() == HEADER
        recorder.write([ROW, ENSEMBLE, replace(ROW, queue=None)])
        during = path.read_text()
    assert path.read_text() == during
    numbers = ["4", "10", "11", "12", "13", "60"]
    unknown = ["4", "", *numbers[2:]]
    assert list(csv.reader(during.splitlines()[1:])) == [
        ["1.500000", "a:1", ROW.model, *numbers],
        ["1.500000", "a:1", ROW.model, *unknown],
    ]


def test_a_parquet_file_has_everything_when_it_is_complete(tmp_path):
    path = tmp_path / "the run.parquet"
    with Recorder(path) as recorder:
        recorder.write([ROW, GPU, ENSEMBLE])
        assert not path.exists()
        assert read(tmp_path / "the run.parquet.partial") == [ROW, GPU]
    assert read(path) == [ROW, GPU]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["run.csv", "run.parquet"])
def test_a_record_without_rows_can_be_read(tmp_path, name):
    with Recorder(tmp_path / name):
        pass
    assert read(tmp_path / name) == []


def test_a_parquet_file_is_replaced_at_the_end_only(tmp_path):
    path = tmp_path / "run.parquet"
    for row in ROW, GPU:
        with Recorder(path) as recorder:
            recorder.write([row])
            before = read(path) if path.exists() else []
    assert before == [ROW]
    assert read(path) == [GPU]


def test_a_half_written_line_is_not_read(tmp_path):
    path = tmp_path / "run.csv"
    with Recorder(path) as recorder:
        recorder.write([ROW])
    path.write_text(path.read_text() + "2.0,a:1,m,1")
    assert len(read(path)) == 1


def test_the_time_between_polls_is_what_the_lines_say(tmp_path):
    path = tmp_path / "run.csv"
    times = [10.0, 10.5, 11.0, 14.0]
    with Recorder(path) as recorder:
        for time in times:
            pair = [replace(ROW, timestamp=time, model=m) for m in "xy"]
            recorder.write([*pair, replace(ROW, timestamp=time + 0.1, ip="b")])
    found = {(row.ip, row.model): [] for row in read(path)}
    for row in read(path):
        found[row.ip, row.model].append(row.interval)
    assert len(found) == 3
    for intervals in found.values():
        assert intervals == pytest.approx([0.5, 0.5, 0.5, 3.0])


def test_columns_of_others_and_floats_do_no_harm(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text(
        HEADER.strip() + ",note\n1.5,a,m,2.0,3.0,4.0,5.0,6.0,7.0,hello\n"
    )
    (row,) = read(path)
    assert (row.count, row.request) == (2, 7)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.csv", ""),
        ("run.csv", "a,b\n1,2\n"),
        ("run.csv", HEADER + "x,a,m,1,2,3,4,5,6\n"),
        ("run.csv", HEADER + "1.0,a,m\n"),
        ("run.parquet", "PAR1"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(RecordUnreadable, match="is not a record"):
        read(path)


def test_a_missing_record_is_missing(tmp_path):
    for name in "run.csv", "run.parquet":
        with pytest.raises(FileNotFoundError):
            read(tmp_path / name)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RecordUnwritable, match="nowhere"):
        Recorder(tmp_path / "nowhere" / "run.csv")


def test_a_full_disk_is_told():
    with pytest.raises(RecordUnwritable, match="No space left"):
        Recorder(Path("/dev/full"))


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.errors import ExtraMissing
try:
    ServerMonitor("m", "a", "run.parquet")
except ExtraMissing as error:
    print(error)
print(ServerMonitor("m", "a", "run.csv"))
"""


def test_without_pyarrow_there_is_csv():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYARROW],
        capture_output=True,
        text=True,
        check=True,
    )
    said, shown = run.stdout.splitlines()
    assert "extra 'parquet'" in said
    assert "run.csv" in shown
