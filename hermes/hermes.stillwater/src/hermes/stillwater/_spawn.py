"""New interpreters, and what they are to do.

Always a new interpreter, as `multiprocessing`'s spawn: a fork would share
threads' locks, gRPC's and CUDA's state with its parent. What multiprocessing
does beyond that is not wanted: its resource tracker is a process that stays.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import context, process, reduction, spawn
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hermes.stillwater.errors import CannotSpawn
from hermes.stillwater.process import PipelineProcess

__all__ = ("Child", "refuse_in_child_import", "start")

logger = logging.getLogger(__name__)

# First of all the kernel is asked to kill the child when its parent is gone,
# as the lifeline's end tells. A thread that waits for that could not run while
# other code holds the interpreter, and `PR_SET_PDEATHSIG` is about the thread
# that started the child.
_CODE = """
import fcntl, os, select, signal, sys
fcntl.fcntl({lifeline}, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl({lifeline}, fcntl.F_SETSIG, signal.SIGKILL)
fcntl.fcntl({lifeline}, fcntl.F_SETFL, os.O_ASYNC)
os.set_inheritable({lifeline}, False)
if select.select([{lifeline}], [], [], 0)[0]:
    os._exit(3)
sys.path[:] = {path!r}
from hermes.stillwater._child import main
main({work}, {control})
"""


@dataclass(frozen=True)
class Child:
    """A process that was started.

    Attributes:
        name: What errors call it.
        process: The process.
        control: Messages to it and from it; ends when it is gone.
        lifeline: A pipe whose end at our side keeps it alive.
        stage: What it runs a copy of.
    """

    name: str
    process: subprocess.Popen[bytes]
    control: Connection
    lifeline: int
    stage: PipelineProcess

    def close(self) -> None:
        """Let go of a process that has ended, and of what it left behind."""
        self.control.close()
        os.close(self.lifeline)
        if self.process.returncode != 0:
            try:
                self.stage.cleanup()
            except Exception:
                logger.exception("stage %r left something behind", self.name)


class _KeptFd:
    """An fd that has the same number in the child."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def detach(self) -> int:
        """Give the number."""
        return self._fd


class _Spawning:
    """Gathers the fds a child gets; what `multiprocessing` asks for them."""

    DupFd = _KeptFd

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        """Let the child have it."""
        self.fds.append(fd)
        return fd


def refuse_in_child_import() -> None:
    """Refuse to start processes where a child imports its parent's script.

    Raises:
        CannotSpawn: If that is happening.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise CannotSpawn(
            "a stage's process imports the script that made it, and the"
            " script starts the pipeline again. Put what starts it under"
            " `if __name__ == '__main__':`"
        )


def start(name: str, work: tuple[Any, ...]) -> Child:
    """Start an interpreter that does a piece of work.

    Args:
        name: What errors call it.
        work: See `hermes.stillwater._child.run`.

    Raises:
        CannotSpawn: If the work cannot be sent there.
    """
    spawning = _Spawning()
    payload = _pickle(name, work, spawning)
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        control, their_control = socket.socketpair()
        ours.callback(control.close)
        theirs.callback(their_control.close)
        their_lifeline, lifeline = os.pipe()
        ours.callback(os.close, lifeline)
        theirs.callback(os.close, their_lifeline)
        file = theirs.enter_context(_write_file(payload))
        fds = {
            "work": file.fileno(),
            "control": their_control.fileno(),
            "lifeline": their_lifeline,
        }
        popen = _start_interpreter(fds, spawning.fds)
        ours.pop_all()
    connection = Connection(control.detach())
    return Child(name, popen, connection, lifeline, work[0])


def _write_file(payload: bytes) -> io.FileIO:
    file = io.FileIO(os.memfd_create("hermes-work"), "r+")
    file.write(payload)
    file.seek(0)
    return file


def _start_interpreter(
    fds: dict[str, int], more: list[int]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _CODE.format(path=sys.path, **fds)]
    with _blocked_interrupt():
        return subprocess.Popen(
            command, pass_fds=[*fds.values(), *more], stdin=subprocess.DEVNULL
        )


def _pickle(name: str, work: tuple[Any, ...], spawning: _Spawning) -> bytes:
    _refuse_interactive(name, work[0])
    file = io.BytesIO()
    context.set_spawning_popen(spawning)  # type: ignore[arg-type]
    try:
        preparation = spawn.get_preparation_data(name)
        if not _has_script():
            preparation.pop("init_main_from_path", None)
        reduction.dump(preparation, file)
        reduction.dump(work, file)
    except Exception as error:
        raise CannotSpawn(
            f"stage {name!r} cannot be sent to its process: {error}. Classes"
            " and functions must be at the top of a module; make files,"
            " clients and the like in setup()"
        ) from error
    finally:
        context.set_spawning_popen(None)
    return file.getvalue()


def _has_script() -> bool:
    """Whether another interpreter can import what is in ``__main__``."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None):
        return True
    return Path(getattr(main, "__file__", None) or "<stdin>").exists()


def _refuse_interactive(name: str, stage: object) -> None:
    """A notebook's own classes cannot be found by another interpreter."""
    if _has_script():
        return
    parts = (stage, getattr(stage, "_work", None))
    for part in parts:
        kind = part if hasattr(part, "__qualname__") else type(part)
        if getattr(kind, "__module__", None) == "__main__":
            raise CannotSpawn(
                f"stage {name!r} is defined in a notebook or at a prompt,"
                " where its process cannot find it: write it to a file"
                " (%%writefile stages.py) and import it"
            )


@contextlib.contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back; the child keeps the mask until it is ready for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
