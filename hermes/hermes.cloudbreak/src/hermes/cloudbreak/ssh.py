"""Commands and files on many machines at once, over SSH.

There is no cloud in here: who a machine is, is said by its host keys, which
are handed in.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from hermes.cloudbreak._remote import Host, Lines, Tail, fill, per_host
from hermes.cloudbreak._ssh import Connection, Login
from hermes.cloudbreak.errors import (
    CommandFailed,
    HostError,
    HostKeyMismatch,
    HostsFailed,
    InvalidSpec,
)
from hermes.cloudbreak.waiting import Clock, Pauses

__all__ = ("Host", "Hosts", "Result", "public_key")

# Machines that are talked to at the same time.
_AT_ONCE = 64
_ATTEMPT = 20.0  # seconds for one attempt to connect
_TOLD = 5  # machines whose trouble is told in a message


@dataclass(frozen=True)
class Result:
    """What became of a command, or of a copy, on one machine.

    Attributes:
        host: Its name.
        stdout: What the command wrote: the end of it, if it was a lot.
        stderr: What it wrote there.
        exit_code: None where it has not ended by itself.
        duration: How long it took [s].
        error: What went wrong, if anything did.
        num_dropped: Bytes of its output that are not in here.
    """

    host: str
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    duration: float = 0.0
    error: HostError | None = None
    num_dropped: int = 0


class Hosts:
    """Machines that do the same thing at the same time.

    Connections are made when they are needed, made again when they were lost,
    and end with the context, and with them what they run.

    Args:
        hosts: The machines.
        username: Who logs in.
        ssh_key_file: With which private key; it has no passphrase.
        connect_timeout: Seconds in which a machine has to answer. It is tried
            again until then, also where it does not accept the user yet: one
            that boots knows nobody.
        clock: The time.

    Raises:
        InvalidSpec: If two have one name, or the key cannot be used.
    """

    def __init__(
        self,
        hosts: Iterable[Host],
        username: str,
        ssh_key_file: str | Path,
        *,
        connect_timeout: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self.hosts = tuple(hosts)
        if len({each.name for each in self.hosts}) < len(self.hosts):
            raise InvalidSpec("two machines have one name: give each its own")
        self._clock = clock or Clock()
        self._timeout = connect_timeout
        login = Login.read(username, ssh_key_file)
        self._connections = [
            Connection(each, login, self._clock) for each in self.hosts
        ]
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Hosts, {len(self.hosts)} of them>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, and what runs over them."""
        self._is_closed = True
        for each in self._connections:
            each.close()

    def connect(self, timeout: float | None = None) -> dict[str, Result]:
        """Wait until all answer and let us in.

        Args:
            timeout: Seconds for that; ``connect_timeout`` if None.

        Raises:
            HostsFailed: If some did not.
        """
        limit = self._timeout if timeout is None else timeout
        return self._all(lambda _index, link: self._open(link, limit))

    def run(
        self,
        command: str,
        *,
        timeout: float = 3600.0,
        check: bool = True,
        on_line: Callable[[str, str], object] | None = None,
        keep: int = 1 << 20,
        **per_vm: Sequence[object],
    ) -> dict[str, Result]:
        """Run a command on all machines at once.

        It is run by ``sh`` in a session of its own, which ends with the
        connection: what was put in the background goes on after the command,
        what runs when this program is killed does not. (A program that has
        become another user with sudo cannot be ended so.)

        Args:
            command: What to run. ``{shard}`` in it becomes the machine's value
                of the keyword ``shard``, quoted for the shell.
            timeout: Seconds until it is ended, by SIGTERM and 5 s later by
                SIGKILL.
            check: Whether to raise where something went wrong; else look at
                ``error`` of each result.
            on_line: Called with the machine's name and a line of its output,
                as they come, by one thread at a time.
            keep: Bytes of each stream of each machine that are kept: its end.
            **per_vm: Lists of one value for each machine, in their order.

        Returns:
            What became of it on each machine, by its name.

        Raises:
            HostsFailed: If it went wrong on some; it has all results.
            InvalidSpec: If a list of values does not fit; nothing was run.
        """
        commands = [
            fill(command, values, quote=True)
            for values in per_host(per_vm, len(self.hosts))
        ]
        lock = threading.Lock()

        def run(index: int, link: Connection) -> Result:
            tell = None
            if on_line is not None:
                tell = _Teller(link.host.name, on_line, lock)
            output = _Output(keep, tell)
            return self._run(link, commands[index], timeout, output)

        return self._all(run, check=check)

    def put(
        self,
        local: str | Path,
        remote: str,
        *,
        timeout: float = 3600.0,
        check: bool = True,
        **per_vm: Sequence[object],
    ) -> dict[str, Result]:
        """Copy a file to all machines: to each whole, or not at all.

        Args:
            local: The file here; it may have places for values, too.
            remote: Its path there. Its folder has to be there.
            timeout: Seconds for each.
            check: See `run`.
            **per_vm: See `run`.

        Raises:
            HostsFailed: If it went wrong on some; it has all results.
            InvalidSpec: If a list of values does not fit.
        """
        pairs = self._paths(str(local), remote, per_vm)

        def put(index: int, link: Connection) -> None:
            here, there = pairs[index]
            link.put(Path(here), there, timeout)

        return self._all(self._opened(put), check=check)

    def get(
        self,
        remote: str,
        folder: str | Path,
        *,
        timeout: float = 3600.0,
        check: bool = True,
        **per_vm: Sequence[object],
    ) -> dict[str, Result]:
        """Copy a file from all machines: whole, or not at all.

        Args:
            remote: Its path there.
            folder: Where to: the file of machine ``vm-0`` is ``vm-0/name`` in
                it.
            timeout: Seconds for each.
            check: See `run`.
            **per_vm: See `run`.

        Raises:
            HostsFailed: If it went wrong on some; it has all results.
            InvalidSpec: If a list of values does not fit.
        """
        pairs = self._paths(remote, "", per_vm)

        def get(index: int, link: Connection) -> None:
            there, _ = pairs[index]
            name = PurePosixPath(there).name
            here = Path(folder) / link.host.name / name
            link.get(there, here, timeout)

        return self._all(self._opened(get), check=check)

    def _paths(
        self, one: str, other: str, per_vm: Mapping[str, Sequence[object]]
    ) -> list[tuple[str, str]]:
        # Both at once: a value may have its place in either.
        return [
            (both.partition("\0")[0], both.partition("\0")[2])
            for values in per_host(per_vm, len(self.hosts))
            for both in [fill(f"{one}\0{other}", values, quote=False)]
        ]

    def _opened(
        self, work: Callable[[int, Connection], None]
    ) -> Callable[[int, Connection], None]:
        def first_open(index: int, link: Connection) -> None:
            self._open(link, self._timeout)
            work(index, link)

        return first_open

    def _open(self, link: Connection, timeout: float) -> None:
        deadline, pauses = self._clock.now() + timeout, Pauses()
        while not self._is_closed:
            left = deadline - self._clock.now()
            try:
                link.open(min(_ATTEMPT, max(1.0, left)))
            except HostKeyMismatch:
                raise
            except HostError:
                pause = pauses()
                if self._clock.now() + pause >= deadline:
                    raise
                self._clock.sleep(pause)
            else:
                return

    def _run(
        self, link: Connection, command: str, timeout: float, output: _Output
    ) -> Result:
        started = self._clock.now()
        code: int | None = None
        trouble: HostError | None = None
        try:
            self._open(link, self._timeout)
            started = self._clock.now()
            code = link.run(command, timeout, output.take)
            if code:
                trouble = _complain(link.host.name, code, output)
        except HostError as error:
            trouble = error
        return Result(
            link.host.name,
            output.text("stdout"),
            output.text("stderr"),
            code,
            self._clock.now() - started,
            trouble,
            output.end(),
        )

    def _all(
        self,
        work: Callable[[int, Connection], Result | None],
        *,
        check: bool = True,
    ) -> dict[str, Result]:
        pool = ThreadPoolExecutor(
            min(_AT_ONCE, len(self.hosts) or 1), "hermes-ssh"
        )
        futures = [
            pool.submit(self._one, work, index, link)
            for index, link in enumerate(self._connections)
        ]
        try:
            concurrent.futures.wait(futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()  # which ends what runs
            raise
        finally:
            pool.shutdown()
        results = {each.host: each for each in (f.result() for f in futures)}
        if check:
            _raise_failures(results)
        return results

    def _one(
        self,
        work: Callable[[int, Connection], Result | None],
        index: int,
        link: Connection,
    ) -> Result:
        started = self._clock.now()
        trouble = None
        try:
            if (result := work(index, link)) is not None:
                return result
        except HostError as error:
            trouble = error
        duration = self._clock.now() - started
        return Result(link.host.name, duration=duration, error=trouble)


class _Teller:
    """Hands lines to somebody, who hears of one machine at a time."""

    def __init__(
        self,
        name: str,
        on_line: Callable[[str, str], object],
        lock: threading.Lock,
    ) -> None:
        self._name, self._on_line, self._lock = name, on_line, lock
        self._lines = {"stdout": Lines(), "stderr": Lines()}

    def take(self, stream: str, chunk: bytes) -> None:
        self._tell(self._lines[stream].add(chunk))

    def end(self) -> None:
        for each in self._lines.values():
            self._tell(each.end())

    def _tell(self, lines: list[str]) -> None:
        with self._lock:
            for line in lines:
                self._on_line(self._name, line)


class _Output:
    """What is kept of the output of one command."""

    def __init__(self, keep: int, teller: _Teller | None) -> None:
        self._tails = {"stdout": Tail(keep), "stderr": Tail(keep)}
        self._teller = teller

    def take(self, stream: str, chunk: bytes) -> None:
        self._tails[stream].add(chunk)
        if self._teller is not None:
            self._teller.take(stream, chunk)

    def text(self, stream: str) -> str:
        return self._tails[stream].text

    def end(self) -> int:
        if self._teller is not None:
            self._teller.end()
        return sum(each.num_dropped for each in self._tails.values())


def public_key(ssh_key_file: str | Path) -> str:
    """Give the public key of a private one, as machines are told of it.

    Raises:
        InvalidSpec: If the key cannot be used.
    """
    return Login.read("", ssh_key_file).public_key


def _complain(name: str, code: int, output: _Output) -> CommandFailed:
    last = output.text("stderr").strip().rpartition("\n")[2][-300:]
    return CommandFailed(f"{name}: exit code {code}: {last or 'no word'}")


def _raise_failures(results: Mapping[str, Result]) -> None:
    failed = [each.error for each in results.values() if each.error]
    if failed:
        more = f", and {n} more" if (n := len(failed) - _TOLD) > 0 else ""
        told = "; ".join(str(each) for each in failed[:_TOLD])
        raise HostsFailed(
            f"{len(failed)} of {len(results)} machines failed: {told}{more}",
            results,
        )
