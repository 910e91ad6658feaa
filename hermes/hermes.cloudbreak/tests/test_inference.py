"""Zeros for servers, and what they say to them; the real one is elsewhere."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hermes.cloudbreak._inference import count_inferences
from hermes.cloudbreak.errors import ResourceFailed
from hermes.cloudbreak.triton import Endpoint, infer_zeros

METADATA = {
    "inputs": [
        {"name": "x", "datatype": "FP16", "shape": [-1, 2, 3]},
        {"name": "s", "datatype": "BYTES", "shape": [2]},
    ]
}


class Server:
    """Answers each path with what it is told to, and remembers requests."""

    def __init__(self) -> None:
        self.answers = {
            "/v2/health/ready": (200, {}),
            "/v2/repository/index": (200, [{"name": "net"}, {"name": "net"}]),
            "/v2/models/net": (200, METADATA),
            "/v2/models/net/infer": (200, {}),
        }
        self.requests: list[tuple[str, dict, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args) -> None:
                pass

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                outer.requests.append((self.path, dict(self.headers), body))
                status, said = outer.answers[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            do_GET = do_POST = answer  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever).start()
        address = f"127.0.0.1:{self._http.server_port}"
        self.endpoint = Endpoint(address, address, address)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def test_zeros_are_made_of_a_models_own_metadata(server) -> None:
    infer_zeros(server.endpoint)
    path, headers, body = server.requests[-1]
    assert path == "/v2/models/net/infer"
    assert len(server.requests) == 4  # a model with two versions is asked once
    size = int(headers["Inference-Header-Content-Length"])
    request, zeros = json.loads(body[:size]), body[size:]
    assert zeros == bytes(2 * 6 + 2 * 4)
    assert [each["shape"] for each in request["inputs"]] == [[1, 2, 3], [2]]
    parameters = request["parameters"]
    assert parameters["sequence_start"] is parameters["sequence_end"] is True
    assert parameters["sequence_id"] > 0


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v2/health/ready", 400, ConnectionError),
        ("/v2/models/net", 503, ConnectionError),
        ("/v2/models/net/infer", 500, ResourceFailed),
        ("/v2/models/net/infer", 400, ResourceFailed),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(
    server, path, status, error
) -> None:
    server.answers[path] = (status, {"error": "no memory"})
    with pytest.raises(error, match=f"{path}: {status} .*no memory"):
        infer_zeros(server.endpoint)


def test_nobody_there_is_not_ready_yet() -> None:
    with pytest.raises(ConnectionError, match=":9/v2/health/ready"):
        infer_zeros(Endpoint(*["127.0.0.1:9"] * 3))


def test_inferences_are_counted_over_all_models(server) -> None:
    stats = [{"inference_count": 3}, {"inference_count": "4"}]
    server.answers["/v2/models/stats"] = (200, {"model_stats": stats})
    assert count_inferences(server.endpoint.http, timeout=5) == 7
