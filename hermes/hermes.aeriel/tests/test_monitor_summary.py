"""What rows come to: rates, latencies, the bottleneck, plots and tables."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from hermes.aeriel.errors import RecordUnreadable, RecordUnwritable
from hermes.aeriel.monitor import Row, plot, summarize
from hermes.aeriel.monitor._summary import courses
from hermes.aeriel.monitor._table import make_table

# Two requests of four inferences, executed together, in half a second.
ROW = Row(10.5, "a", "m", 8, 20, 2, 4, 6, 40, 0.5, 2, 1, 0, 0)
IDLE = Row(10.5, "a", "idle", 0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0)


def slow(**changes) -> Row:
    return replace(ROW, model="slow", **changes)


def test_latencies_are_means_over_requests():
    later = replace(
        ROW, timestamp=11.5, interval=1.0, requests=4, failures=3, pending=9
    )
    (step,) = summarize([ROW, later]).steps
    assert step.num_requests == 6
    assert step.num_failures == 3
    assert step.throughput == pytest.approx(4)
    assert step.batch_size == 8
    assert step.queue == pytest.approx(40 / 6)
    assert step.compute == pytest.approx(24 / 6)
    assert step.request == pytest.approx(80 / 6)
    assert step.pending == 9


def test_servers_add_up():
    rows = [ROW, replace(ROW, ip="b", interval=0.25, pending=3)]
    (step,) = summarize(rows).steps
    assert step.throughput == pytest.approx(2 / 0.5 + 2 / 0.25)
    assert step.pending == 3


def test_without_requests_in_the_record_inferences_stand_for_them():
    bare = replace(ROW, requests=None, executions=None, pending=None)
    (step,) = summarize([bare]).steps
    assert step.num_requests == 8
    assert step.batch_size is None
    assert step.pending is None


def test_no_traffic_has_no_latency_and_no_bottleneck():
    found = summarize([IDLE])
    (step,) = found.steps
    assert (step.throughput, step.queue, step.request) == (0, None, None)
    assert found.bottleneck is None
    assert summarize([]).steps == ()


def test_the_bottleneck_of_a_calm_server_computes_longest():
    found = summarize([ROW, slow(queue=1, compute_infer=90), IDLE])
    assert found.bottleneck == "slow"
    assert not found.is_saturated


def test_the_bottleneck_of_a_saturated_server_has_the_queue():
    found = summarize(
        [slow(queue=1, compute_infer=90), replace(ROW, queue=999)]
    )
    assert found.bottleneck == "m"
    assert found.is_saturated


def test_an_ensemble_is_no_bottleneck():
    whole = replace(ROW, model="whole", compute_infer=999, is_ensemble=True)
    assert summarize([whole, ROW]).bottleneck == "m"


def course_of(num: int, **changes) -> list[Row]:
    return [
        replace(ROW, timestamp=100 + 0.5 * (n + 1), **changes)
        for n in range(num)
    ]


def test_courses_are_binned_and_keep_the_rates():
    rows = [
        r
        for pair in zip(course_of(100), course_of(100, model="x"), strict=True)
        for r in pair
    ]
    first, second = courses(rows, num_bins=10)
    assert (first.model, second.model) == ("m", "x")
    assert first.times == pytest.approx([2.5 + 5 * n for n in range(10)])
    assert first.throughput == pytest.approx([4] * 10)
    assert first.queue == pytest.approx([10] * 10)
    assert first.compute == pytest.approx([6] * 10)


def test_bins_are_not_shorter_than_polls():
    (found,) = courses(course_of(8), num_bins=1000)
    assert found.throughput == pytest.approx([4] * 4)


def test_a_gap_in_the_record_is_a_gap():
    rows = course_of(8)
    rows += [replace(row, timestamp=row.timestamp + 20) for row in rows]
    (found,) = courses(rows)
    assert any(map(math.isnan, found.throughput))


@pytest.mark.parametrize("num", [0, 1])
def test_short_records_have_short_courses(num):
    rows = [replace(row, interval=None) for row in course_of(num)]
    assert len(courses(rows)) == num


def test_a_plot_is_written(tmp_path):
    path = tmp_path / "a plot.png"
    plot([*course_of(8), *course_of(8, model="x", ip="b")], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_there_is_no_plot_of_nothing(tmp_path):
    with pytest.raises(RecordUnreadable, match="no rows"):
        plot([], tmp_path / "out.png")


@pytest.mark.parametrize("name", ["out.nothing", "nowhere/out.png"])
def test_a_plot_that_cannot_be_written_is_an_error(tmp_path, name):
    with pytest.raises(RecordUnwritable, match="cannot write the plot"):
        plot([ROW], tmp_path / name)


def shown(*rows: Row) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(make_table(summarize(rows), "[m] on a"))
    return console.file.getvalue()


def test_the_table_says_which_step_is_the_bottleneck():
    text = shown(ROW, slow(compute_infer=90_000), IDLE)
    assert "[m] on a" in text
    assert "bottleneck: slow" in text
    (line,) = [li for li in text.splitlines() if li.strip().startswith("slow")]
    assert line.split() == [
        "slow",
        "4.0",
        "8.0",
        "0.01",
        "45.00",
        "0.02",
        "0",
        "0",
    ]


def test_the_table_says_where_requests_queue():
    assert "bottleneck: m, where requests queue" in shown(ROW)
    assert "no requests" in shown(IDLE)


def test_notebooks_show_a_table():
    html = summarize([replace(ROW, model="<m>"), IDLE])._repr_html_()
    assert "<td>&lt;m&gt;</td><td>4.0</td><td>0.01</td>" in html
    assert "bottleneck: &lt;m&gt;, where requests queue" in html
