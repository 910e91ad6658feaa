"""A process for the monitor, at the other end of two pipes.

Not multiprocessing: fork is not safe in a process with threads, and its other
ways run the user's script a second time, which scripts must be written for.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import spawn
from time import monotonic
from typing import Any

from hermes.aeriel import errors
from hermes.aeriel.errors import AerielError, MonitorDied

__all__ = ("Process",)

# The child finds modules where we do; nothing is read beyond the line, and
# what a library may print does not get between the reports.
_PROGRAM = """\
import json, os, sys
line = open(0, "rb", buffering=0, closefd=False).readline()
told = json.loads(line or sys.exit())
sys.path[:] = told["path"]
reports = os.dup(1)
os.dup2(2, 1)
from hermes.aeriel.monitor._worker import main
sys.exit(main(told["settings"], reports))
"""
_KILL_SECONDS = 5.0
_LOG_BYTES = 2000

# Processes that nobody waits for, kept until they can be reaped.
_ending: set[subprocess.Popen[bytes]] = set()


class Process:
    """A monitor's process.

    Args:
        name: What it is called in a list of processes.
        settings: What the worker is told.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        _reap()
        self.is_ready = False
        self.warnings: list[str] = []
        self._name = name
        self._owner = os.getpid()
        self._error: AerielError | None = None
        self._is_done = False
        self._unread = b""
        # With its errors in a file it needs nobody to read them.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._popen = subprocess.Popen(
            [spawn.get_executable(), "-P", "-c", _PROGRAM, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            # Signals of the terminal are for the parent.
            start_new_session=True,
        )
        told = {"path": [*map(str, sys.path)], "settings": settings}
        self._send(json.dumps(told).encode() + b"\n")

    @property
    def pid(self) -> int:
        """Its id."""
        return self._popen.pid

    @property
    def is_ours(self) -> bool:
        """Whether this process, not the parent of a fork, started it."""
        return os.getpid() == self._owner

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def wait_until_ready(self, timeout: float) -> None:
        """Return when it is ready.

        Raises:
            AerielError: What ended it.
            MonitorDied: If it is not ready in time.
        """
        end = monotonic() + timeout
        while not self.is_ready:
            left = end - monotonic()
            if left <= 0:
                self.kill()
                msg = f"{self._name} was not ready within {timeout:g} s"
                raise MonitorDied(msg)
            self._read(left)
            self.check()

    def check(self) -> None:
        """Raise what ended it; nothing if it runs, or was told to end.

        Raises:
            AerielError: What ended it.
        """
        if not self.is_ours:
            return
        # The order matters: what it said before it ended is all there.
        code = self._popen.poll()
        self._read(0)
        if self._error is None and code is not None and not self._is_done:
            self._error = MonitorDied(self._death(code))
        if self._error is not None:
            raise self._error

    def stop(self, timeout: float) -> None:
        """Have it end, and wait for that.

        Args:
            timeout: Seconds; it is killed then.

        Raises:
            AerielError: What ended it before, or kept it from a good end.
        """
        if not self.is_ours:
            return
        if not self._is_closed():
            self._send(b"\n")
            self._finish(timeout)
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Have it end without waiting for it."""
        if self.is_ours and not self._is_closed():
            self._send(b"\n")
            self._close()
            _ending.add(self._popen)

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        # Not for ever: a file system that hangs keeps its processes.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_KILL_SECONDS)
        self._close()

    def _finish(self, timeout: float) -> None:
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self._error = MonitorDied(
                f"{self._name} did not end within {timeout:g} s and was"
                " killed; its record may lack the end"
            )
            self.kill()
            return
        except BaseException:
            self.kill()  # Ctrl-C: it is not left behind
            raise
        with contextlib.suppress(AerielError):
            self.check()
        self._close()

    def _send(self, line: bytes) -> None:
        stdin = self._popen.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(line)

    def _read(self, timeout: float) -> None:
        """Take what it has said, or says in time."""
        stdout = self._popen.stdout
        if stdout is None or stdout.closed:
            return
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while poll.poll(timeout * 1000):
            said = os.read(stdout.fileno(), 1 << 16)
            if not said:
                # It ends: let it, or whoever asks again would do so at once.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(timeout)
                return
            *lines, self._unread = (self._unread + said).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            timeout = 0

    def _take(self, message: Mapping[str, Any]) -> None:
        self.is_ready |= "ready" in message
        self._is_done |= "done" in message
        if "warning" in message:
            self.warnings.append(message["warning"])
        if "error" in message:
            kind = getattr(errors, message["error"])
            self._error = kind(message["message"])

    def _death(self, code: int) -> str:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_BYTES))
        log = self._log.read().decode("utf-8", "replace").strip()
        said = f":\n{log}" if log else ""
        return f"the process of {self._name} ended with {how}{said}"

    def _is_closed(self) -> bool:
        return self._log.closed

    def _close(self) -> None:
        for file in self._popen.stdin, self._popen.stdout, self._log:
            if file is not None:
                file.close()


def _reap() -> None:
    for popen in list(_ending):
        if popen.poll() is not None:
            _ending.discard(popen)
