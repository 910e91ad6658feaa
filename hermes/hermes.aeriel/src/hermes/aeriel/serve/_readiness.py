"""Ask a server whether it can serve, each question with its own deadline."""

import http.client
import json
import time

from hermes.aeriel._channel import CallFailed, ChannelOptions
from hermes.aeriel._http2 import Http2Channel
from hermes.aeriel.endpoint import EndpointLike

__all__ = ("ask", "grpc_ready", "is_ready", "read_metrics")

_SERVER_READY = "/inference.GRPCInferenceService/ServerReady"
_PART = 1 << 16
_YES = b"\x08\x01"  # a ServerReadyResponse whose first field is true


def is_ready(endpoint: EndpointLike, server_id: str, timeout: float) -> bool:
    """Whether our server answers on all of its ports and can serve.

    Another program's server on the same port does not count: ``server_id``
    must be the name that the server gives itself.

    Args:
        endpoint: Where to ask.
        server_id: The server's unique name.
        timeout: Seconds that all of the questions may take together.
    """
    deadline = time.monotonic() + timeout
    return (
        _get(endpoint.http, "/v2/health/ready", deadline) is not None
        and _name(endpoint.http, deadline) == server_id
        and _get(endpoint.metrics, "/metrics", deadline) is not None
        and grpc_ready(endpoint.grpc, max(0.0, deadline - time.monotonic()))
    )


def read_metrics(endpoint: EndpointLike, timeout: float) -> str:
    """Return what a server measures, or nothing if it does not answer."""
    deadline = time.monotonic() + timeout
    answer = _get(endpoint.metrics, "/metrics", deadline)
    return (answer or b"").decode("utf-8", "replace")


def grpc_ready(address: str, timeout: float) -> bool:
    """Whether a gRPC port answers and its server says that it is ready.

    Neither grpcio nor protobuf is needed for that: this has to work in a
    forked child, where grpcio may wait for ever.

    Args:
        address: ``"host:port"``.
        timeout: Seconds to wait for the answer.
    """
    channel = Http2Channel(ChannelOptions(address))
    try:
        return channel.unary(_SERVER_READY, b"", timeout) == _YES
    except CallFailed:
        return False
    finally:
        channel.close()


def _name(address: str, deadline: float) -> object:
    answer = _get(address, "/v2", deadline)
    try:
        found = json.loads(answer or b"{}")
    except ValueError:
        return None
    return found.get("name") if isinstance(found, dict) else None


def _get(address: str, path: str, deadline: float) -> bytes | None:
    """Return the answer's body, or None unless it is 200."""
    try:
        status, body = ask(address, "GET", path, deadline)
    except (OSError, http.client.HTTPException):
        return None
    return body if status == 200 else None


def ask(
    address: str, method: str, path: str, deadline: float, body: str = ""
) -> tuple[int, bytes]:
    """Return status and body of an answer.

    http.client reads no ``http_proxy`` from the environment.

    Args:
        address: ``"host:port"``.
        method: HTTP's word for what to do.
        path: What to do it with.
        deadline: When to give up, by ``time.monotonic``.
        body: What to send along.

    Raises:
        OSError: If there is no answer in time, or nobody to give it.
        http.client.HTTPException: If something else than HTTP answers.
    """
    connection = http.client.HTTPConnection(address, timeout=_left(deadline))
    try:
        connection.connect()
        connection.sock.settimeout(_left(deadline))
        connection.request(method, path, body or None)
        answer = connection.getresponse()
        content = b""
        while part := answer.read1(_PART):
            content += part
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
        return answer.status, content
    finally:
        connection.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
