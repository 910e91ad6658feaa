"""Real SSH servers on loopback, one port for each machine that they play."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

from hermes.cloudbreak.ssh import Host

USERNAME = getpass.getuser()
PRIVILEGE_SEPARATION = Path("/run/sshd")  # compiled in, wanted of root only

# The server ends with its stdin, and so with the tests, however they end.
LIFELINE = '"$@" </dev/null & read -r _; kill -KILL $! 2>/dev/null'

CONFIG = """
{more}
ListenAddress {address}
Port {port}
HostKey {host_key}
AuthorizedKeysFile {authorized}
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
MaxStartups 100
# bash reads nobody's ~/.bashrc so deep down
SetEnv SHLVL=9
Subsystem sftp internal-sftp
"""


def find() -> str | None:
    """Where the server is, if it is installed."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


def make_key(path: Path, kind: str = "ed25519") -> Path:
    """Make a pair of keys; the public one is beside it."""
    subprocess.run(
        [
            shutil.which("ssh-keygen"),
            "-q",
            "-t",
            kind,
            "-N",
            "",
            "-C",
            "",
            "-f",
            path,
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def read_public(path: Path) -> str:
    """The public key beside a private one."""
    return path.with_name(f"{path.name}.pub").read_text().strip()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_gone(pid: int) -> None:
    """Wait until a process is gone."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.05)


class Sshd:
    """An SSH server that lets in whoever has one of some keys.

    Attributes:
        host: The machine that it plays.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        public_keys: list[str],
        port: int | None = None,
        kind: str = "ed25519",
        address: str = "127.0.0.1",
        more: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        host_key = folder / f"{name}_host_key"
        if not host_key.exists():
            make_key(host_key, kind)
        authorized = folder / f"{name}_authorized"
        authorized.write_text("\n".join([*public_keys, ""]))
        port = port or free_port()
        config = folder / f"{name}_config"
        config.write_text(
            CONFIG.format(
                more=more,
                address=address,
                port=port,
                host_key=host_key,
                authorized=authorized,
            )
        )
        self.host = Host(name, address, port, (read_public(host_key),))
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    LIFELINE,
                    "sh",
                    find(),
                    "-D",
                    "-e",
                    "-f",
                    config,
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the tests'
            )
        deadline = time.monotonic() + 20
        while "Server listening" not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def cut(self) -> None:
        """End all its connections, as a machine that is gone would."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Do something to all that serves its connections."""
        (server,) = psutil.Process(self._process.pid).children()
        for each in server.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def close(self) -> None:
        """End it; its connections end with those who use them."""
        self._process.stdin.close()
        self._process.wait(20)
