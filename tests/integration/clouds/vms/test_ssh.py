"""Commands and files on many machines, against real SSH servers."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sshd

from hermes.cloudbreak import errors
from hermes.cloudbreak._remote import GRACE
from hermes.cloudbreak.ssh import Host, Hosts, public_key


def test_a_command_runs_on_all_with_the_values_of_each(hosts: Hosts) -> None:
    odd = ["a b", "'; touch /oops '", "$HOME"]
    results = hosts.run(
        "echo {shard} {word} ${HOME:+home}; echo {} {other} >&2",
        shard=[0, 1, 2],
        word=odd,
    )
    assert [each.stdout for each in results.values()] == [
        f"{i} {word} home\n" for i, word in enumerate(odd)
    ]
    assert {each.stderr for each in results.values()} == {"{} {other}\n"}
    assert list(results) == ["vm-0", "vm-1", "vm-2"]
    for each in results.values():
        assert (each.exit_code, each.error) == (0, None)
        assert 0 < each.duration < 10


def test_one_that_fails_does_not_hide_the_others(hosts: Hosts) -> None:
    command = "echo out; echo no good >&2; exit {code}"
    with pytest.raises(
        errors.HostsFailed,
        match="1 of 3 machines failed: vm-1: exit code 3: no good",
    ) as failure:
        hosts.run(command, code=[0, 3, 0])
    results = failure.value.results
    assert {each.stdout for each in results.values()} == {"out\n"}
    assert [each.exit_code for each in results.values()] == [0, 3, 0]
    assert isinstance(results["vm-1"].error, errors.CommandFailed)
    unchecked = hosts.run(command, code=[0, 3, 0], check=False)
    assert unchecked["vm-1"].exit_code == 3


def test_a_time_limit_ends_what_runs_there(hosts: Hosts) -> None:
    command = """
        echo $$; trap '' TERM; [ {n} = 1 ] || exit 0
        setsid sleep 600 & echo $!; sleep 600
    """
    results = hosts.run(command, n=[0, 1, 2], timeout=1, check=False)
    late = results["vm-1"]
    assert isinstance(late.error, errors.CommandTimeout)
    assert re.search("took more than 1 s and was ended", str(late.error))
    assert late.duration < 10
    for pid in late.stdout.split():
        sshd.wait_gone(int(pid))
    assert results["vm-0"].error is results["vm-2"].error is None


def test_what_is_polite_ends_at_once_and_is_heard(hosts: Hosts) -> None:
    results = hosts.run(
        "trap 'echo bye; exit' TERM; sleep 600 & wait",
        timeout=2,
        check=False,
    )
    assert {each.stdout for each in results.values()} == {"bye\n"}
    assert max(each.duration for each in results.values()) < 2 + GRACE


def test_output_is_bounded_and_streamed_whole(hosts: Hosts) -> None:
    lines: list[tuple[str, str]] = []
    results = hosts.run(
        "seq 200000; printf end",
        keep=1000,
        on_line=lambda name, line: lines.append((name, line)),
    )
    assert len(lines) == 3 * 200001
    assert [x for name, x in lines if name == "vm-2"][-2:] == ["200000", "end"]
    for each in results.values():
        assert len(each.stdout) == 1000
        assert each.stdout.endswith("\n200000\nend")
        whole = sum(len(f"{i}\n") for i in range(1, 200001)) + 3
        assert each.num_dropped == whole - 1000


def test_both_streams_may_be_flooded_at_once(hosts: Hosts) -> None:
    command = "head -c 8000000 /dev/zero | tee /dev/stderr"
    for each in hosts.run(command, timeout=60).values():
        assert len(each.stdout) == len(each.stderr) == 1 << 20


def test_what_stays_in_the_background_is_not_waited_for(hosts: Hosts) -> None:
    started = time.monotonic()
    results = hosts.run("sleep 600 & echo $!")
    assert time.monotonic() - started < 5
    for each in results.values():
        os.kill(int(each.stdout), signal.SIGKILL)  # and it is still there


def test_output_that_ends_early_is_not_the_end(hosts: Hosts) -> None:
    started = time.thread_time()
    results = hosts.run("exec >&- 2>&-; sleep 1; exit 5", check=False)
    assert [each.exit_code for each in results.values()] == [5, 5, 5]
    assert all(each.duration >= 1 for each in results.values())
    assert time.thread_time() - started < 0.5


def test_a_connection_lost_in_the_middle_is_said_and_made_again(
    hosts: Hosts, machines: list[sshd.Sshd]
) -> None:
    hosts.connect()
    timer = threading.Timer(1, machines[1].cut)
    timer.start()
    results = hosts.run("echo $$; sleep 2", check=False)
    timer.join()
    lost = results["vm-1"]
    assert isinstance(lost.error, errors.ConnectionLost)
    assert "nobody knows what the command has done" in str(lost.error)
    assert lost.stdout
    assert lost.exit_code is None
    assert results["vm-0"].error is results["vm-2"].error is None
    sshd.wait_gone(int(lost.stdout))
    assert hosts.run("echo again")["vm-1"].stdout == "again\n"


def test_another_host_key_is_refused_before_anything_is_sent(
    machines: list[sshd.Sshd], ssh_key: Path, tmp_path: Path
) -> None:
    stranger = sshd.read_public(sshd.make_key(tmp_path / "other"))
    known = [each.host for each in machines]
    known[1] = replace(known[1], keys=(stranger,))
    started = time.monotonic()
    with (
        Hosts(known, sshd.USERNAME, ssh_key) as hosts,
        pytest.raises(errors.HostsFailed, match="vm-1: who answers") as failed,
    ):
        hosts.run("true")
    error = failed.value.results["vm-1"].error
    assert isinstance(error, errors.HostKeyMismatch)
    assert failed.value.results["vm-0"].exit_code == 0
    assert time.monotonic() - started < 10  # not tried again and again
    assert "Accepted" not in machines[1].log.read_text().splitlines()[-1]


def test_a_machine_that_boots_is_waited_for(
    start_sshd, ssh_key: Path, tmp_path: Path
) -> None:
    port, folder = sshd.free_port(), tmp_path / "sshd"
    folder.mkdir()
    key = sshd.make_key(folder / "vm_host_key")
    host = Host("vm", "127.0.0.1", port, (sshd.read_public(key),))
    timer = threading.Timer(1, start_sshd, kwargs={"port": port})
    timer.start()
    with Hosts([host], sshd.USERNAME, ssh_key, connect_timeout=30) as hosts:
        hosts.connect()
        assert hosts.run("echo up")["vm"].stdout == "up\n"
    timer.join()


def test_a_machine_that_never_answers_is_named(ssh_key: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = [
            Host("closed", "127.0.0.1", sshd.free_port(), ("a b",)),
            Host("silent", "127.0.0.1", silent.getsockname()[1], ("a b",)),
        ]
        with (
            Hosts(hosts, "me", ssh_key) as both,
            pytest.raises(errors.HostsFailed, match="2 of 2") as failed,
        ):
            both.connect(timeout=1)
    for each in failed.value.results.values():
        assert isinstance(each.error, errors.HostUnreachable)
        assert f"{each.host} does not answer on 127.0.0.1:" in str(each.error)


def test_a_wrong_key_is_refused(
    machines: list[sshd.Sshd], tmp_path: Path
) -> None:
    other = sshd.make_key(tmp_path / "wrong")
    with (
        Hosts([machines[0].host], sshd.USERNAME, other) as hosts,
        pytest.raises(errors.HostsFailed, match="does not let") as failed,
    ):
        hosts.connect(timeout=1)
    (result,) = failed.value.results.values()
    assert isinstance(result.error, errors.LoginRefused)


def test_files_go_both_ways_with_the_values_of_each(
    hosts: Hosts, tmp_path: Path
) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "program.0").write_bytes(content)
    (tmp_path / "program.0").chmod(0o750)
    remote = f"{tmp_path}/there-{{n}}"
    hosts.put(tmp_path / "program.0", remote, n=[0, 1, 2])
    assert (tmp_path / "there-1").stat().st_mode & 0o777 == 0o750
    hosts.get(remote, tmp_path / "back", n=[0, 1, 2])
    for i in range(3):
        assert (tmp_path / f"there-{i}").read_bytes() == content
        back = tmp_path / "back" / f"vm-{i}" / f"there-{i}"
        assert back.read_bytes() == content
    hosts.get(f"{tmp_path}/there-0", tmp_path / "back")  # over the old one
    assert not list(tmp_path.rglob(".*"))


def test_a_file_that_cannot_be_copied_leaves_nothing(
    hosts: Hosts, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    (tmp_path / "1").mkdir()
    results = hosts.put(
        tmp_path / "file",
        f"{tmp_path}/{{n}}/file",
        n=[0, 1, 2],
        check=False,
    )
    assert isinstance(results["vm-0"].error, errors.CopyFailed)
    assert results["vm-1"].error is None
    (tmp_path / "2").mkdir()
    with pytest.raises(errors.HostsFailed, match=r"3 of 3 .* cannot copy"):
        hosts.put(tmp_path / "file", f"{tmp_path}/2/file", timeout=0)
    with pytest.raises(errors.HostsFailed, match=r"2 of 3 .* cannot copy"):
        hosts.get(f"{tmp_path}/{{n}}/file", tmp_path / "here", n=[0, 1, 2])
    assert [p.name for p in (tmp_path / "2").iterdir()] == []
    found = [p for p in (tmp_path / "here").rglob("*") if p.is_file()]
    assert found == [tmp_path / "here" / "vm-1" / "file"]


def test_an_error_of_the_callback_is_the_callers_own(hosts: Hosts) -> None:
    def refuse(_name: str, _line: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        hosts.run("echo line; sleep 0.1", on_line=refuse)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_what_runs_ends_with_the_program_that_asked_for_it(
    machines: list[sshd.Sshd], ssh_key: Path, ending: signal.Signals
) -> None:
    host = machines[0].host
    code = f"""
