"""Commands and files on many machines at once, over SSH.

There is no cloud in here: who a machine is, is said by its host keys, which
are handed in.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Self

from hermes.cloudbreak._output import Output, Teller
from hermes.cloudbreak._remote import Host, guard
from hermes.cloudbreak._results import Result, complain, raise_failures
from hermes.cloudbreak._ssh import Connection, Login
from hermes.cloudbreak._values import (
    check_places,
    fill_command,
    fill_path,
    per_host,
)
from hermes.cloudbreak.errors import (
    HostError,
    HostKeyMismatch,
    InvalidSpec,
)
from hermes.cloudbreak.waiting import Clock, Pauses

__all__ = ("Host", "Hosts", "Result", "public_key")

# Machines that are connected to at the same time.
_AT_ONCE = 64
_ATTEMPT = 20.0  # seconds for one attempt to connect


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
        answer_timeout: Seconds without an answer after which a machine that
            was connected is given up: when it is told to begin something, and
            while a file is copied.
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
        answer_timeout: float = 45.0,
        clock: Clock | None = None,
    ) -> None:
        self.hosts = tuple(hosts)
        if len({each.name for each in self.hosts}) < len(self.hosts):
            raise InvalidSpec("two machines have one name: give each its own")
        self._interrupted = threading.Event()
        self._clock = clock or Clock()
        if self._clock.sleep is time.sleep:  # which Ctrl-C here cannot end
            self._clock = replace(self._clock, sleep=self._sleep)
        self._timeout = connect_timeout
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        login = Login.read(username, ssh_key_file)
        self._connections = [
            Connection(each, login, self._clock, answer_timeout)
            for each in self.hosts
        ]

    def __repr__(self) -> str:
        return f"<Hosts, {len(self.hosts)} of them>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, and what runs over them."""
        self._interrupted.set()
        _close(self._connections)

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
        connection: what was put in the background goes on after the command;
        what it began is ended with it, in whatever session, at its time limit
        and when this program is killed or interrupted. (A program that has
        become another user with sudo cannot be ended so.)

        Args:
            command: What to run. ``{shard}`` in it becomes the machine's value
                of the keyword ``shard``, whatever is in it: it is never
                read as code, unless by a program that you hand it to as such
                (``eval``, ``ssh``). Other users of a machine may see it in
                the list of its processes.
            timeout: Seconds until it is ended, by SIGTERM and 5 s later by
                SIGKILL.
            check: Whether to raise where something went wrong; else look at
                ``error`` of each result.
            on_line: Called with the machine's name and a line of its output,
                as they come, by one thread at a time.
            keep: Bytes of each stream of each machine that are kept: its end.
                What is no UTF-8 among them becomes U+FFFD.
            **per_vm: Lists of one value for each machine, in their order.

        Returns:
            What became of it on each machine, by its name.

        Raises:
            HostsFailed: If it went wrong on some; it has all results.
            InvalidSpec: If a list of values does not fit, a value stands
                between quotes, in a here-document or in a comment, or no
                machine takes so long a command; nothing was run.
        """
        check_places((command,), tuple(per_vm))
        commands = [
            guard(fill_command(command, values))
            for values in per_host(per_vm, len(self.hosts))
        ]
        lock = threading.Lock()

        def run(index: int, link: Connection) -> Result:
            tell = None
            if on_line is not None:
                tell = Teller(link.host.name, on_line, lock)
            output = Output(keep, tell)
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
            InvalidSpec: If a list of values does not fit, or there is no such
                file; nothing was sent.
        """
        pairs = self._paths(str(local), remote, per_vm)
        for (here, _), host in zip(pairs, self.hosts, strict=True):
            if not Path(here).is_file():
                raise InvalidSpec(
                    f"local={str(local)!r}: there is no such file for "
                    f"{host.name}"
                )

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
        check_places((one, other), tuple(per_vm))
        return [
            (fill_path(one, values), fill_path(other, values))
            for values in per_host(per_vm, len(self.hosts))
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
        while True:
            left = deadline - self._clock.now()
            try:
                with self._slots:
                    link.open(min(_ATTEMPT, max(1.0, left)))
            except HostKeyMismatch:
                raise
            except HostError:
                if link.is_closed or not pauses.wait(self._clock, deadline):
                    raise
            else:
                return

    def _sleep(self, seconds: float) -> None:
        self._interrupted.wait(seconds)

    def _run(
        self, link: Connection, command: bytes, timeout: float, output: Output
    ) -> Result:
        started = self._clock.now()
        code: int | None = None
        trouble: HostError | None = None
        try:
            self._open(link, self._timeout)
            started = self._clock.now()
            code = link.run(command, timeout, output.take)
            if code:
                trouble = complain(link.host.name, code, output.text("stderr"))
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
        links, futures = self._connections, []
        pool = ThreadPoolExecutor(len(links) or 1, "hermes-ssh")
        try:
            futures = [
                pool.submit(self._one, work, index, link)
                for index, link in enumerate(links)
            ]
            _wait(futures)
        except BaseException:
            self._stop(links)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        results = {each.host: each for each in (f.result() for f in futures)}
        if check:
            raise_failures(results)
        return results

    def _stop(self, links: list[Connection]) -> None:
        """End what runs; what is asked next begins anew."""
        if links is self._connections and not self._interrupted.is_set():
            self._connections = [each.again() for each in links]
            interrupted, self._interrupted = self._interrupted, Event()
            interrupted.set()
        _close(links)

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


def _wait(futures: Sequence[Future[Result]]) -> None:
    """Wait for all, or for the first error that is not a machine's."""
    done, _ = concurrent.futures.wait(
        futures, return_when=concurrent.futures.FIRST_EXCEPTION
    )
    for each in done:
        each.result()


def _close(links: Iterable[Connection]) -> None:
    links = tuple(links)
    for each in links:  # first of all: what runs on one does not wait
        each.end()
    for each in links:
        each.close()


def public_key(ssh_key_file: str | Path) -> str:
    """Give the public key of a private one, as machines are told of it.

    Raises:
        InvalidSpec: If the key cannot be used.
    """
    return Login.read("", ssh_key_file).public_key
