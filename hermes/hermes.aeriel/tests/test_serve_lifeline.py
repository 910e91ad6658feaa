"""The lifeline with commands that are quicker than Triton."""

import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermes.aeriel.serve._lifeline import Lifeline, _session
from hermes.aeriel.serve._log import Log

Run = Callable[[str], Lifeline]
SECONDS = 10
SHM = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def shm() -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir=SHM, delete=False) as entry:
        yield Path(entry.name).name
    Path(entry.name).unlink(missing_ok=True)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture
def run(log: Log, shm: str) -> Iterator[Run]:
    lifelines = []

    def run(script: str) -> Lifeline:
        lifeline = Lifeline(
            ["/bin/bash", "-c", script + "\n:", "'$0'"],
            env=os.environ,
            cwd="/",
            output=log.file,
            grace=1,
            shm_prefix=shm,
        )
        lifelines.append(lifeline)
        return lifeline

    yield run
    for lifeline in lifelines:
        lifeline.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(lifeline: Lifeline) -> int:
    until(lambda: lifeline.poll() is not None)
    code = lifeline.poll()
    assert code is not None
    return code


def test_the_exit_code_is_kept(run: Run, log: Log) -> None:
    assert ended(run("echo out; echo err >&2; exit 7")) == 7
    assert log.read() == "out\nerr\n"


def test_a_signal_is_seen_in_the_exit_code(run: Run) -> None:
    assert ended(run("kill -9 $$")) == 128 + signal.SIGKILL


def test_stopping_asks_first(run: Run, log: Log) -> None:
    command = run("trap 'echo asked; exit 3' TERM; echo up; sleep 60 & wait")
    until(lambda: "up" in log.read())
    command.stop()
    assert command.poll() == 3
    assert log.read() == "up\nasked\n"


def test_stopping_insists(run: Run, log: Log) -> None:
    command = run("trap '' TERM; echo up; while :; do sleep 60; done")
    until(lambda: "up" in log.read())
    began = time.monotonic()
    command.stop()
    assert 0.9 < time.monotonic() - began < 5
    assert command.poll() == 128 + signal.SIGKILL


def test_what_the_command_started_ends_with_it(run: Run, log: Log) -> None:
    command = run("sleep 60 & echo $!; exit 0")
    assert ended(command) == 0
    assert int(log.read()) not in _session(command.pid)


def test_what_is_left_in_shared_memory_is_removed(run: Run, shm: str) -> None:
    entry = SHM / shm
    command = run("sleep 60")
    assert entry.exists()
    command.stop()
    assert not entry.exists()


def test_a_killed_shell_leaves_nothing(run: Run, log: Log, shm: str) -> None:
    command = run("trap 'echo asked; exit' TERM; echo up; sleep 60 & wait")
    until(lambda: "up" in log.read())
    os.kill(command.pid, signal.SIGKILL)
    until(lambda: not (SHM / shm).exists())
    assert log.read() == "up\nasked\n"
    assert command.poll() == 128 + signal.SIGKILL


def test_a_container_that_fails_leaves_nothing(log: Log, shm: str) -> None:
    command = Lifeline(
        ["/bin/true"],
        env=os.environ,
        cwd=None,
        output=log.file,
        grace=1,
        shm_prefix=shm,
        outer=["/bin/bash", "-c", "exit 255"],
    )
    assert ended(command) == 255
    until(lambda: not (SHM / shm).exists())
    command.stop()


def test_a_command_that_cannot_be_started_leaves_nothing(
    log: Log, shm: str
) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-container"):
        Lifeline(
            ["/bin/true"],
            env=os.environ,
            cwd=None,
            output=log.file,
            grace=1,
            shm_prefix=shm,
            outer=["/no-such-container"],
        )
    gc.collect()  # would warn of a process that runs
    until(lambda: not (SHM / shm).exists())


def test_shared_memory_is_kept_for_as_long_as_anything_lives(
    run: Run, log: Log, shm: str
) -> None:
    command = run("trap '' TERM; echo up; setsid sleep 2")
    until(lambda: "up" in log.read())
    os.kill(command.pid, signal.SIGKILL)
    time.sleep(1)
    assert (SHM / shm).exists()
    until(lambda: not (SHM / shm).exists())


def test_releasing_does_not_wait(run: Run, log: Log) -> None:
    command = run("trap 'echo asked; exit 3' TERM; echo up; sleep 60 & wait")
    until(lambda: "up" in log.read())
    command.release()
    assert command.poll() is None
    assert ended(command) == 3


def test_arguments_are_not_read_by_a_shell(log: Log, shm: str) -> None:
    command = Lifeline(
        ["/bin/echo", "a  b", "$HOME", "'", ";exit 9"],
        env={},
        cwd=None,
        output=log.file,
        grace=1,
        shm_prefix=shm,
    )
    assert ended(command) == 0
    assert log.read() == "a  b $HOME ' ;exit 9\n"
    command.stop()


def test_a_log_without_a_name_leaves_no_file() -> None:
    log = Log(None)
    os.write(log.file.fileno(), b"one\ntwo\nthr")
    assert log.read_new() == "one\ntwo\n"
    os.write(log.file.fileno(), b"ee\n\xff")
    assert log.read_new() == "three\n"
    assert log.read() == "one\ntwo\nthree\n\ufffd"
    assert os.fstat(log.file.fileno()).st_nlink == 0
    log.close()
