"""The shell between us and the server: who ends the server, and when.

A server must not outlive the program that started it, however that program
ends: leaving a ``with``, an exception, Ctrl-C, SIGKILL, a batch system. Only
the kernel is still there after a SIGKILL, and the one thing it is sure to do
is to close our file descriptors. So the server is the child of a shell that
reads from a pipe whose other end we hold: when the pipe closes, the shell
stops the server.

PR_SET_PDEATHSIG would be shorter, but it does not survive the re-execution
that Apptainer does, and it reaches the server only, not its Python stubs.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import IO

from hermes.aeriel.serve._shm import hold

__all__ = ("Lifeline",)

# All that is started inherits one end of a pipe: a container, the server in
# it, its stubs. When this shell, outside of them all, finds it closed, none of
# them is left to make another entry in /dev/shm, however they ended: a
# container may fail, or be killed, before the shell in it runs.
_TIDY = """
trap '' TERM INT HUP
read -r
rm -f -- "/dev/shm/${1:?}"*
"""

# Variables for the server come through the pipe, before anything else: those
# of its environment Apptainer would have a shell evaluate, and those of its
# command line everybody could read.
#
# Job control gives the server a process group of its own, so that its Python
# stubs can be ended with it; what the shell says about jobs is for nobody.
# SIGTERM goes to the server alone, which then ends its stubs in order; SIGKILL
# goes to the group. The keeper looks once per second whether it is still our
# child, for a SIGKILL to this shell must not orphan the server either. An
# orphan may stay a zombie for ever in a container whose init does not reap, so
# `kill -0` would not tell whether it runs.
_LIFELINE = r"""
while IFS= read -r -d '' _pair || exit 1; [ "$_pair" ]; do
    _name=${_pair%%=*}
    case $_name in
    PATH | LD_LIBRARY_PATH) _pair=$_name=${!_name:+${!_name}:}${_pair#*=} ;;
    esac
    export "$_pair"
done
_grace=$1
shift
exec {_line}<&0 </dev/null {_err}>&2 2>/dev/null
asked=
trap 'asked=1' TERM INT HUP
set -m
"$@" 2>&"$_err" {_err}>&- {_line}<&- &
server=$!
set +m
exec {_err}>&-
running() {
    read -r _line <"/proc/$server/stat" && [[ ${_line##*) } != Z* ]]
}
stop() {
    kill -TERM "$server"
    for ((i = 0; i < _grace * 20; i++)); do
        running || break
        sleep 0.05
    done
    kill -KILL -- "-$server"
}
orphaned() {
    read -r _ _ _ parent _ <"/proc/$BASHPID/stat"
    [ "$parent" != $$ ]
}
keep() {
    trap '' TERM INT HUP
    while read -r -t 1 -u "$_line"; (($? > 128)) && ! orphaned; do :; done
    stop
}
keep >/dev/null &
keeper=$!
exec {_line}<&-
trap 'asked=1; stop >/dev/null &' TERM INT HUP
[ -z "$asked" ] || stop >/dev/null &
while :; do
    asked=
    wait "$server"
    code=$?
    [ "$asked" ] || break
done
kill -KILL -- "-$server"
for ((i = 0; i < 10; i++)); do
    kill -0 -- "-$server" || break
    sleep 0.02
done
kill -KILL "$keeper"
wait "$keeper"
exit "$code"
"""

# Whatever the command leaves behind becomes a child of the shell, which reaps
# it. Else it would be init's, and a container's init may not. No shell can ask
# for that, but it keeps what the process was that becomes it.
_SUBREAPER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
os.execv(sys.argv[1], sys.argv[1:])
"""

# Beyond its grace the shell needs this long to kill and to clean up.
_MARGIN = 5.0
# Seconds between two looks at what is being stopped.
_PAUSE = 0.03


class Lifeline:
    """A command that ends when we stop it or when this process is gone.

    Args:
        argv: The command.
        env: Its whole environment.
        cwd: Its working directory; None for ours.
        output: Where stdout and stderr go.
        grace: Seconds between SIGTERM and SIGKILL.
        shm_prefix: Entries of ``/dev/shm`` whose names start so are removed
            after the command has ended.
        pass_fds: Descriptors that the command inherits.
        outer: What the shell itself is started with, such as a container.
        handed: Variables for the command, besides ``env``; search paths are
            appended to those that it has.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: IO[bytes],
        grace: int,
        shm_prefix: str,
        pass_fds: Sequence[int] = (),
        outer: Sequence[str] = (),
        handed: Mapping[str, str] | None = None,
    ) -> None:
        _reap()
        self._owner = os.getpid()
        self._deadline = grace + _MARGIN
        shell = ["/bin/bash", "-c", _LIFELINE, "_", str(grace)]
        # A container's own processes are not for us to reap.
        outer = outer or [sys.executable, "-I", "-S", "-c", _SUBREAPER]
        with contextlib.ExitStack() as undo:
            with _starting, _pipe() as (found_closed, held):
                self._tidier = subprocess.Popen(
                    ["/bin/bash", "-c", _TIDY, "_", shm_prefix],
                    stdin=found_closed,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": os.defpath},
                    start_new_session=True,
                )
                _children.add(self._tidier)
                reader, self._line = _line()
                # Before there is a shell: nobody but us may hold its line, for
                # `subprocess` keeps its own end of what was interrupted.
                self._let_go = weakref.finalize(
                    self, _let_go, self._line, hold(shm_prefix)
                )
                undo.callback(self._let_go)
                try:
                    self._shell = subprocess.Popen(
                        [*outer, *shell, *argv],
                        stdin=reader,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=dict(env),
                        cwd=cwd,
                        pass_fds=(*pass_fds, held),
                        start_new_session=True,
                    )
                finally:
                    os.close(reader)
                _children.add(self._shell)
            # Now that only the shell reads: where it has ended, nobody does.
            self._hand(handed or {})
            undo.pop_all()

    @property
    def pid(self) -> int:
        """The shell's process id, which is also its session's."""
        return self._shell.pid

    @property
    def is_ours(self) -> bool:
        """Whether this process, not the parent of a fork, started it."""
        return os.getpid() == self._owner

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs.

        A command that a signal ended has 128 plus the signal's number. A
        forked child cannot know, and is told that it runs.
        """
        if not self.is_ours:
            return None
        code = self._shell.poll()
        return 128 - code if code is not None and code < 0 else code

    def _hand(self, variables: Mapping[str, str]) -> None:
        pairs = [f"{name}={value}\0" for name, value in variables.items()]
        content = os.fsencode("".join([*pairs, "\0"]))
        # What has ended already says why in its output.
        with contextlib.suppress(BrokenPipeError):
            while content:
                content = content[self._line.write(content) :]

    def release(self) -> None:
        """Have the command stopped without waiting for it.

        So it is, too, where nothing refers to this object any more.
        """
        self._line.close()

    def stop(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Have the command stopped and wait until nothing of it is left.

        Args:
            is_over: Whether nothing is worth waiting for any more, and what
                still runs may be killed; asked again and again.
        """
        if not self.is_ours:
            return
        self.release()
        give_up = time.monotonic() + self._deadline
        # Usually empty with the shell; not where that itself was killed.
        while self._shell.poll() is None or any(_session(self.pid)):
            if time.monotonic() > give_up:
                break
            if is_over():
                # Not the shell, which reaps the others.
                _kill(pid for pid in _session(self.pid) if pid != self.pid)
            time.sleep(_PAUSE)
        _kill(_session(self.pid))
        self._shell.wait()
        # Not before whatever left the session is gone, too.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._tidier.wait(_MARGIN)
        self._let_go()
        _reap()


# A fork waits until a line that is being made is in the set below.
_starting = threading.RLock()
_lines: weakref.WeakSet[FileIO] = weakref.WeakSet()

# What was started, kept until it can be reaped.
_children: set[subprocess.Popen[bytes]] = set()


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _line() -> tuple[int, FileIO]:
    reader, writer = os.pipe()
    line = FileIO(writer, "w")
    _lines.add(line)
    return reader, line


def _let_go(line: FileIO, unlock: Callable[[], None]) -> None:
    line.close()
    unlock()


def _reap() -> None:
    for child in list(_children):
        if child.poll() is not None:
            _children.discard(child)


def _close_inherited_lines() -> None:
    _starting.release()
    for line in list(_lines):
        line.close()


# A forked child (multiprocessing's default before Python 3.14) inherits the
# pipe's end, and would keep the server alive after its parent's death.
os.register_at_fork(
    before=_starting.acquire,
    after_in_parent=_starting.release,
    after_in_child=_close_inherited_lines,
)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if os.getsid(int(entry.name)) == leader and state != "Z":
                yield int(entry.name)
