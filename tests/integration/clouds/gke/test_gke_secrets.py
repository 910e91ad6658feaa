"""Keys and tokens are used, and nowhere to be read afterwards."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from _gke_rules import Project
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gke import Server

TOKEN = "ya29-a-token"  # noqa: S105
PROGRAM = """
import logging, sys
from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._outliving import Outliving
from hermes.cloudbreak.errors import CloudbreakError

logging.basicConfig(level=logging.DEBUG)
key, endpoint = sys.argv[1:]
manager = google.ClusterManager(
    "us-central1-a", credentials=key, api_endpoint=endpoint, timeout=60
)
manager._cloud._emptying._remove = lambda _: Outliving()  # they are nowhere
with manager:
    cluster = manager.add(google.Cluster("main"))
    print(manager, cluster, cluster.endpoint, cluster.endpoint.token())
    try:
        cluster.add(google.NodePool("cpus", machine_type="none"))
    except CloudbreakError as error:
        print(repr(error), file=sys.stderr)
"""


class Tokens(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(
            json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode()
        )

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tokens() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


@pytest.fixture
def key(tokens: str, tmp_path: Path) -> Path:
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "key.json"
    content = {
        "type": "service_account",
        "project_id": "test-project",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": "robot@test-project.iam.gserviceaccount.com",
        "token_uri": tokens,
    }
    path.write_text(json.dumps(content))
    return path


def test_keys_and_tokens_are_in_no_log_and_no_error(
    certificate, roots, key: Path
) -> None:
    server = Server(Project(seconds=0.1), certificate)
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM,
                key,
                f"localhost:{server.tls_port}",
            ],
            env={**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        server.close()
    assert done.returncode == 0, done.stderr
    assert server.project.resources == []
    assert server.tokens
    assert done.stdout.split()[-1] == TOKEN  # who asks for it gets it
    assert TOKEN not in done.stdout.rpartition(TOKEN)[0]
    assert "does not exist" in done.stderr
    for used in (TOKEN, *(each.split()[1] for each in server.tokens)):
        assert used not in done.stderr
    secret = json.loads(key.read_text())["private_key"].splitlines()[3]
    assert secret not in done.stdout + done.stderr
