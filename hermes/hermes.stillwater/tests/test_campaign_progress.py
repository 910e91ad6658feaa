import importlib.util
import io
import logging

import pytest

from hermes.stillwater._campaign._progress import Meter, Progress, shown
from hermes.stillwater.errors import ExtraMissing

PROGRESS = [
    Progress(9, 0, 0, 0, 0.0, None),
    Progress(9, 1, 0, 2, 3.0, 24.0),
    Progress(9, 4, 1, 2, 11.0, 75.0),
    Progress(9, 8, 1, 0, 7500.0, 0.0),
]


def test_what_is_left_is_estimated_by_what_was_done():
    costs = {"done": 5.0, "failed": 7.0, "short": 10.0, "long": 30.0}
    meter = Meter(costs, {"done"}, {"failed"}, now=100.0)
    assert meter.read(2, 104.0) == Progress(4, 1, 1, 2, 4.0, None)
    meter.finish("short", is_done=True)
    assert meter.read(1, 105.0) == Progress(4, 2, 1, 1, 5.0, 15.0)
    meter.finish("long", is_done=False)
    assert meter.read(0, 120.0) == Progress(4, 2, 2, 0, 20.0, 0.0)


def test_progress_can_be_read():
    assert list(map(str, PROGRESS)) == [
        "0/9 units done, 0 failed, 0 in flight, 0 s so far, ? to go",
        "1/9 units done, 0 failed, 2 in flight, 3 s so far, 24 s to go",
        "4/9 units done, 1 failed, 2 in flight, 11 s so far, 1 min 15 s to go",
        "8/9 units done, 1 failed, 0 in flight, 2 h 05 min so far, 0 s to go",
    ]


@pytest.mark.parametrize("asked", [True, "plain"])
def test_lines_come_now_and_then_and_at_the_end(asked):
    stream = io.StringIO()
    with shown(asked, stream) as show:
        for progress in PROGRESS:
            show(progress)
    lines = stream.getvalue().splitlines()
    assert lines == [str(PROGRESS[n]) for n in (0, 2, 3)]


def test_the_log_is_told_when_nobody_asks(caplog):
    stream = io.StringIO()
    with (
        caplog.at_level(logging.INFO),
        shown(progress=False, stream=stream) as show,
    ):
        show(PROGRESS[0])
    assert caplog.messages == [str(PROGRESS[0])]
    assert stream.getvalue() == ""


def test_functions_are_told_everything():
    told = []
    with shown(told.append) as show:
        show(PROGRESS[1])
    assert told == [PROGRESS[1]]


def test_a_bar_ends_with_how_it_ended():
    stream = io.StringIO()
    with shown("rich", stream) as show:
        for progress in PROGRESS:
            show(progress)
    assert "8/9 units done, 1 failed" in stream.getvalue()


def test_a_bar_needs_rich(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissing, match="extra 'progress'"):
        shown("rich", io.StringIO())
