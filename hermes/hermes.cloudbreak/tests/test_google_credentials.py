"""Who asks Google: keys that are right, wrong, and not to be seen."""

from __future__ import annotations

import base64
import http.server
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError, TransportError
from google.oauth2 import service_account

from hermes.cloudbreak.clouds.google import ClusterManager, GKECloud
from hermes.cloudbreak.clouds.google._credentials import Credentials
from hermes.cloudbreak.errors import CloudUnavailable, InvalidSpec, Refused


class Tokens(http.server.ThreadingHTTPServer):
    """Gives tokens for keys, or refuses to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.num_given = 0
        self.scopes: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        (claim,) = parse_qs(self.rfile.read(size).decode())["assertion"]
        claims = base64.urlsafe_b64decode(claim.split(".")[1] + "==")
        self.server.scopes.append(json.loads(claims).get("scope", ""))
        self.server.num_given += 1
        body = {
            "access_token": f"secret-token-{self.server.num_given}",
            "expires_in": 3600,
            "token_type": "Bearer",
        }
        if self.server.status != 200:
            body = {"error": "invalid_grant", "error_description": "no such"}
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    with Tokens() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def key_file(tmp_path: Path, tokens: Tokens, private_key: str) -> Path:
    path = tmp_path / "key.json"
    content = {
        "type": "service_account",
        "project_id": "of-the-key",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "robot@of-the-key.iam.gserviceaccount.com",
        "token_uri": f"http://127.0.0.1:{tokens.server_port}/token",
    }
    path.write_text(json.dumps(content))
    return path


def test_a_key_file_gives_tokens_and_its_project(key_file, tokens) -> None:
    credentials = Credentials(key_file)
    assert credentials.token() == "secret-token-1"
    assert credentials.token() == "secret-token-1"  # it is still valid
    credentials.renew(anyway=True)
    assert credentials.token() == "secret-token-2"
    assert tokens.num_given == 2
    with GKECloud(credentials=str(key_file)) as cloud:
        assert cloud.project == "of-the-key"


def test_a_key_that_is_not_accepted_is_refused_at_once(
    key_file, tokens, caplog, private_key
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens.status = 400
    with (
        GKECloud(credentials=key_file) as cloud,
        pytest.raises(Refused, match="gives no token for these cred") as told,
    ):
        list(cloud.observe())
    for secret in (private_key, private_key.splitlines()[2]):
        assert secret not in caplog.text
        assert secret not in str(told.value)


def test_who_does_not_answer_may_answer_later(key_file) -> None:
    content = json.loads(key_file.read_text())
    content["token_uri"] = "http://127.0.0.1:9/token"  # noqa: S105
    key_file.write_text(json.dumps(content))
    with pytest.raises(CloudUnavailable, match="no token from Google"):
        Credentials(key_file).token()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json, but a secret",
        "[]",
        "{}",
        '{"type": "external_account"}',
        '{"type": "service_account", "private_key": "a secret"}',
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    with pytest.raises(Refused, match="is no key file") as told:
        Credentials(path)
    assert "secret" not in str(told.value)


def test_a_file_that_is_not_there_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no key file \(FileNotFoundError\)"):
        Credentials(tmp_path / "none.json")


def test_without_any_credentials_it_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(Refused, match="application-default login"):
        ClusterManager("us-central1-a", "project")


def test_an_object_is_taken_as_it_is() -> None:
    credentials = Credentials(AnonymousCredentials())
    credentials.renew(anyway=True)
    assert credentials.token() == ""
    assert "Anonymous" in repr(credentials)


@pytest.mark.parametrize(
    "error",
    [
        RefreshError("try again", retryable=True),
        RefreshError(TransportError("the network")),
        TransportError("the network"),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    class Unlucky(AnonymousCredentials):
        valid = False

        def refresh(self, _request: object) -> None:
            raise error

    with pytest.raises(CloudUnavailable, match="no token from Google"):
        Credentials(Unlucky()).token()


def test_an_object_without_a_scope_gets_one(key_file, tokens) -> None:
    given = service_account.Credentials.from_service_account_file(key_file)
    credentials = Credentials(given)
    assert credentials.token() == "secret-token-1"
    assert credentials.project == "of-the-key"
    (scope,) = tokens.scopes
    assert scope.endswith("/auth/cloud-platform")


def test_a_project_has_to_be_known() -> None:
    with pytest.raises(InvalidSpec, match="name the project to be billed"):
        GKECloud(credentials=AnonymousCredentials())
