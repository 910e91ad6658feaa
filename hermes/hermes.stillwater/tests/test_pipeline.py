"""Pipelines that work, with real processes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hermes.stillwater import Pipeline, stage
from hermes.stillwater.errors import (
    CannotSpawn,
    InvalidPipeline,
    JoinMismatch,
    PipelineStopped,
)

sys.path.insert(0, str(Path(__file__).parent))

import sample_stages as stages

HERE = Path(__file__).parent


def count() -> dict[str, Any]:
    gc.collect()
    return {
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "processes": psutil.Process().children(recursive=True),
        "threads": threading.active_count(),
    }


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = count()
    yield
    after = count()
    # What others have opened may have gone meanwhile.
    assert after["fds"] <= before["fds"]
    assert set(after["processes"]) <= set(before["processes"])
    assert after["threads"] <= before["threads"]


def read(pipeline: Pipeline) -> list[Any]:
    with pipeline:
        return list(pipeline)


def test_packages_come_in_order_and_a_pipeline_runs_again() -> None:
    pipeline = stages.Count(200) >> stages.add_one >> stages.double
    assert read(pipeline) == [2 * (n + 1) for n in range(200)]
    assert repr(pipeline) == (
        "<Pipeline Count >> add_one >> double, not running>"
    )
    assert len(read(pipeline)) == 200


def test_nothing_has_a_name_in_the_file_system() -> None:
    with stages.Silent() >> stages.forward:
        processes = psutil.Process().children()
        assert len(processes) >= 2
        deadline = time.monotonic() + 30
        maps = [""]
        while not any("memfd:hermes-channel" in text for text in maps):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            maps = [Path(f"/proc/{p.pid}/maps").read_text() for p in processes]
    assert not any("/dev/shm" in text for text in maps)  # noqa: S108


def test_statistics_tell_what_was_done() -> None:
    source = stages.Count(50)
    pipeline = source >> stages.odd_only >> stages.sleep_little
    numbers = pipeline.run()
    assert list(numbers) == ["Count", "odd_only", "sleep_little"]
    assert numbers["Count"].num_sent == 50
    assert numbers["odd_only"].num_received == 50
    assert numbers["odd_only"].num_sent == 25
    slow = numbers["sleep_little"]
    assert slow.num_sent == 25
    assert slow.queue_size == 0
    assert 0.5 < slow.busy <= 1
    assert 10 < slow.rate < 100


def test_all_kinds_of_stages_give_what_they_should(tmp_path: Path) -> None:
    journal = stages.Journal(tmp_path / "journal")
    pipeline = stages.Finite() >> journal >> stages.forward
    assert read(pipeline) == [2, 1, 0, "last", "very last"]
    lines = [x.split() for x in journal.path.read_text().splitlines()]
    assert [what for what, _ in lines] == ["setup", "teardown"]
    assert {int(pid) for _, pid in lines}.isdisjoint({os.getpid()})
    assert read(stages.Count(3) >> stages.Later()) == [0, -1, -2, "end"]


def test_what_there_is_no_room_for_is_not_sent_without_waiting() -> None:
    with stages.Count(1) >> stages.Offer() as pipeline:
        time.sleep(0.5)
        *found, num_sent = pipeline
    assert 0 < len(found) == num_sent < 1000


def test_where_several_read_nothing_is_sent_without_waiting() -> None:
    assert read(stages.Count(1) >> stages.Offer() >> [abs, abs]) == [(0, 0)]
    assert read([1, 2, 3] >> stage(stages.drop)) == []
    assert read(stage([1, None, 3]) >> stages.add_one) == [2, 4]


def test_large_frames_pass_a_small_buffer_bit_by_bit() -> None:
    pipeline = stages.Frames(20, 3_000_000) >> stage(
        stages.forward, buffer_size=100_000
    )
    with pipeline:
        for n, package in enumerate(pipeline):
            expected = stages.make_frame(n, 3_000_000)
            np.testing.assert_array_equal(package["frame"], expected)
    assert n == 19


def test_workers_keep_the_order() -> None:
    pipeline = (
        stages.Count(60)
        >> stage(stages.repeat, workers=3)
        >> stage(stages.dawdle, workers=2)
        >> stages.odd_only
    )
    expected = [n for n in range(60) for _ in range(n % 3) if n % 2]
    assert read(pipeline) == expected


def test_branches_get_everything_and_are_joined() -> None:
    join = stage(sum)
    pipeline = stages.Count(30) >> [stages.add_one, stages.double] >> join
    assert read(pipeline) == [3 * n + 1 for n in range(30)]
    ends = stages.Count(3) >> [stages.drop, stages.add_one]
    assert read(ends) == [(None, 1), (None, 2), (None, 3)]


def test_branches_that_do_not_give_one_each_are_refused() -> None:
    pipeline = stages.Count(9) >> [stages.repeat, stages.double] >> sum
    with pytest.raises(JoinMismatch, match="gave no package for one"):
        read(pipeline)
    sources = [stages.Count(3), stages.Count(2, name="short")]
    with pytest.raises(JoinMismatch, match="branch 2 of 2 ended after 2"):
        read(Pipeline(sources, sum))


@pytest.mark.parametrize("rate", [5, 100, 1000])
def test_the_rate_is_kept(rate: int) -> None:
    number = max(8, rate)
    with Pipeline(stages.Count(number + 1, rate=rate)) as pipeline:
        times = [time.monotonic() for _ in pipeline]
    taken = times[-1] - times[0]
    assert taken == pytest.approx(number / rate, rel=0.02, abs=0.015)


def test_logs_arrive_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tests"):
        assert read(stages.Count(2) >> stages.Talk()) == [0, 1]
    records = [r for r in caplog.records if r.name == "tests.talk"]
    said = [(r.levelname, r.getMessage().split()[0]) for r in records]
    one = [("DEBUG", "detail"), ("WARNING", "lock"), ("ERROR", "caught")]
    assert said == one * 2
    assert "HoldingError: logged" in records[2].getMessage()
    assert records[0].processName == "Talk"
    assert records[0].process != os.getpid()


def test_a_handler_that_fails_does_not_stop_the_pipeline() -> None:
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError(record)

    logger, handler = logging.getLogger("tests.talk"), Bad()
    logger.addHandler(handler)
    try:
        assert read(stages.Count(2) >> stages.Talk()) == [0, 1]
    finally:
        logger.removeHandler(handler)


def test_reading_may_be_broken_off_and_go_on() -> None:
    with stages.Count(9) >> stages.add_one as pipeline:
        for package in pipeline:
            if package == 3:
                break
        assert next(iter(pipeline)) == 4
        assert list(pipeline) == [5, 6, 7, 8, 9]
        assert list(pipeline) == []


def test_a_pipeline_is_entered_once_and_read_inside() -> None:
    pipeline = stages.Count(3) >> stages.add_one
    with pytest.raises(InvalidPipeline, match="enter it first"):
        list(pipeline)
    with pytest.raises(InvalidPipeline, match="enter it first"):
        pipeline.statistics()
    with pipeline:
        assert repr(pipeline).endswith("running>")
        with pytest.raises(InvalidPipeline, match="is running already"):
            pipeline.__enter__()
        assert list(pipeline) == [1, 2, 3]


def test_two_pipelines_run_in_two_threads() -> None:
    results = {}

    def run(number: int) -> None:
        pipeline = stages.Count(number) >> stages.add_one
        results[number] = read(pipeline)

    threads = [threading.Thread(target=run, args=(n,)) for n in (5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {5: [1, 2, 3, 4, 5], 7: [1, 2, 3, 4, 5, 6, 7]}


def test_a_reader_in_another_thread_is_told_that_the_block_was_left() -> None:
    errors = []

    def read_on() -> None:
        try:
            list(pipeline)
        except PipelineStopped as error:
            errors.append(str(error))

    with stages.Silent() >> stages.forward as pipeline:
        thread = threading.Thread(target=read_on)
        thread.start()
        time.sleep(0.5)
    thread.join(1)
    assert "was left before its stream had ended" in errors[0]


def test_reading_does_not_go_on_after_it_was_cut() -> None:
    class Hurried(Exception):
        pass

    def hurry(*_: object) -> None:
        raise Hurried

    before = signal.signal(signal.SIGALRM, hurry)
    with stages.Silent() >> stages.forward as pipeline:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Hurried):
            list(pipeline)
        with pytest.raises(PipelineStopped, match="was broken off"):
            list(pipeline)
    signal.signal(signal.SIGALRM, before)


def test_who_forgets_a_pipeline_leaves_nothing() -> None:
    before = psutil.Process().children()
    pipeline = stages.Silent() >> stages.forward
    pipeline.__enter__()
    children = set(psutil.Process().children()).difference(before)
    del pipeline
    gc.collect()
    assert psutil.wait_procs(children, 1)[1] == []
    time.sleep(0.2)


class Open:
    """A stage that holds what stays here."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, package: Any) -> Any:
        return package


