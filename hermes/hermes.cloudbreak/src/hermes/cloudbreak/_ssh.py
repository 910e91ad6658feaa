"""One connection to one machine: the only importer of paramiko."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hermes.cloudbreak._copying import get, put, say
from hermes.cloudbreak._dialer import Dialer
from hermes.cloudbreak._remote import GRACE, Host, place
from hermes.cloudbreak.errors import (
    CommandTimeout,
    ConnectionLost,
    CopyFailed,
    HostKeyMismatch,
    HostUnreachable,
    InvalidSpec,
    LoginRefused,
)
from hermes.cloudbreak.waiting import Clock

try:
    import paramiko
except ImportError as error:
    raise ImportError(
        "SSH needs the extra `ssh` of hermes-cloudbreak, which is paramiko "
        f"({error})",
        name=error.name,
    ) from error

__all__ = ("Connection", "Login", "Sftp", "Take")

Sftp = paramiko.SFTPClient

# Attempts that fail are told by our errors. Who wants to hear more can; nobody
# has to.
_wire = logging.getLogger(f"{__name__}.wire")
_wire.addHandler(logging.NullHandler())

# Called with what a command writes: the name of the stream, and bytes.
Take = Callable[[str, bytes], object]

_KEEPALIVE = 15  # seconds between signs of life
_LOOK = 1.0  # seconds between looks at what tells nobody: a late exit code
_ENDING = GRACE + 10.0  # seconds in which a command has to be ended
_CHUNK, _WINDOW = 65536, 2 << 20  # bytes at once, and on their way at most
_RSA = ["rsa-sha2-512", "rsa-sha2-256"]
# What goes wrong on the way; a name that is none is a UnicodeError.
_TROUBLE = (OSError, EOFError, UnicodeError, paramiko.SSHException)


@dataclass(frozen=True)
class Login:
    """Who logs in: a name, and a private key that nobody prints."""

    username: str
    key: paramiko.PKey = field(repr=False)

    @classmethod
    def read(cls, username: str, key_file: str | Path) -> Login:
        """Read a private key.

        Raises:
            InvalidSpec: If the file is not there, or is not a private key
                without a passphrase.
        """
        path = Path(key_file).expanduser()
        given = f"ssh_key_file={str(key_file)!r}"
        try:
            found = path.stat()
            key = paramiko.PKey.from_path(path)
        except FileNotFoundError as error:
            raise InvalidSpec(
                f"{given} is not there: make one with "
                "`ssh-keygen -t ed25519 -N '' -f FILE`"
            ) from error
        except OSError as error:
            raise InvalidSpec(
                f"{given} cannot be read ({error.strerror})"
            ) from error
        except (TypeError, paramiko.PasswordRequiredException):
            raise InvalidSpec(
                f"{given} has a passphrase, and nobody is asked for one: "
                "make a key of its own for this, with "
                "`ssh-keygen -t ed25519 -N '' -f FILE`"
            ) from None
        except (ValueError, paramiko.SSHException) as why:
            # from None: what a parser quotes may be the key
            raise InvalidSpec(
                f"{given} is no private key that can be used "
                f"({type(why).__name__}): give one of OpenSSH, without a "
                "passphrase, and not the `.pub` beside it"
            ) from None
        if found.st_uid == os.getuid() and found.st_mode & 0o077:
            raise InvalidSpec(
                f"{given} can be read by others (mode "
                f"{stat.S_IMODE(found.st_mode):o}): `chmod 600` it; where "
                "others really could, make a new one"
            )
        return cls(username, key)

    @property
    def public_key(self) -> str:
        """What a machine has to know to let them in."""
        return f"{self.key.get_name()} {self.key.get_base64()}"

    def show(self, transport: paramiko.Transport) -> None:
        """Log in.

        Raises:
            AuthenticationException: If that is not enough to be let in.
        """
        more = transport.auth_publickey(self.username, self.key)
        if more:
            raise paramiko.AuthenticationException(
                f"it wants {', '.join(more)} as well"
            )


class Connection:
    """A connection to one machine, for any number of threads.

    Any of them may end it, in the middle of whatever others do.

    Args:
        host: Which machine.
        login: Who logs in.
        clock: The time.
        answer_timeout: Seconds without an answer after which the machine is
            given up.
    """

    def __init__(
        self, host: Host, login: Login, clock: Clock, answer_timeout: float
    ) -> None:
        self.host = host
        self._login = login
        self._clock = clock
        self._limit = answer_timeout
        self._dialer = Dialer(answer_timeout)
        self._opening = threading.Lock()
        self._transport: paramiko.Transport | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it was ended, and never begins anything again."""
        return self._dialer.is_closed

    def again(self) -> Connection:
        """Make another one to the same machine."""
        return Connection(self.host, self._login, self._clock, self._limit)

    def open(self, timeout: float) -> None:
        """Connect and log in, unless that is so already.

        Args:
            timeout: Seconds that this may take.

        Raises:
            HostKeyMismatch: If it is another machine.
            LoginRefused: If the user or the key is not accepted.
            HostUnreachable: If there was no answer, or none of SSH, or the
                connection was closed for good.
        """
        with self._opening:
            if self._transport is None or not self._transport.is_active():
                self._open(timeout)

    def end(self) -> None:
        """Have nothing go on, and nothing begin; wait for nobody."""
        self._dialer.close()

    def close(self) -> None:
        """End it, and with it what runs; wait until it has ended."""
        self.end()
        self._drop()

    def run(self, command: bytes, timeout: float, take: Take) -> int:
        """Run a command.

        Args:
            command: As `guard` wraps it.
            timeout: Seconds until it is ended there.
            take: Called with its output.

        Returns:
            Its exit code.

        Raises:
            CommandTimeout: If it took too long; it says whether it was ended.
            ConnectionLost: If nobody knows how it went.
        """
        with self._execute(command) as channel:
            deadline = self._clock.now() + timeout
            if self._follow(channel, deadline, take):
                return channel.recv_exit_status()
            channel.shutdown_write()  # see guard
            within = self._clock.now() + _ENDING
            is_ended = self._follow(channel, within, take)
        raise CommandTimeout(
            f"{self.host.name}: the command took more than {timeout:g} s and "
            f"{'was ended' if is_ended else 'could not be ended'}"
        )

    def put(self, local: Path, remote: str, timeout: float) -> None:
        """Copy a file there: whole, or not at all.

        Raises:
            CopyFailed: If that was not possible.
        """
        with self._files(timeout, f"{local} to {remote}") as (sftp, check):
            put(sftp, local, remote, check)

    def get(self, remote: str, local: Path, timeout: float) -> None:
        """Copy a file here: whole, or not at all.

        Raises:
            CopyFailed: If that was not possible.
        """
        with self._files(timeout, f"{remote} to {local}") as (sftp, check):
            get(sftp, remote, local, check)

    def _open(self, timeout: float) -> None:
        self._drop()
        try:
            self._transport = self._connect(timeout)
            if self.is_closed:  # while it was made, and not heard of
                self._drop()
                raise EOFError("it was closed")
        except HostKeyMismatch:
            raise
        except paramiko.AuthenticationException as error:
            raise LoginRefused(
                f"{self.host.name} does not let {self._login.username} in "
                f"with this key ({error}): compare username and ssh_key_file"
            ) from error
        except _TROUBLE as error:
            why = "it was closed" if self.is_closed else say(error)
            raise HostUnreachable(
                f"{self.host.name} does not answer on {place(self.host)} "
                f"({why})"
            ) from error

    def _connect(self, timeout: float) -> paramiko.Transport:
        host = self.host
        transport = paramiko.Transport(
            self._dialer.dial(host.address, host.port, timeout)
        )
        try:
            transport.daemon = True
            transport.set_log_channel(_wire.name)
            transport.banner_timeout = transport.auth_timeout = timeout
            _want_keys(transport, host)
            transport.start_client(timeout=timeout)
            self._compare_key(transport)
            self._login.show(transport)
            transport.set_keepalive(_KEEPALIVE)
        except BaseException:
            transport.close()
            raise
        return transport

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            # Its thread says the last word on the socket.
            transport.join(_LOOK)

    def _compare_key(self, transport: paramiko.Transport) -> None:
        found = transport.get_remote_server_key()
        if found.get_base64() not in {k.split()[1] for k in self.host.keys}:
            raise HostKeyMismatch(
                f"{self.host.name}: who answers on {place(self.host)} has "
                f"another {found.get_name()} key ({found.fingerprint}) than "
                "the machine is known by; if it was not set up anew, somebody "
                "is in between"
            )

    def _execute(self, command: bytes) -> paramiko.Channel:
        try:
            with self._answered() as channel:
                channel.exec_command(command)
                channel.fileno()  # there may be no more of them
        except _TROUBLE as error:
            raise self._lost(say(error)) from error
        return channel

    @contextlib.contextmanager
    def _answered(self) -> Iterator[paramiko.Channel]:
        """Begin something; end the connection if that is not answered."""
        began = self._clock.now()
        watch = threading.Timer(self._limit, self._dialer.cut)
        watch.daemon = True
        watch.start()
        try:
            yield self._live.open_session(timeout=self._limit)
        except _TROUBLE as error:
            if self._clock.now() < began + self._limit:
                raise
            raise EOFError(f"no answer in {self._limit:g} s") from error
        finally:
            watch.cancel()

    @property
    def _live(self) -> paramiko.Transport:
        if self._transport is None:
            raise EOFError("it is closed")
        return self._transport

    def _lost(self, why: str) -> ConnectionLost:
        return ConnectionLost(
            f"{self.host.name}: the connection was lost ({why}), and nobody "
            "knows what the command has done"
        )

    def _follow(
        self, channel: paramiko.Channel, deadline: float, take: Take
    ) -> bool:
        """Hand output on until the command ends; False at the deadline."""
        ready = select.poll()
        ready.register(channel.fileno(), select.POLLIN)
        ended = None
        while not (channel.eof_received and channel.exit_status_ready()):
            now = self._clock.now()
            if channel.exit_status_ready():
                # what it has left in the background may hold its output open
                ended = now if ended is None else ended
                if now >= ended + _LOOK:
                    break
            elif now >= deadline:
                return False
            # Not while there is something: what comes while one of the two
            # streams is emptied is not always told.
            if not _read(channel, take):
                _wait(channel, ready, max(0.001, min(_LOOK, deadline - now)))
        for _ in range(_WINDOW // _CHUNK):  # what is left, if it ever ends
            _read(channel, take)
        if channel.exit_status < 0:
            raise self._lost("no exit code came")
        return True

    @contextlib.contextmanager
    def _files(
        self, timeout: float, what: str
    ) -> Iterator[tuple[paramiko.SFTPClient, Callable[[int, int], None]]]:
        deadline = self._clock.now() + timeout

        def check(_done: int, _all: int) -> None:
            if self._clock.now() >= deadline:
                raise TimeoutError(f"not done in {timeout:g} s")

        try:
            check(0, 0)
            with self._answered() as channel:
                channel.invoke_subsystem("sftp")
            with channel:
                channel.settimeout(self._limit)
                yield paramiko.SFTPClient(channel), check
        except _TROUBLE as error:
            raise CopyFailed(
                f"{self.host.name}: cannot copy {what} ({say(error)})"
            ) from error


def _want_keys(transport: paramiko.Transport, host: Host) -> None:
    """Have the server show a key that is known, if it has one."""
    options = transport.get_security_options()
    known: list[str] = []
    for kind in (key.split()[0] for key in host.keys):
        known += _RSA if kind == "ssh-rsa" else [kind]
    options.key_types = sorted(options.key_types, key=lambda k: k not in known)


def _wait(
    channel: paramiko.Channel, ready: select.poll, seconds: float
) -> None:
    if channel.eof_received:  # then only the exit code can come
        channel.status_event.wait(seconds)
    else:
        ready.poll(seconds * 1000)


def _read(channel: paramiko.Channel, take: Take) -> bool:
    """Read what is there; not all that comes: that may have no end."""
    has_output, has_errors = channel.recv_ready(), channel.recv_stderr_ready()
    if has_output:
        take("stdout", channel.recv(_CHUNK))
    if has_errors:
        take("stderr", channel.recv_stderr(_CHUNK))
    return has_output or has_errors
