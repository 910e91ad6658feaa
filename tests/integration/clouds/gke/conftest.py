"""What the tests of GKE share: its own interface, with a clock of theirs."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._outliving import Outliving
from hermes.cloudbreak.testing import FakeClock
from hermes.cloudbreak.waiting import Clock

sys.path.insert(0, str(Path(__file__).parents[4] / "scripts" / "testing"))

from _gke_rules import Project
from gke import Server

ZONE = "us-central1-a"


def remove_nothing(_endpoint: object) -> Outliving:
    """These clusters are nowhere, and nothing is in them."""
    return Outliving()


@pytest.fixture
def clock() -> Clock:
    return FakeClock().clock


@pytest.fixture
def project(clock: Clock) -> Project:
    return Project(today=clock.today)


@pytest.fixture
def server(project: Project) -> Iterator[Server]:
    made = Server(project)
    yield made
    made.close()


@pytest.fixture
def cloud(server: Server, clock: Clock) -> Iterator[google.GKECloud]:
    with google.GKECloud(
        "test-project",
        transport=server.transport(),
        today=clock.today,
        remover=remove_nothing,
    ) as made:
        yield made


@pytest.fixture
def manage(
    server: Server, clock: Clock
) -> Callable[..., google.ClusterManager]:
    """Make managers."""

    def make(zone: str = ZONE, **options) -> google.ClusterManager:
        made = google.ClusterManager(
            zone,
            "test-project",
            owner="me",
            clock=clock,
            transport=server.transport(),
            **options,
        )
        made._cloud._emptying._remove = remove_nothing
        return made

    return make


@pytest.fixture
def manager(manage: Callable[..., google.ClusterManager]):
    return manage()


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


@pytest.fixture(scope="module")
def roots(certificate, tmp_path_factory) -> Path:
    """What a client trusts that trusts ``certificate``."""
    path = tmp_path_factory.mktemp("tls") / "roots.pem"
    path.write_bytes(certificate[1])
    return path
