"""The main function of the pool's processes.

Each leads a session of its own: Ctrl-C at the terminal is for the campaign,
and what a unit has started can be ended with the worker. It ends with its
parent, however that one ends: it holds no pipe that somebody could have
inherited, but watches the process itself where the system lets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing import connection
from typing import Any

from hermes.stillwater._reading import Reader

__all__ = ("RAISED", "READY", "RESULT", "UNREADABLE", "death_of", "main")

READY = "ready"
RESULT = "result"
RAISED = "raised"
UNREADABLE = "unreadable"


def main(pipe: connection.Connection[Any, Any]) -> None:
    """Work on what comes, until the pipe is closed."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send((READY, None))
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))
    except (EOFError, ConnectionError):
        return


def death_of(pid: int, sentinel: int) -> int:
    """Give a descriptor that can be read when a process is gone.

    Args:
        pid: Of the process, which has not been waited for.
        sentinel: What multiprocessing has for it. It is a pipe, and stays
            open for as long as any process that was forked there.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return os.dup(sentinel)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:  # run by hand
        return
    _let_kernel_end(parent.sentinel)
    death = death_of(parent.pid, parent.sentinel)
    if os.getppid() == parent.pid:
        connection.wait([death])
    os.killpg(0, signal.SIGKILL)


def _let_kernel_end(sentinel: int) -> None:
    """Have the pipe's end kill our group, where the system can do that.

    This thread cannot while a unit's C code keeps the GIL.
    """
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgid(0))
        flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _answer(payload: bytes) -> bytes:
    try:
        function, arguments, keywords = Reader(io.BytesIO(payload)).load()
    except Exception:  # noqa: BLE001  # of any module
        return pickle.dumps((UNREADABLE, traceback.format_exc()))
    try:
        return pickle.dumps((RESULT, function(*arguments, **keywords)))
    except Exception:  # noqa: BLE001  # of any function
        return pickle.dumps((RAISED, traceback.format_exc()))
