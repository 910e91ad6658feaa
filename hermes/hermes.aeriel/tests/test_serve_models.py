"""Loading models on servers that are not Triton, or not what they were."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from hermes.aeriel.errors import ModelControlFailed, ServerTimeout
from hermes.aeriel.serve import _models


class Stranger(http.server.BaseHTTPRequestHandler):
    """Says the same to everybody."""

    status, says = 200, b"[]"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.says)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[type[Stranger]]:
    class Handler(Stranger):
        address = ""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "says", "told"),
    [
        (200, b"<html>", "did not tell its models: <html>"),
        (200, b'{"a": 1}', 'did not tell its models: {"a": 1}'),
        (404, b"nothing here", "did not tell its models: nothing here"),
        (400, b'{"error": "no index"}', "tell its models: no index"),
    ],
)
def test_an_index_is_a_list(stranger, status, says, told) -> None:
    stranger.status, stranger.says = status, says
    with pytest.raises(ModelControlFailed, match=told):
        _models.index(stranger.address, 5)


def test_what_a_server_says_of_its_models(stranger) -> None:
    stranger.says = (
        b'[{"name": "a", "version": "1", "state": "READY"},'
        b' {"name": "b", "state": "UNAVAILABLE", "reason": "unloaded"}]'
    )
    assert _models.index(stranger.address, 5) == [
        _models.ModelState("a", "1", "READY", ""),
        _models.ModelState("b", "", "UNAVAILABLE", "unloaded"),
    ]
    _models.unload(stranger.address, "b", 5)


def test_a_model_that_never_goes_is_given_up(stranger) -> None:
    stranger.says = b'[{"name": "a", "version": "1", "state": "UNLOADING"}]'
    with pytest.raises(ServerTimeout, match="in time; give it more with"):
        _models.unload(stranger.address, "a", 0.3)


def test_nobody_loads_nothing() -> None:
    with pytest.raises(ModelControlFailed, match="has it ended"):
        _models.load("127.0.0.1:1", "a", None, 5)
