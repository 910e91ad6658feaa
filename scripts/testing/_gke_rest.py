"""GKE over HTTP, as gcloud speaks it, for a `Server` of gke.py."""

from __future__ import annotations

import http.server
import json
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from _gke_checks import Error
from gke import Server, find_methods
from google.protobuf import json_format

_PLACE = r"projects/[^/]+/(?:locations|zones)/[^/]+"
_CLUSTER = rf"{_PLACE}/clusters/[^/:]+"
_POOL = rf"{_CLUSTER}/nodePools/[^/:]+"
# Verb, path, method, and which field of its request the path is.
_ROUTES = (
    ("GET", rf"({_PLACE})/clusters", "ListClusters", "parent"),
    ("GET", rf"({_CLUSTER})", "GetCluster", "name"),
    ("DELETE", rf"({_CLUSTER})", "DeleteCluster", "name"),
    ("POST", rf"({_PLACE})/clusters", "CreateCluster", "parent"),
    ("GET", rf"({_CLUSTER})/nodePools", "ListNodePools", "parent"),
    ("GET", rf"({_POOL})", "GetNodePool", "name"),
    ("DELETE", rf"({_POOL})", "DeleteNodePool", "name"),
    ("POST", rf"({_CLUSTER})/nodePools", "CreateNodePool", "parent"),
    ("GET", rf"({_PLACE})/operations", "ListOperations", "parent"),
    ("GET", rf"({_PLACE}/operations/[^/:]+)", "GetOperation", "name"),
    ("GET", rf"({_PLACE})/serverConfig", "GetServerConfig", "name"),
)
_STATUS = {
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}


class Rest(http.server.ThreadingHTTPServer):
    """The same project over HTTP, from a thread.

    Args:
        server: The server whose project, calls and faults it shares.

    Attributes:
        unknown: What nobody here has an answer to.
    """

    daemon_threads = True

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server = server
        self.unknown: list[str] = []
        self.methods = {each[0]: each for each in find_methods()}
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> Any:
        """Answer one request."""
        for method, form, rpc, field in _ROUTES:
            found = re.fullmatch(f"/v1/{form}", path)
            if found and method == verb:
                _, name, kind, response = self.methods[rpc]
                message = kind.pb(kind())
                json_format.ParseDict({**body, field: found[1]}, message)
                answer = self.server.do(rpc, name, kind.wrap(message))
                return json_format.MessageToDict(response.pb(answer))
        self.unknown.append(f"{verb} {path}")
        raise Error("UNIMPLEMENTED", f"{verb} {path} is not here")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Rest

    def do_GET(self) -> None:
        self._handle("GET")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def do_POST(self) -> None:
        self._handle("POST")

    def _handle(self, verb: str) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size) or b"{}")
        try:
            status = 200
            answer = self.server.answer(verb, urlsplit(self.path).path, body)
        except Error as error:
            status = _STATUS.get(error.code, 400)
            answer = {
                "error": {
                    "code": status,
                    "message": error.text,
                    "status": error.code,
                }
            }
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
