"""Commands end when they have to, and with them all that they began."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sshd

from hermes.cloudbreak import errors
from hermes.cloudbreak.ssh import Host, Hosts


@contextlib.contextmanager
def interrupt(after: float) -> Iterator[None]:
    """Press Ctrl-C in the middle of a block."""
    main = threading.main_thread().ident
    timer = threading.Timer(after, signal.pthread_kill, [main, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    timer.join()


@contextlib.contextmanager
def slow_road(host: Host, delay: float) -> Iterator[Host]:
    """A machine that is far away: what is sent to it takes a while."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def carry(source: socket.socket, sink: socket.socket) -> None:
            with source, sink, contextlib.suppress(OSError):
                while chunk := source.recv(65536):
                    sink.sendall(chunk)
                sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            near, _ = server.accept()
            time.sleep(delay)
            far = socket.create_connection((host.address, host.port))
            back = threading.Thread(target=carry, args=(far, near))
            back.start()
            carry(near.dup(), far.dup())
            back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield replace(host, port=server.getsockname()[1])
        thread.join(10)


def test_a_flood_does_not_outlast_the_time_limit(hosts: Hosts) -> None:
    started = time.monotonic()
    results = hosts.run(
        "exec yes $(head -c 60000 /dev/zero | tr '\\0' y)",
        timeout=1,
        check=False,
        keep=1000,
        on_line=lambda _name, _line: time.sleep(0.01),  # slower than it is
    )
    assert time.monotonic() - started < 8
    for each in results.values():
        assert isinstance(each.error, errors.CommandTimeout)
        assert "was ended" in str(each.error)
        assert len(each.stdout) == 1000


def test_a_flood_from_the_background_is_left_behind(hosts: Hosts) -> None:
    results = hosts.run("yes & echo $! >&2", keep=100)
    for each in results.values():
        with contextlib.suppress(ProcessLookupError):  # nobody reads it
            os.kill(int(each.stderr), signal.SIGKILL)
        assert each.exit_code == 0
        assert each.duration < 8


LEAVERS = """
timeout 300 sleep 300 &
setsid sleep 300 &
(setsid sleep 300 &)
env -i timeout 300 sleep 300 &
"""


def test_a_time_limit_ends_what_has_left_its_group(
    machines: list[sshd.Sshd], ssh_key: Path, tmp_path: Path
) -> None:
    command = f"exec 9>{tmp_path}/held; flock 9; {LEAVERS} sleep 300"
    with Hosts([machines[0].host], sshd.USERNAME, ssh_key) as hosts:
        (result,) = hosts.run(command, timeout=0.5, check=False).values()
    assert "was ended" in str(result.error)
    # Whoever has inherited the file would still hold the lock.
    with (tmp_path / "held").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_was_left_in_the_background_survives_a_later_time_limit(
    hosts: Hosts,
) -> None:
    kept = hosts.run("sleep 600 >&- 2>&- & echo $!")
    hosts.run("sleep 300", timeout=0.3, check=False)
    for each in kept.values():
        os.kill(int(each.stdout), signal.SIGKILL)  # and it is still there


def test_ctrl_c_while_a_machine_connects_runs_nothing_there(
    machines: list[sshd.Sshd], ssh_key: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    with slow_road(machines[0].host, 1.0) as far:
        hosts = Hosts([far], sshd.USERNAME, ssh_key)
        started = time.monotonic()
        with interrupt(0.3):
            hosts.run(f"touch {marker}; sleep 60")
        assert time.monotonic() - started < 0.9
        time.sleep(1.5)
    assert not marker.exists()
    hosts.close()


def test_ctrl_c_does_not_wait_for_the_next_attempt(ssh_key: Path) -> None:
    nobody = Host("vm", "127.0.0.1", sshd.free_port(), ("ssh-rsa AAAA",))
    with Hosts([nobody], sshd.USERNAME, ssh_key) as hosts:
        started = time.monotonic()
        with interrupt(2):  # in the middle of a pause of 1.7 s
            hosts.run("true")
        assert time.monotonic() - started < 2.5


def test_after_ctrl_c_machines_can_still_be_asked(hosts: Hosts) -> None:
    with interrupt(1):
        hosts.run("sleep 60")
    assert {r.stdout for r in hosts.run("echo part").values()} == {"part\n"}
    hosts.close()
    with pytest.raises(errors.HostsFailed, match="was closed") as failed:
        hosts.run("true")
    assert isinstance(
        failed.value.results["vm-0"].error, errors.HostUnreachable
    )


def test_an_error_of_the_callback_ends_the_others_at_once(
    hosts: Hosts,
) -> None:
    def refuse(_name: str, _line: str) -> None:
        raise OSError("disk full")

    started = time.monotonic()
    with pytest.raises(OSError, match="disk full"):
        hosts.run("[ {n} = 0 ] || sleep 60; echo", on_line=refuse, n=range(3))
    assert time.monotonic() - started < 10


def test_a_machine_that_hangs_is_given_up(
    machines: list[sshd.Sshd],
    start_sshd: Callable[[str], sshd.Sshd],
    ssh_key: Path,
    tmp_path: Path,
) -> None:
    hanging = start_sshd("hanging")
    known = [machines[0].host, hanging.host]
    with Hosts(known, sshd.USERNAME, ssh_key, answer_timeout=1) as hosts:
        hosts.connect()
        hanging.signal(signal.SIGSTOP)
        results = hosts.run("echo here", check=False)
        hosts.connect()
        hanging.signal(signal.SIGSTOP)
        copied = hosts.get("/etc/hostname", tmp_path, check=False)
        hanging.signal(signal.SIGCONT)
    assert results["vm-0"].stdout == "here\n"
    assert isinstance(results["hanging"].error, errors.ConnectionLost)
    assert copied["vm-0"].error is None
    assert isinstance(copied["hanging"].error, errors.CopyFailed)
    for each in (results["hanging"], copied["hanging"]):
        assert "(no answer in 1 s)" in str(each.error)
    assert results["hanging"].duration + copied["hanging"].duration < 8


def test_a_killed_program_leaves_nothing_in_another_session(
    machines: list[sshd.Sshd], ssh_key: Path
) -> None:
    host = machines[0].host
    code = f"""
from hermes.cloudbreak.ssh import Host, Hosts
with Hosts([{host!r}], {sshd.USERNAME!r}, {str(ssh_key)!r}) as hosts:
    hosts.run(
        "setsid sleep 600 & echo $!; wait",
        on_line=lambda n, x: print(x, flush=True),
    )
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as program:
        pid = int(program.stdout.readline())
        program.kill()
    sshd.wait_gone(pid)


def test_several_threads_may_ask_the_same_machines(hosts: Hosts) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: hosts.run(f"echo {n}"), range(4)))
    for n, results in enumerate(found):
        assert {each.stdout for each in results.values()} == {f"{n}\n"}


def test_what_runs_on_more_machines_than_connect_at_once_runs_at_once(
    machines: list[sshd.Sshd], ssh_key: Path, tmp_path: Path
) -> None:
    many = [replace(machines[0].host, name=f"vm-{i}") for i in range(70)]
    wait = f"""
        touch {tmp_path}/{{n}}
        while [ "$(ls {tmp_path} | wc -l)" -lt 70 ]; do sleep 1; done
    """
    with Hosts(many, sshd.USERNAME, ssh_key) as hosts:
        results = hosts.run(wait, n=range(70), timeout=60)
    assert len(results) == 70