from hermes.cloudbreak.ssh import Host, Hosts
with Hosts([{host!r}], {sshd.USERNAME!r}, {str(ssh_key)!r}) as hosts:
    hosts.run("echo $$; sleep 600", on_line=lambda n, x: print(x, flush=True))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        pid = int(program.stdout.readline())
        program.send_signal(ending)
        program.wait(10)
        assert ("KeyboardInterrupt" in program.stderr.read()) == (
            ending is signal.SIGINT
        )
    sshd.wait_gone(pid)


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("echo {n}", {"n": [1, 2]}, "give a list of 3 values"),
        ("echo {n}", {"n": "abc"}, "give a list of 3 values"),
        ("echo {m}", {"n": [1, 2, 3]}, "no place for n: write {n} where"),
        ("echo '{n}'", {"n": [1, 2, 3]}, "stands between quotes"),
        ('echo "\\"{n}"', {"n": [1, 2, 3]}, "stands between quotes"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    hosts: Hosts, command: str, values: dict, message: str
) -> None:
    with pytest.raises(errors.InvalidSpec, match=re.escape(message)):
        hosts.run(command, **values)


def test_what_cannot_be_known_is_refused(
    ssh_key: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidSpec, match="give its public host keys"):
        Host("vm", "127.0.0.1")
    host = Host("vm", "127.0.0.1", 22, ("ssh-ed25519 AAAA",))
    with pytest.raises(errors.InvalidSpec, match="two machines have one name"):
        Hosts([host, host], "me", ssh_key)
    with pytest.raises(errors.InvalidSpec, match="is not there: make one"):
        Hosts([host], "me", tmp_path / "none")


def test_keys_are_neither_said_nor_logged(
    machines: list[sshd.Sshd],
    ssh_key: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = ssh_key.read_text().splitlines()[2]
    broken = tmp_path / "broken"
    broken.write_text(ssh_key.read_text().replace("BEGIN", "BEGIN?"))
    with pytest.raises(errors.InvalidSpec, match="no private key") as failed:
        Hosts([], "me", broken)
    caplog.set_level(logging.DEBUG)
    with Hosts([machines[0].host], sshd.USERNAME, ssh_key) as hosts:
        hosts.run("true")
        said = caplog.text + repr(vars(hosts)) + repr(hosts._connections)
    assert caplog.records
    assert secret not in said + str(failed.value) + repr(failed.value)
    assert public_key(ssh_key) == sshd.read_public(ssh_key)