def test_a_stage_that_cannot_be_sent_is_named() -> None:
    for work in (lambda x: x, Open()):
        pipeline = stages.Count(3) >> stages.add_one >> stage(work, "mine")
        with pytest.raises(CannotSpawn, match="'mine' cannot be sent to its"):
            pipeline.__enter__()


def run_script(
    path: Path, code: str, *options: str
) -> subprocess.CompletedProcess[str]:
    path.write_text(f"import sys; sys.path.append({str(HERE)!r})\n{code}")
    return subprocess.run(
        [sys.executable, *options, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


MAIN = """
import sample_stages as stages
from hermes.stillwater import PipelineProcess
class Mine(PipelineProcess):
    def process(self, package):
        if package == 2: raise MyError("mine")
        return package
class MyError(Exception): pass
def main():
    with stages.Count(3) >> Mine() as pipeline:
        try: print(list(pipeline))
        except MyError as error: print("caught", error)
"""


def test_stages_may_be_in_the_script_itself(tmp_path: Path) -> None:
    guarded = f"{MAIN}\nif __name__ == '__main__': main()"
    run = run_script(tmp_path / "good.py", guarded)
    assert (run.stdout, run.stderr) == ("caught mine\n", "")
    run = run_script(tmp_path / "bad.py", f"{MAIN}\nmain()")
    assert "CannotSpawn" in run.stderr
    assert "if __name__ == '__main__'" in run.stderr


def test_a_stage_below_the_guard_is_not_found(tmp_path: Path) -> None:
    below = textwrap.indent(f"{MAIN}\nmain()", "    ")
    run = run_script(tmp_path / "bad.py", f"if __name__ == '__main__':{below}")
    assert "CannotSpawn: 'Mine' is not there when another" in run.stderr
    assert "not below `if __name__ == '__main__':`" in run.stderr


def run_at_a_prompt(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable],
        input=f"import sys; sys.path.append({str(HERE)!r})\n{code}",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_classes_of_a_prompt_are_refused_and_modules_work() -> None:
    run = run_at_a_prompt(f"{MAIN}\nmain()\n")
    assert "in a notebook or at a prompt" in run.stderr
    run = run_at_a_prompt(
        "import sample_stages as stages\n"
        "print((stages.Count(3) >> stages.add_one).run()['add_one'].num_sent)"
    )
    assert (run.stdout, run.stderr) == ("3\n", "")


def test_a_stage_may_print_a_lot(tmp_path: Path) -> None:
    code = """
import sample_stages as stages
if __name__ == "__main__":
    (stages.Count(200) >> stages.print_much).run()
"""
    run = run_script(tmp_path / "print.py", code)
    assert len(run.stdout) == 200 * 10_001
    assert run.stderr == ""
