"""What the tests of machines share: SSH servers, and keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials

from hermes.cloudbreak.clouds.google import ComputeCloud
from hermes.cloudbreak.ssh import Hosts

sys.path.insert(0, str(Path(__file__).parent))

import compute_server
import sshd

from hermes.cloudbreak.testing import FakeClock

StartSshd = Callable[..., sshd.Sshd]


@pytest.fixture(scope="session")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; the public one is beside it."""
    if sshd.find() is None:
        reason = "no sshd: on Debian, apt-get install openssh-server"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return sshd.make_key(tmp_path_factory.mktemp("key") / "key")


@pytest.fixture(scope="session")
def machines(
    ssh_key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[sshd.Sshd]]:
    """Three machines that know the key."""
    folder, public = tmp_path_factory.mktemp("sshd"), sshd.read_public(ssh_key)
    kinds = ("ed25519", "ecdsa", "rsa")
    servers = [
        sshd.Sshd(folder, f"vm-{i}", [public], kind=kind)
        for i, kind in enumerate(kinds)
    ]
    yield servers
    for each in servers:
        each.close()


@pytest.fixture
def hosts(machines: list[sshd.Sshd], ssh_key: Path) -> Iterator[Hosts]:
    """They, as users hold them."""
    with Hosts(
        [each.host for each in machines],
        sshd.USERNAME,
        ssh_key,
        connect_timeout=20,
    ) as made:
        yield made


@pytest.fixture
def start_sshd(ssh_key: Path, tmp_path: Path) -> Iterator[StartSshd]:
    """Start a machine of this test's own."""
    servers: list[sshd.Sshd] = []

    def start(name: str = "vm", **options: object) -> sshd.Sshd:
        options.setdefault("public_keys", [sshd.read_public(ssh_key)])
        servers.append(sshd.Sshd(tmp_path / "sshd", name, **options))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that goes where somebody sleeps."""
    return FakeClock()


@pytest.fixture
def compute(fake_clock: FakeClock) -> Iterator[compute_server.Compute]:
    """Compute Engine, by that clock."""
    server = compute_server.Compute(fake_clock.clock.today)
    yield server
    server.close()
    assert server.complaints == []


@pytest.fixture
def reach(
    compute: compute_server.Compute, fake_clock: FakeClock
) -> Callable[[], ComputeCloud]:
    """Reach it, as a program does that knows of no other."""
    return lambda: ComputeCloud(
        "project",
        AnonymousCredentials(),
        endpoint=compute.endpoint,
        clock=fake_clock.clock,
    )


@pytest.fixture
def cloud(reach: Callable[[], ComputeCloud]) -> Iterator[ComputeCloud]:
    """It, as it is called."""
    with reach() as made:
        yield made
