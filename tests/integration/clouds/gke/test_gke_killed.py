"""A program killed with -9 at every call in turn, and what is left of it.

Its client is unmodified: GKE's own, over TLS, told another address.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _gke_rules import Project
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gke import Fault, Server

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.waiting import Clock

ZYGOTE = Path(__file__).parent / "_zygote.py"
LATER = Clock(
    today=lambda: time.time() + 2 * 86_400,
    sleep=lambda seconds: time.sleep(seconds / 50),
)


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    """Key and certificate of ``localhost``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), False
        )
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        made.public_bytes(serialization.Encoding.PEM),
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

    def run(self, server: Server) -> int:
        """Run one to its end; give its exit status."""
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
def zygote(certificate, tmp_path_factory) -> Iterator[Zygote]:
    roots = tmp_path_factory.mktemp("tls") / "roots.pem"
    roots.write_bytes(certificate[1])
    made = Zygote(roots)
    yield made
    made.close()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_at_every_call_nothing_is_left(
    certificate, zygote, done
) -> None:
    project = Project(seconds=0.1)
    server = Server(project, certificate)
    found = set()
    try:
        number, status = 0, -9
        while status == -9:
            number += 1
            server.calls.clear()
            server.faults = {number: Fault(done=done, kill=True)}
            status = zygote.run(server)
            server.faults.clear()
            found.add(len(project.resources))
            with google.GKECloud(
                "test-project", transport=server.transport()
            ) as cloud:
                assert reap(cloud, dry_run=True) == []
                reap(cloud, clock=LATER)
            assert project.resources == [], number
    finally:
        server.close()
    assert status == 0
    assert number > 10
    assert found == {0, 1, 2}  # each stage was left behind once
