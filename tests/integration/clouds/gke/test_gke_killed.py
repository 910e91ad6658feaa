"""A program killed at every call in turn, and what is left of it.

Its client is unmodified: GKE's own, over TLS, told another address.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _gke_rules import Project
from gke import Fault, Server

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._outliving import Outliving
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.waiting import Clock

ZYGOTE = Path(__file__).parent / "_zygote.py"
LATER = Clock(
    today=lambda: time.time() + 2 * 86_400,
    sleep=lambda seconds: time.sleep(seconds / 50),
)


class Zygote:
    """Forks programs that bring up a cluster."""

    def __init__(self, roots: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots)},
        )

    def run(
        self, project: Project, certificate: tuple[bytes, bytes], fault: Fault
    ) -> Iterator[tuple[int, int]]:
        """Run one after the other, until none comes to its n-th call.

        Each has a server of its own: a call that one gave up is not counted
        as the next one's.

        Yields:
            Numbers of calls, and how the programs ended.
        """
        for number in itertools.count(1):
            server = Server(project, certificate)
            server.faults = {number: fault}
            try:
                status = self._run(server)
            finally:
                server.close()
            yield number, status
            if server.victim is not None:  # it is at its end
                return

    def _run(self, server: Server) -> int:
        self._tell(f"localhost:{server.tls_port}")
        server.victim = int(self._process.stdout.readline())
        self._tell("go")
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _tell(self, line: str) -> None:
        print(line, file=self._process.stdin, flush=True)


@pytest.fixture(scope="module")
def zygote(roots: Path) -> Iterator[Zygote]:
    made = Zygote(roots)
    yield made
    made.close()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_at_every_call_nothing_is_left(
    certificate, zygote, done
) -> None:
    project = Project(seconds=0.1)
    ends, found = [], set()
    fault = Fault(done=done, kill=signal.SIGKILL)
    for number, status in zygote.run(project, certificate, fault):
        ends.append(status)
        found.add(len(project.resources))
        reap_all(project)
        assert project.resources == [], number
    assert ends == [-signal.SIGKILL] * (len(ends) - 1) + [0]
    assert len(ends) > 10
    assert found == {0, 1, 2}  # each stage was left behind once


def test_interrupted_at_any_call_it_tidies_up_itself(
    certificate, zygote
) -> None:
    project = Project(seconds=0.1)
    ends = []
    fault = Fault(kill=signal.SIGINT)
    for number, status in zygote.run(project, certificate, fault):
        ends.append(status)
        assert project.resources == [], number
    # Python drops a KeyboardInterrupt that comes while it finalises something:
    # such a program goes on to its end.
    assert set(ends) == {130, 0}
    assert ends.count(130) > 10


def reap_all(project: Project) -> None:
    """Reap after two days, and nothing before."""
    server = Server(project)
    try:
        with google.GKECloud(
            "test-project",
            transport=server.transport(),
            remover=lambda _: Outliving(),
        ) as cloud:
            assert reap(cloud, dry_run=True) == []
            reap(cloud, clock=LATER)
    finally:
        server.close()
