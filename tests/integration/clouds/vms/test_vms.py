"""Swarms as users hold them: Compute Engine's rules, and real SSH servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import compute_server
import pytest
import sshd
from google.auth.credentials import AnonymousCredentials

from hermes.cloudbreak import errors
from hermes.cloudbreak.clouds.google import (
    ComputeCloud,
    VMDescription,
    VMManager,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap

ZONES = ("us-central1-a", "us-central1-b")


@pytest.fixture
def live() -> Iterator[compute_server.Compute]:
    """Compute Engine, in a hurry."""
    server = compute_server.Compute()
    server.boot_seconds = server.stop_seconds = 0.2
    server.operation_seconds = 0.1
    yield server
    server.close()
    assert server.complaints == []


@pytest.fixture
def machine(
    machines: list[sshd.Sshd], live: compute_server.Compute
) -> sshd.Sshd:
    """The SSH server that all of its machines are, at one address."""
    kind, key = machines[0].host.keys[0].split()[:2]
    live.guest["hostkeys", kind] = key
    return machines[0]


@pytest.fixture
def cloud(live: compute_server.Compute) -> Iterator[ComputeCloud]:
    with ComputeCloud(
        "project", AnonymousCredentials(), endpoint=live.endpoint
    ) as made:
        yield made


def manager(
    cloud: ComputeCloud, machine: sshd.Sshd, **options: object
) -> VMManager:
    given = {"timeout": 30, **options.pop("manager", {})}
    return VMManager(
        VMDescription("swarm", ZONES, **options),
        cloud=cloud,
        owner="alice",
        ssh_port=machine.host.port,
        **given,
    )


def test_machines_come_run_and_go(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    vms = manager(cloud, machine, manager={"timeout": 120})
    with vms.manage(16, sshd.USERNAME, ssh_key) as swarm:
        assert len(live.names) == 16
        results = swarm.run("echo {shard}", shard=range(16))
        metadata = live.find("swarm-000").properties["metadata"]["items"]
        public = sshd.read_public(ssh_key)
        assert {
            "key": "ssh-keys",
            "value": f"{sshd.USERNAME}:{public} {sshd.USERNAME}",
        } in metadata
    assert [each.stdout for each in results.values()] == [
        f"{i}\n" for i in range(16)
    ]
    assert live.names == []
    assert live.calls.count("instances.bulkInsert") == 1
    assert live.calls.count("instances.delete") == 16
    # two questions to each machine, once it runs
    assert live.calls.count("instances.getGuestAttributes") <= 2 * 16


def boot(server: compute_server.Compute, name: str, path: str = "") -> str:
    """Do what Google's guest agent does: run the start-up script."""
    deadline = time.monotonic() + 10
    while name not in server.names:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    host = f"127.0.0.1:{server.port}/metadata/z/{name}"
    script = server.metadata("GET", attribute(name, "startup-script"), b"")
    path += os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            ["/bin/sh", "-c", script],
            env={
                **os.environ,
                "GCE_METADATA_HOST": host,
                "PATH": path,
                "TMPDIR": folder,
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def attribute(name: str, key: str) -> str:
    return f"/metadata/z/{name}/computeMetadata/v1/instance/attributes/{key}"


@pytest.mark.parametrize(
    "script",
    ["exit 0", "#!/usr/bin/env python3\n", "setsid sleep 30 & echo a daemon"],
)
def test_a_startup_script_is_run_and_waited_for(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
    script: str,
) -> None:
    timer = threading.Timer(0.5, boot, [live, "swarm-000"])
    timer.start()
    vms = manager(cloud, machine, startup_script=script)
    with vms.manage(1, sshd.USERNAME, ssh_key):
        guest = live.find("swarm-000").guest
        assert guest["hermes", "startup"] == "0\n"
    timer.join()


def test_a_startup_script_that_reboots_is_not_done_yet(
    live: compute_server.Compute, cloud: ComputeCloud, tmp_path: Path
) -> None:
    cloud.create(
        VMDescription("swarm", ZONES, startup_script="echo soon; exit 1"),
        Stamp("alice", "run", int(time.time()) + 600),
    )
    tool = tmp_path / "systemctl"
    tool.write_text("#!/bin/sh\necho stopping\n")
    tool.chmod(0o755)
    assert boot(live, "swarm-000", f"{tmp_path}:") == "soon\n"
    guest = live.find("swarm-000").guest
    assert guest["hermes", "startup"] == "running\n"
    boot(live, "swarm-000")  # once more
    assert guest["hermes", "startup"] == "1\n"
    assert guest["hermes", "startup-log"] == "soon\n"


def test_a_startup_script_that_fails_is_quoted_and_all_is_deleted(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    timer = threading.Timer(0.1, boot, [live, "swarm-001"])
    timer.start()
    script = "echo no such driver >&2; exit 7"
    vms = manager(cloud, machine, startup_script=script)
    with (
        pytest.raises(
            errors.ResourceFailed,
            match="swarm-001 has failed with exit code 7: no such driver",
        ),
        vms.manage(2, sshd.USERNAME, ssh_key),
    ):
        pass
    timer.join()
    assert live.names == []


def test_machines_whose_keys_are_not_known_yet_are_waited_for(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    ((space, kind),) = live.guest
    known, live.guest[space, kind] = live.guest[space, kind], "\n"
    timer = threading.Timer(1, live.guest.update, [{(space, kind): known}])
    timer.start()
    vms = manager(cloud, machine)
    with vms.manage(1, sshd.USERNAME, ssh_key) as swarm:
        assert swarm.run("echo up")["swarm-000"].stdout == "up\n"
    timer.join()


def test_machines_that_are_never_set_up_are_named(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    vms = manager(
        cloud, machine, startup_script="true", manager={"timeout": 2}
    )
    with (
        pytest.raises(
            errors.WaitTimeout, match=r"2 of 2 .*as swarm-000: .*guest"
        ),
        vms.manage(2, sshd.USERNAME, ssh_key),
    ):
        pass
    assert live.names == []


def test_a_machine_that_is_taken_away_while_it_boots_is_noticed(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    live.stop_seconds = 1

    def preempt() -> None:
        live.find("swarm-001").is_stopping = True
        live.find("swarm-001").gone_at = time.time() + 1

    timer = threading.Timer(1.2, preempt)
    timer.start()
    vms = manager(cloud, machine, startup_script="true")
    with (
        pytest.raises(
            errors.ResourceFailed, match=r"swarm-001 is STOPPING|1 of 2"
        ),
        vms.manage(2, sshd.USERNAME, ssh_key),
    ):
        pass
    timer.join()
    assert live.names == []


def test_who_is_not_the_machine_gets_nothing(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
    tmp_path: Path,
) -> None:
    other = sshd.read_public(sshd.make_key(tmp_path / "other")).split()
    live.guest["hostkeys", other[0]] = other[1]
    with (
        pytest.raises(errors.HostsFailed, match="is in between"),
        manager(cloud, machine).manage(1, sshd.USERNAME, ssh_key),
    ):
        pass
    assert live.names == []


def test_an_error_inside_deletes_all_and_stays_itself(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        manager(cloud, machine).manage(2, sshd.USERNAME, ssh_key),
    ):
        _ = 1 / 0
    assert live.names == []


@pytest.mark.parametrize(
    ("username", "metadata", "message"),
    [
        ("Alice!", {}, "give lower-case letters"),
        ("alice", {"ssh-keys": "a:b"}, "has ssh-keys already"),
    ],
)
def test_wrong_users_are_refused_before_anything_is_sent(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
    username: str,
    metadata: dict,
    message: str,
) -> None:
    vms = manager(cloud, machine, metadata=metadata)
    with (
        pytest.raises(errors.InvalidSpec, match=message),
        vms.manage(1, username, ssh_key),
    ):
        pass
    assert live.calls == []


PROGRAM = """
import sys
from google.auth.credentials import AnonymousCredentials
from hermes.cloudbreak.clouds import google
endpoint, port, username, key = sys.argv[1:]
cloud = google.ComputeCloud(
    "project", AnonymousCredentials(), endpoint=endpoint
)
manager = google.VMManager(
    google.VMDescription("swarm", ("us-central1-a", "us-central1-b")),
    cloud=cloud, owner="alice", ssh_port=int(port), timeout=30,
)
sys.stdin.readline()
with manager.manage(3, username, key) as swarm:
    swarm.run("true")
    print("up", flush=True)
    sys.stdin.readline()
"""


def start(
    live: compute_server.Compute, machine: sshd.Sshd, ssh_key: Path
) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            live.endpoint,
            str(machine.host.port),
            sshd.USERNAME,
            str(ssh_key),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_every_call_it_leaves_nothing_that_is_not_reaped(
    live: compute_server.Compute,
    cloud: ComputeCloud,
    machine: sshd.Sshd,
    ssh_key: Path,
) -> None:
    live.sold_out = {ZONES[0]}  # with a move to another zone in it
    number, leaked, is_up = 0, 0, False
    following = start(live, machine, ssh_key)
    while not is_up:
        number += 1
        program, following = following, start(live, machine, ssh_key)
        live.faults = {len(live.calls) + number: program.kill}
        said, _ = program.communicate("\n", timeout=60)
        is_up = said.startswith("up")
        leaked += bool(live.names)
        live.faults = {}
        time.sleep(0.3)  # what was asked for may yet appear
        reap(cloud, "alice", older_than=0)
        assert live.names == [], f"killed at call {number}"
    following.kill()
    following.communicate()
    assert number > 8
    assert leaked > 3


def test_ctrl_c_deletes_all(
    live: compute_server.Compute, machine: sshd.Sshd, ssh_key: Path
) -> None:
    with start(live, machine, ssh_key) as program:
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "up\n"
        assert len(live.names) == 3
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert live.names == []


def test_ctrl_c_while_it_is_left_deletes_all_the_same(
    live: compute_server.Compute, machine: sshd.Sshd, ssh_key: Path
) -> None:
    with start(live, machine, ssh_key) as program:
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "up\n"
        first = len(live.calls) + 1
        busy = 503, "backendError"
        live.faults = dict.fromkeys(range(first + 1, first + 5), busy)
        live.faults[first] = lambda: program.send_signal(signal.SIGINT)
        _, said = program.communicate("\n", timeout=30)
    assert "Ctrl-C again leaves it" in said
    assert live.names == []
