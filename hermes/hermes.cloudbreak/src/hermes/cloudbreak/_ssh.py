"""One connection to one machine: the only importer of paramiko."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hermes.cloudbreak._remote import GRACE, Host, guard
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

__all__ = ("Connection", "Login", "Take")

# Attempts that fail are told by our errors. Who wants to hear more can; nobody
# has to.
_wire = logging.getLogger(f"{__name__}.wire")
_wire.addHandler(logging.NullHandler())

# Called with what a command writes: the name of the stream, and bytes.
Take = Callable[[str, bytes], object]

_KEEPALIVE = 15  # seconds between signs of life
_SILENCE = 45  # seconds without an answer to them: the machine is gone
_LOOK = 1.0  # seconds between looks at what tells nobody: a late exit code
_CHUNK = 65536
_RSA = ["rsa-sha2-512", "rsa-sha2-256"]


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
        try:
            key = paramiko.PKey.from_path(Path(key_file))
        except FileNotFoundError as error:
            raise InvalidSpec(
                f"ssh_key_file={str(key_file)!r} is not there: make one with "
                "`ssh-keygen -t ed25519 -N '' -f FILE`"
            ) from error
        except (OSError, TypeError, ValueError, paramiko.SSHException) as why:
            # from None: what a parser quotes may be the key
            raise InvalidSpec(
                f"ssh_key_file={str(key_file)!r} is no private key that can "
                f"be used ({type(why).__name__}): give one of OpenSSH, "
                "without a passphrase"
            ) from None
        return cls(username, key)

    @property
    def public_key(self) -> str:
        """What a machine has to know to let them in."""
        return f"{self.key.get_name()} {self.key.get_base64()}"


class Connection:
    """A connection to one machine; one thread at a time uses it.

    Args:
        host: Which machine.
        login: Who logs in.
        clock: The time.
    """

    def __init__(self, host: Host, login: Login, clock: Clock) -> None:
        self.host = host
        self._login = login
        self._clock = clock
        self._transport: paramiko.Transport | None = None

    def open(self, timeout: float) -> None:
        """Connect and log in, unless that is so already.

        Args:
            timeout: Seconds that this may take.

        Raises:
            HostKeyMismatch: If it is another machine.
            LoginRefused: If the user or the key is not accepted.
            HostUnreachable: If there was no answer, or none of SSH.
        """
        if self._transport is not None and self._transport.is_active():
            return
        self.close()
        try:
            self._transport = self._connect(timeout)
        except HostKeyMismatch:
            raise
        except paramiko.AuthenticationException as error:
            raise LoginRefused(
                f"{self.host.name} does not let {self._login.username} in "
                f"with this key ({error}): compare username and ssh_key_file"
            ) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachable(
                f"{self.host.name} does not answer on {self.host.address}:"
                f"{self.host.port} ({_say(error)})"
            ) from error

    def close(self) -> None:
        """End it, and with it what runs."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            # Its thread says the last word on the socket.
            transport.join(_LOOK)

    def run(self, command: str, timeout: float, take: Take) -> int:
        """Run a command.

        Args:
            command: For the machine's ``sh``.
            timeout: Seconds until it is ended there.
            take: Called with its output.

        Returns:
            Its exit code.

        Raises:
            CommandTimeout: If it took too long; it says whether it was ended.
            ConnectionLost: If nobody knows how it went.
        """
        deadline = self._clock.now() + timeout
        with self._execute(guard(command), timeout) as channel:
            if self._follow(channel, deadline, take):
                return channel.recv_exit_status()
            channel.shutdown_write()  # see guard
            within = self._clock.now() + GRACE + _LOOK
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
        path = PurePosixPath(remote)
        aside = str(path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
        with self._files(timeout, f"{local} to {remote}") as (sftp, check):
            try:
                sftp.put(str(local), aside, callback=check)
                sftp.chmod(aside, local.stat().st_mode & 0o777)
                sftp.posix_rename(aside, remote)
            except BaseException:
                with contextlib.suppress(Exception):
                    sftp.remove(aside)
                raise

    def get(self, remote: str, local: Path, timeout: float) -> None:
        """Copy a file here: whole, or not at all.

        Raises:
            CopyFailed: If that was not possible.
        """
        with self._files(timeout, f"{remote} to {local}") as (sftp, check):
            local.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=local.parent, prefix=f".{local.name}."
            ) as aside:
                sftp.getfo(remote, aside, callback=check)
                aside.flush()
                os.link(aside.name, link := f"{aside.name}.whole")
            Path(link).replace(local)

    def _connect(self, timeout: float) -> paramiko.Transport:
        host = self.host
        link = socket.create_connection((host.address, host.port), timeout)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = _SILENCE * 1000
            link.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds
            )
        transport = paramiko.Transport(link)
        try:
            transport.daemon = True
            transport.set_log_channel(_wire.name)
            transport.banner_timeout = transport.auth_timeout = timeout
            _want_keys(transport, host)
            transport.start_client(timeout=timeout)
            self._compare_key(transport)
            transport.auth_publickey(self._login.username, self._login.key)
            transport.set_keepalive(_KEEPALIVE)
        except BaseException:
            transport.close()
            raise
        return transport

    def _compare_key(self, transport: paramiko.Transport) -> None:
        found = transport.get_remote_server_key()
        if found.get_base64() not in {k.split()[1] for k in self.host.keys}:
            raise HostKeyMismatch(
                f"{self.host.name}: who answers on {self.host.address}:"
                f"{self.host.port} has another {found.get_name()} key "
                f"({found.fingerprint}) than the machine is known by; if it "
                "was not set up anew, somebody is in between"
            )

    def _execute(self, command: str, timeout: float) -> paramiko.Channel:
        try:
            channel = self._live.open_session(timeout=timeout)
            channel.exec_command(command)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost(_say(error)) from error
        return channel

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
            pause = max(0.001, min(_LOOK, deadline - now))
            if channel.eof_received:
                channel.status_event.wait(pause)
            else:
                ready.poll(pause * 1000)
            _drain(channel, take)
        _drain(channel, take)
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
            with self._live.open_session(timeout=timeout) as channel:
                channel.settimeout(timeout)
                channel.invoke_subsystem("sftp")
                yield paramiko.SFTPClient(channel), check
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise CopyFailed(
                f"{self.host.name}: cannot copy {what} ({_say(error)})"
            ) from error


def _want_keys(transport: paramiko.Transport, host: Host) -> None:
    """Have the server show a key that is known, if it has one."""
    options = transport.get_security_options()
    known: list[str] = []
    for kind in (key.split()[0] for key in host.keys):
        known += _RSA if kind == "ssh-rsa" else [kind]
    options.key_types = sorted(options.key_types, key=lambda k: k not in known)


def _drain(channel: paramiko.Channel, take: Take) -> None:
    while channel.recv_ready():
        take("stdout", channel.recv(_CHUNK))
    while channel.recv_stderr_ready():
        take("stderr", channel.recv_stderr(_CHUNK))


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__
