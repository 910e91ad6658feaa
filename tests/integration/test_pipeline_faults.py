"""Five processes, large frames, and whoever is killed at random.

``HERMES_FAULTS_GB`` is how much is streamed, in 1e9 bytes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hermes.stillwater import Pipeline
from hermes.stillwater.errors import StageDied

sys.path.insert(
    0, str(Path(__file__).parents[2] / "hermes/hermes.stillwater/tests")
)

import sample_stages as stages

STAGES = Path(stages.__file__).parent
SIZE = int(float(os.environ.get("HERMES_FAULTS_GB", "1.5")) * 1e9)
FRAME_SIZE = 8_000_000
NAMES = ("Frames", "forward", "forward-2", "forward-3", "check_frame")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def stage_processes() -> list[psutil.Process]:
    """Processes of stages, in the order of their start.

    Other tests' servers are children of this process, too.
    """
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("hermes.stillwater" in part for part in child.cmdline()):
                found.append(child)
    return sorted(found, key=psutil.Process.create_time)


def count() -> tuple[int, list[psutil.Process], int]:
    gc.collect()
    return (
        len(list(Path("/proc/self/fd").iterdir())),
        stage_processes(),
        threading.active_count(),
    )


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    num_fds, _, num_threads = count()
    yield
    # What others have opened may have gone meanwhile.
    fds, processes, threads = count()
    assert fds <= num_fds
    assert processes == []
    assert threads <= num_threads


def stream(number: int | None) -> Pipeline:
    forward = stages.forward
    source = stages.Frames(number, FRAME_SIZE)
    return source >> forward >> forward >> forward >> stages.check_frame


def test_everything_arrives_where_nobody_is_killed() -> None:
    number = SIZE // 2 // FRAME_SIZE
    begin = time.monotonic()
    with stream(number) as pipeline:
        assert pipeline.names == NAMES
        assert list(pipeline) == list(range(number))
    seconds = time.monotonic() - begin
    print(f"{number * FRAME_SIZE / 1e9:.2f} GB in {seconds:.1f} s")


def kill_one(rng: random.Random) -> tuple[int, float]:
    """Stream until a stage is killed.

    Returns:
        The packages that came before, and the seconds it took to notice.
    """
    victim, delay = rng.randrange(5), rng.uniform(0, 4)
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        os.kill(process.pid, signal.SIGKILL)

    got: list[int] = []
    with (  # noqa: PT012
        pytest.raises(StageDied, match=f"{NAMES[victim]!r} .*SIGKILL"),
        stream(None) as pipeline,
    ):
        process = stage_processes()[victim]
        timer = threading.Timer(delay, kill)
        timer.start()
        got.extend(pipeline)
    seconds = time.monotonic() - killed[0]
    timer.join()
    assert got == list(range(len(got)))
    return len(got), seconds


def test_random_kills_are_noticed_and_nothing_wrong_is_delivered() -> None:
    rng = random.Random(2026)
    number, slowest, rounds = 0, 0.0, 0
    while rounds < 4 + 4 * SIZE / 1e9:
        came, seconds = kill_one(rng)
        assert seconds < 1
        number, rounds = number + came, rounds + 1
        slowest = max(slowest, seconds)
    print(
        f"{number * FRAME_SIZE / 1e9:.2f} GB, {rounds} kills, left after"
        f" {slowest:.2f} s at most"
    )


SCRIPT = """
import sys
sys.path.append({path!r})
import sample_stages as stages
if __name__ == "__main__":
    work = getattr(stages, sys.argv[1])
    source = stages.Frames(None, {size})
    pipeline = source >> stages.forward >> stages.forward >> work
    with pipeline:
        print("running", flush=True)
        for package in pipeline:
            pass
"""


def start_program(tmp_path: Path, work: str) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT.format(path=str(STAGES), size=FRAME_SIZE))
    return subprocess.Popen(
        [sys.executable, script, work],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def runs(process: psutil.Process) -> bool:
    """Tell; what has ended may have nobody who takes note."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


WORKS = ["check_frame", "sleep_long", "hold_interpreter"]


@pytest.mark.parametrize("delay", [0.0, 1.5])
@pytest.mark.parametrize("work", WORKS)
def test_stages_end_with_a_program_that_is_killed(
    tmp_path: Path, work: str, delay: float
) -> None:
    with start_program(tmp_path, work) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        time.sleep(delay)
        children = psutil.Process(program.pid).children(recursive=True)
        assert len(children) == 4
        program.kill()
        time.sleep(1)
        assert not any(map(runs, children))


@pytest.mark.parametrize("whom", ["program", "group"])
@pytest.mark.parametrize("delay", [0.0, 1.5])
@pytest.mark.parametrize("work", WORKS)
def test_an_interrupt_ends_everything_within_a_second(
    tmp_path: Path, work: str, delay: float, whom: str
) -> None:
    with start_program(tmp_path, work) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        time.sleep(delay)
        children = psutil.Process(program.pid).children(recursive=True)
        kill = os.kill if whom == "program" else os.killpg
        kill(program.pid, signal.SIGINT)
        begin = time.monotonic()
        _, errors = program.communicate(timeout=10)
        assert time.monotonic() - begin < 1.2
        assert not any(map(runs, children))
    assert program.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
