"""The wire to a Kubernetes cluster: the only importer of its client.

Objects are plain dictionaries, as they stand in YAML. The client's own models
check them (`check_manifest`), and are used for nothing else: they know the
fields of one version of Kubernetes, and clusters have others.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlencode, urlsplit

from hermes.cloudbreak._answers import Answer, Manifest, translate
from hermes.cloudbreak._plugins import run_plugin
from hermes.cloudbreak.errors import CloudUnavailable, InvalidSpec, Refused

try:
    import pydantic
    import urllib3
    import websocket
    from kubernetes import client as kubernetes_client
    from kubernetes import config as kubernetes_config
    from kubernetes.client import models
    from kubernetes.config.kube_config import KubeConfigMerger
except ImportError as error:
    raise ImportError(
        "Kubernetes clusters need the extra `kubernetes` of "
        f"hermes-cloudbreak, its official client ({error})",
        name=error.name,
    ) from error

__all__ = ("Connection", "WebSocket", "check_manifest")

# Seconds to connect, and between two pieces of an answer.
_CONNECT, _READ = 10.0, 30.0
# What a proxy cannot reach, whatever the environment says.
_LOOPBACK = "localhost,127.0.0.0/8,::1"


class WebSocket(Protocol):
    """A connection of messages, as far as port forwarding needs it."""

    @property
    def sock(self) -> Any:
        """The socket below; None after it was closed."""

    def recv_data_frame(self, control_frame: bool = False) -> tuple[int, Any]:
        """Receive the kind of a message, and its frame.

        Args:
            control_frame: Whether a ping or a pong is given, too, instead of
                waiting for what comes after it.
        """

    def send_binary(self, payload: bytes) -> int:
        """Send a message."""

    def ping(self) -> None:
        """Show that we are still there."""

    def close(self) -> None:
        """End the connection."""


class Connection:
    """Requests to one cluster; threads may share it.

    Every request has a time limit, and may raise `CloudUnavailable` (no
    answer, 429, 5xx, a conflict), `Refused` (401, 403, 422 and the like),
    `NotThere`, `AlreadyThere` and `QuotaExceeded`.

    Args:
        configure: Makes a configuration of the official client. It is called
            again when the cluster has answered 401, and has to come with a
            new token then.
    """

    def __init__(
        self, configure: Callable[[], kubernetes_client.Configuration]
    ) -> None:
        self._configure = configure
        self._lock = threading.Lock()
        self._client = self._connect()

    @classmethod
    def to_server(
        cls, server: str, ca: str, token: Callable[[], str]
    ) -> Connection:
        """Reach a cluster by its address; see `Access.to_server`."""
        file = _MemoryFile(ca.encode())

        def configure() -> kubernetes_client.Configuration:
            found = kubernetes_client.Configuration(host=server)
            found.ssl_ca_cert = file.path
            found.api_key = {"BearerToken": f"Bearer {token()}"}
            return found

        return cls(configure)

    @classmethod
    def from_kubeconfig(
        cls, path: str, context: str | None
    ) -> tuple[Connection, str]:
        """Reach a cluster by a file; give the context's namespace, too."""
        held: list[_MemoryFile] = []
        namespace = _find_namespace(path, context)
        return cls(lambda: _load(path, context, held)), namespace

    @property
    def server(self) -> str:
        """The cluster's address."""
        return str(self._client.configuration.host)

    def close(self) -> None:
        """Close what is open to it."""
        self._client.close()  # type: ignore[no-untyped-call]

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content: str = "application/json",
    ) -> Answer:
        """Send a request, and give the answer if it is not an error."""
        response = self._respond(method, path, query, body, content, _READ)
        with _translated(f"{method} {path}"):
            return Answer(response.status, response.data)

    def upgrade(self, path: str) -> WebSocket:
        """Turn a request into a connection of messages."""
        used = self._client
        try:
            try:
                return self._open(used, path)
            except websocket.WebSocketBadStatusException as error:
                if error.status_code != 401:
                    raise
            return self._open(self._renew(used), path)
        except websocket.WebSocketBadStatusException as error:
            answer = Answer(error.status_code, error.resp_body or b"")
            raise translate(answer, f"GET {path}") from None

    def _respond(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content: str,
        patience: float,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, once more with a new token where that is refused."""
        asked = {name: value for name, value in (query or {}).items() if value}
        url = path + (f"?{urlencode(asked)}" if asked else "")
        headers = {"Content-Type": content} if body is not None else {}
        used, what = self._client, f"{method} {path}"
        response = _send(used, method, url, headers, body, patience)
        if response.status == 401:
            response.close()
            used = self._renew(used)
            response = _send(used, method, url, headers, body, patience)
        if 200 <= response.status < 300:
            return response
        with _translated(what):
            answer = Answer(response.status, response.data)
        raise translate(answer, f"{what} on {self.server}")

    def _renew(
        self, used: kubernetes_client.ApiClient
    ) -> kubernetes_client.ApiClient:
        with self._lock:
            if self._client is used:  # and nobody else was faster
                self._client = self._connect()
            return self._client

    def _connect(self) -> kubernetes_client.ApiClient:
        found = self._configure()
        found.retries = urllib3.Retry(0, redirect=0)
        found.connection_pool_maxsize = 32
        found.no_proxy = ",".join(filter(None, [found.no_proxy, _LOOPBACK]))
        return kubernetes_client.ApiClient(found)

    def _open(
        self, client: kubernetes_client.ApiClient, path: str
    ) -> WebSocket:
        found = client.configuration
        _, url, headers, *_ = client.param_serialize(
            "GET", path, auth_settings=["BearerToken"]
        )
        token = (headers or {}).get("authorization")
        proxy = urlsplit(found.proxy or "")
        try:
            opened = websocket.create_connection(
                "ws" + url.removeprefix("http"),
                timeout=_READ,
                header=[f"authorization: {token}"] if token else [],
                subprotocols=["v4.channel.k8s.io"],
                suppress_origin=True,
                sslopt=_tls(found),
                http_no_proxy=(found.no_proxy or "").split(","),
                http_proxy_host=proxy.hostname,
                http_proxy_port=proxy.port,
            )
        except websocket.WebSocketBadStatusException:
            raise  # an answer
        except (OSError, websocket.WebSocketException) as error:
            raise CloudUnavailable(f"GET {path}: {error}") from error
        return cast("WebSocket", opened)


def check_manifest(manifest: Manifest) -> list[str]:
    """Tell what is wrong with an object, by the client's own models.

    Returns:
        What is wrong, field by field; nothing for kinds that the client has
        no model of, because clusters may have more kinds.
    """
    group, _, version = str(manifest.get("apiVersion")).rpartition("/")
    name = f"{version.capitalize()}{manifest.get('kind')}"
    model = getattr(models, name, None)
    if model is None or group not in {"", "apps", "batch", "policy"}:
        return []
    try:
        model.model_validate(manifest)
    except pydantic.ValidationError as error:
        return [
            f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}"
            for each in error.errors()
        ]
    return []


class _MemoryFile:
    """Content that has a path, and on Linux is nowhere on a disk.

    OpenSSL wants certificates and keys as files, and files stay where a
    program is killed.
    """

    def __init__(self, content: bytes) -> None:
        if sys.platform == "linux":
            number = os.memfd_create("hermes")
            self.path = f"/proc/self/fd/{number}"
            weakref.finalize(self, os.close, number)
        else:  # there it is on a disk, until the program ends
            number, self.path = tempfile.mkstemp(prefix="hermes-")
            weakref.finalize(self, os.unlink, self.path)
        with open(number, "wb", closefd=sys.platform != "linux") as file:
            file.write(content)


def _read(path: str, context: str | None) -> tuple[Any, Any]:
    """Read a file, or several; give all of it, and the context."""
    try:
        merged = KubeConfigMerger(path).config  # type: ignore[no-untyped-call]
    except (kubernetes_config.ConfigException, OSError, TypeError) as error:
        raise _no_file(path, error) from error
    if merged is None:
        raise _no_file(path, "there is no such file")
    named = {
        each.value["name"]: each.value for each in merged["contexts"].value
    }
    wanted = context or merged.value.get("current-context")
    if not wanted:
        raise InvalidSpec(
            f"{path} has no current-context: give context=, one of "
            f"{sorted(named)}"
        )
    if wanted not in named:
        raise InvalidSpec(
            f"context={wanted!r} is not in {path}; it has {sorted(named)}"
        )
    return merged, named[wanted]


def _no_file(path: str, why: object) -> InvalidSpec:
    return InvalidSpec(
        f"kubeconfig={path!r}: {why}. Give the path of a file that `kubectl` "
        "can use, or set KUBECONFIG"
    )


def _find_namespace(path: str, context: str | None) -> str:
    _, found = _read(path, context)
    return str(found["context"].get("namespace", "default"))


def _load(
    path: str, context: str | None, held: list[_MemoryFile]
) -> kubernetes_client.Configuration:
    """Read a file; what the loader writes to a disk does not stay there."""
    found = kubernetes_client.Configuration()
    merged, chosen = _read(path, context)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run_plugin(merged, chosen["context"])
            kubernetes_config.load_kube_config_from_dict(  # type: ignore[no-untyped-call]
                merged, chosen["name"], found, False, folder
            )
        except kubernetes_config.ConfigException as error:
            raise InvalidSpec(f"kubeconfig={path!r}: {error}") from error
        for name in ("ssl_ca_cert", "cert_file", "key_file"):
            written = getattr(found, name)
            if written and written.startswith(folder):
                held.append(_MemoryFile(Path(written).read_bytes()))
                setattr(found, name, held[-1].path)
    # Its own refreshing would read the files again: we load all of it again.
    found.refresh_api_key_hook = None
    return found


def _run_plugin(merged: Any, context: Mapping[str, Any]) -> None:
    """Replace a user's plugin, where there is one, by what it gives."""
    users, name = merged["users"], context.get("user")
    if not name or (user := users.get_with_name(name, safe=True)) is None:
        return
    if not (plugin := (user.value.get("user") or {}).get("exec")):
        return
    cluster = merged["clusters"].get_with_name(context["cluster"])
    folder = str(Path(user.path).absolute().parent)
    user.value["user"] = run_plugin(plugin, folder, cluster["cluster"].value)


def _send(
    client: kubernetes_client.ApiClient,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Manifest | None,
    patience: float,
) -> urllib3.BaseHTTPResponse:
    _, full, all_headers, *_ = client.param_serialize(
        method,
        url,
        header_params=dict(headers),
        auth_settings=["BearerToken"],
    )
    with _translated(f"{method} {url.partition('?')[0]}"):
        answer = client.call_api(
            method, full, all_headers, body, None, (_CONNECT, patience)
        )
    return cast("urllib3.BaseHTTPResponse", answer.response)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (
        kubernetes_client.ApiException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        reason = getattr(error, "reason", None) or error
        kind = (
            Refused
            if "CERTIFICATE_VERIFY_FAILED" in str(reason)
            else CloudUnavailable
        )
        raise kind(f"{what}: {reason}") from error


def _tls(found: kubernetes_client.Configuration) -> dict[str, Any]:
    names = {
        "ca_certs": found.ssl_ca_cert,
        "certfile": found.cert_file,
        "keyfile": found.key_file,
        "server_hostname": found.tls_server_name,
        "cert_reqs": None if found.verify_ssl else 0,
    }
    return {name: value for name, value in names.items() if value is not None}
