"""TLS and mutual TLS, with certificates made here."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes.aeriel._triton import TritonTransport
from hermes.aeriel.errors import InvalidRequest, ServerUnavailable
from hermes.aeriel.testing import FakeTriton


class Authority:
    """Signs certificates, and leaves them and their keys in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = self._key()
        self.name = x509.Name.from_rfc4514_string("CN=tests")
        self.certificate = self._sign("tests", self.key, ca=True)
        self._write("root", self.key, self.certificate)

    def issue(self, name: str) -> None:
        key = self._key()
        self._write(name, key, self._sign(name, key, ca=False))

    def file(self, name: str) -> str:
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def _key(self):
        from cryptography.hazmat.primitives.asymmetric import ec

        return ec.generate_private_key(ec.SECP256R1())

    def _sign(self, name: str, key, *, ca: bool):
        from cryptography.hazmat.primitives import hashes

        now = dt.datetime.now(dt.UTC)
        hosts = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name.from_rfc4514_string(f"CN={name}"))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name: str, key, certificate) -> None:
        from cryptography.hazmat.primitives import serialization as ser

        (self.root / f"{name}.pem").write_bytes(
            certificate.public_bytes(ser.Encoding.PEM)
        )
        (self.root / f"{name}.key").write_bytes(
            key.private_bytes(
                ser.Encoding.PEM,
                ser.PrivateFormat.PKCS8,
                ser.NoEncryption(),
            )
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    authority.issue("server")
    authority.issue("client")
    return authority


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Describes a model to who knows the word."""

    def ModelConfig(self, request, context):  # noqa: N802
        found = dict(context.invocation_metadata())
        if found.get("authorization") != "Bearer word":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        answer = service_pb2.ModelConfigResponse()
        answer.config.name = request.name
        return answer


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
def address(request, authority: Authority) -> Iterator[str]:
    credentials = grpc.ssl_server_credentials(
        [(authority.read("server.key"), authority.read("server.pem"))],
        authority.read("root.pem"),
        require_client_auth=request.param,
    )
    pool = futures.ThreadPoolExecutor(2)
    server = grpc.server(pool)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        Servicer(), server
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait(5)
    pool.shutdown(wait=False)


def ask(address: str, **options) -> object:
    """What a server says of a model."""
    transport = TritonTransport(address, **options)
    try:
        return transport.model_config("echo", None, 5)["name"]
    finally:
        transport.close()


@pytest.fixture
def options(authority: Authority) -> dict:
    return {
        "ssl": True,
        "root_certificates": authority.file("root.pem"),
        "private_key": authority.file("client.key"),
        "certificate_chain": authority.file("client.pem"),
        "headers": {"authorization": "Bearer word"},
    }


def test_who_has_all_it_needs_is_answered(address, options) -> None:
    assert ask(address, **options) == "echo"


def test_a_certificate_is_needed_where_it_is_asked_for(
    address, options, request
) -> None:
    del options["private_key"], options["certificate_chain"]
    if "mutual" not in request.node.name:
        assert ask(address, **options) == "echo"
        return
    with pytest.raises(ServerUnavailable, match="UNAVAILABLE"):
        ask(address, **options)


def test_a_server_of_another_authority_is_not_trusted(
    address, options, tmp_path
) -> None:
    stranger = Authority(tmp_path)
    options["root_certificates"] = stranger.file("root.pem")
    with pytest.raises(ServerUnavailable, match="UNAVAILABLE"):
        ask(address, **options)


def test_who_does_not_know_the_word_is_told_what_to_check(
    address, options
) -> None:
    options["headers"] = {"authorization": "Bearer guess"}
    with pytest.raises(ServerUnavailable, match="check the headers") as caught:
        ask(address, **options)
    assert caught.value.server_message == "who are you?"
    assert "guess" not in str(caught.value)


def test_a_plain_client_of_a_tls_server_is_told(address) -> None:
    with pytest.raises(ServerUnavailable, match=address):
        ask(address)


def test_a_client_of_tls_of_a_plain_server_is_told() -> None:
    with (
        FakeTriton() as fake,
        pytest.raises(
            ServerUnavailable, match="not speak TLS: leave ssl=True"
        ),
    ):
        ask(fake.endpoint.grpc, ssl=True)


def test_a_file_that_is_no_certificate_is_refused(
    address, options, tmp_path
) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    options["root_certificates"] = str(tmp_path / "empty.pem")
    with pytest.raises((InvalidRequest, ServerUnavailable)):
        ask(address, **options)
