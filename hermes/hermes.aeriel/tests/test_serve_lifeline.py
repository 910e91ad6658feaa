"""The lifeline with commands that are quicker than Triton."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hermes.aeriel.serve._lifeline import Lifeline
from hermes.aeriel.serve._log import Log

Run = Callable[..., Lifeline]
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

    def run(script: str, outer: Sequence[str] = ()) -> Lifeline:
        lifeline = Lifeline(
            ["/bin/bash", "-c", script + "\n:", "'$0'"],
            env=os.environ,
            cwd="/",
            output=log.file,
            grace=1,
            shm_prefix=shm,
            outer=outer,
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


def test_stopping_does_not_wait_for_what_is_over(run: Run, log: Log) -> None:
    command = run(
        "trap 'echo over' TERM; sleep 60 & echo $!; while :; do wait; done"
    )
    until(lambda: "\n" in log.read())
    began = time.monotonic()
    command.stop(lambda: "over" in log.read())
    assert time.monotonic() - began < 1  # which is its grace
    assert command.poll() == 128 + signal.SIGKILL
    assert not Path(f"/proc/{log.read().split()[0]}").exists()


def test_what_the_command_started_ends_with_it(run: Run, log: Log) -> None:
    command = run("sleep 60 & echo $!; exit 0")
    assert ended(command) == 0
    # not even as a zombie, which a container's init may never reap
    assert not Path(f"/proc/{log.read().strip()}").exists()


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


def test_a_container_that_fails_leaves_nothing(run: Run, shm: str) -> None:
    command = run(":", outer=["/bin/bash", "-c", "exit 255"])
    assert ended(command) == 255
    until(lambda: not (SHM / shm).exists())


def test_a_container_that_reads_nothing_holds_nobody_up(
    log: Log, shm: str
) -> None:
    command = Lifeline(
        ["/bin/true"],
        env=os.environ,
        cwd=None,
        output=log.file,
        grace=1,
        shm_prefix=shm,
        outer=["/bin/false"],
        handed={"LONG": "x" * 200_000},
    )
    assert ended(command) == 1
    command.stop()


def test_a_command_that_cannot_be_started_leaves_nothing(
    run: Run, shm: str
) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-container"):
        run(":", outer=["/no-such-container"])
    gc.collect()  # would warn of a process that runs
    until(lambda: not (SHM / shm).exists())


def test_what_nobody_holds_any_more_is_stopped(log: Log, shm: str) -> None:
    script = "trap 'echo asked; exit' TERM; echo up; sleep 60 & wait"
    lifeline = Lifeline(
        ["/bin/bash", "-c", script],
        env=os.environ,
        cwd=None,
        output=log.file,
        grace=1,
        shm_prefix=shm,
    )
    until(lambda: "up" in log.read())
    del lifeline
    until(lambda: not (SHM / shm).exists())
    assert log.read() == "up\nasked\n"


# Interrupts its own start again and again, a little later every time.
INTERRUPTED = """
import signal, sys, threading, time
from hermes.aeriel.serve._lifeline import Lifeline

class Interrupted(BaseException):
    pass

def interrupt(*_):
    raise Interrupted

def kill(armed, delay):
    armed.wait()
    time.sleep(delay)
    signal.pthread_kill(main, signal.SIGUSR1)

main = threading.get_ident()
signal.signal(signal.SIGUSR1, interrupt)
num_interrupted = 0
for n in range(60):
    lifeline, armed = None, threading.Event()
    thread = threading.Thread(target=kill, args=[armed, n * 2e-4])
    thread.start()
    try:
        armed.set()
        lifeline = Lifeline(
            ["/bin/bash", "-c", "sleep 60; :", sys.argv[1]],
            env={"PATH": "/bin:/usr/bin"},
            cwd=None,
            output=sys.stderr.buffer,
            grace=1,
            shm_prefix=f"{sys.argv[1]}-{n}-",
        )
        time.sleep(5)
    except Interrupted:
        num_interrupted += lifeline is None
    thread.join()
lifeline = None
print(num_interrupted, flush=True)
sys.stdin.read()
"""


def processes(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_a_start_that_is_interrupted_leaves_nothing(shm: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, shm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert 0 < int(program.stdout.readline()) < 60
        until(lambda: processes(shm) == [program.pid])
        assert list(SHM.glob(f"{shm}-*")) == []
        program.communicate("")


@pytest.mark.parametrize("milliseconds", range(0, 12, 2))
def test_a_shell_asked_to_end_at_once_ends_its_command(
    run: Run, shm: str, milliseconds: int
) -> None:
    command = run("echo up; sleep 60")
    time.sleep(milliseconds / 1000)
    os.kill(command.pid, signal.SIGTERM)
    assert ended(command) == 128 + signal.SIGTERM
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
    command = run("trap 'sleep 0.5; exit 3' TERM; echo up; sleep 60 & wait")
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
