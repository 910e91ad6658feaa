"""Who machines let in, where they are, and with which key."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sshd

from hermes.cloudbreak import errors
from hermes.cloudbreak.ssh import Host, Hosts, public_key
from hermes.cloudbreak.waiting import Clock

StartSshd = Callable[..., sshd.Sshd]


def test_keys_that_cannot_be_used_are_refused_with_the_reason(
    ssh_key: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    shutil.copy(ssh_key, locked)
    subprocess.run(
        [shutil.which("ssh-keygen"), "-q", "-p", "-N", "s3cret", "-f", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(errors.InvalidSpec, match="has a passphrase") as told:
        public_key(locked)
    assert "s3cret" not in str(told.value)
    with pytest.raises(errors.InvalidSpec, match="and not the"):
        public_key(f"{ssh_key}.pub")
    with pytest.raises(errors.InvalidSpec, match=r"cannot be read \(Is a dir"):
        public_key(tmp_path)
    open_to_all = tmp_path / "open"
    shutil.copy(ssh_key, open_to_all)
    open_to_all.chmod(0o640)
    with pytest.raises(errors.InvalidSpec, match=r"read by others \(mode 640"):
        public_key(open_to_all)


def test_a_key_is_found_at_home(
    ssh_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(ssh_key.parent))
    assert public_key(f"~/{ssh_key.name}") == sshd.read_public(ssh_key)


def test_agents_and_files_of_the_users_own_ssh_are_not_asked(
    machines: list[sshd.Sshd],
    ssh_key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  Port 9\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    with Hosts([machines[0].host], sshd.USERNAME, ssh_key) as hosts:
        (result,) = hosts.run("echo ok").values()
    assert result.stdout == "ok\n"


def test_a_machine_may_have_an_address_of_version_6(
    start_sshd: StartSshd, ssh_key: Path
) -> None:
    machine = start_sshd("six", address="::1")
    with Hosts([machine.host], sshd.USERNAME, ssh_key) as hosts:
        assert hosts.run("echo six")["six"].stdout == "six\n"
    gone = replace(machine.host, port=sshd.free_port())
    with (
        Hosts([gone], sshd.USERNAME, ssh_key, connect_timeout=0) as hosts,
        pytest.raises(errors.HostsFailed, match=r"on \[::1\]:\d+ "),
    ):
        hosts.connect()


def test_who_wants_more_than_a_key_does_not_let_us_in(
    start_sshd: StartSshd, ssh_key: Path
) -> None:
    machine = start_sshd(
        "strict",
        more="PasswordAuthentication yes\n"
        "AuthenticationMethods publickey,password",
    )
    with (
        Hosts([machine.host], sshd.USERNAME, ssh_key) as hosts,
        pytest.raises(errors.HostsFailed, match="wants password as well"),
    ):
        hosts.connect(timeout=0)


def test_a_name_that_is_none_is_no_answer(ssh_key: Path) -> None:
    host = Host("vm", f"{'a' * 70}.org", 22, ("ssh-rsa AAAA",))
    with (
        Hosts([host], sshd.USERNAME, ssh_key, connect_timeout=0) as hosts,
        pytest.raises(errors.HostsFailed, match="vm does not answer on aaa"),
    ):
        hosts.run("true")


def test_the_last_attempt_is_at_the_deadline(
    start_sshd: StartSshd, ssh_key: Path
) -> None:
    probe = start_sshd("late")
    probe.close()
    attempts: list[float] = []
    seconds = 0.0

    def sleep(pause: float) -> None:
        nonlocal seconds
        seconds += pause
        attempts.append(seconds)
        if seconds >= 3:  # it comes up just then
            start_sshd("late", port=probe.host.port)

    clock = Clock(now=lambda: seconds, sleep=sleep)
    with Hosts(
        [probe.host],
        sshd.USERNAME,
        ssh_key,
        connect_timeout=3,
        clock=clock,
    ) as hosts:
        hosts.connect()
    assert attempts[-1] == 3


def test_output_that_is_no_text_and_names_that_are_no_text_are_taken(
    machines: list[sshd.Sshd], ssh_key: Path
) -> None:
    with Hosts([machines[0].host], sshd.USERNAME, ssh_key) as hosts:
        (result,) = hosts.run(
            "printf '\\377%s' {n} | od -An -tx1; printf '\\377\\n'",
            n=["\udcfe"],
        ).values()
    assert result.stdout == " ff fe\n\ufffd\n"
