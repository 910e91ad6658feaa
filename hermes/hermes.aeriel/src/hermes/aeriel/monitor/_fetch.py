"""Get a server's metrics: one request, one deadline."""

from __future__ import annotations

import contextlib
import http.client
from time import monotonic

from hermes.aeriel.monitor._metrics import NotMetrics, Reading, parse

__all__ = ("FetchFailed", "fetch")

_CHUNK = 1 << 16


class FetchFailed(Exception):
    """There is no answer that can be used; reaches no user."""


def fetch(address: str, timeout: float) -> Reading:
    """Ask a server for its metrics.

    http.client reads no ``http_proxy`` from the environment. Each poll has a
    connection of its own, so that one that a restarted server, or a router
    on the way, has forgotten cannot be in the way.

    Args:
        address: ``"host:port"``.
        timeout: Seconds for everything.

    Raises:
        FetchFailed: If there is no answer in time, or another one.
    """
    try:
        return parse(_get(address, timeout))
    except TimeoutError as error:
        msg = f"no answer within {timeout:g} s"
        raise FetchFailed(msg) from error
    except (OSError, http.client.HTTPException, NotMetrics) as error:
        raise FetchFailed(str(error) or type(error).__name__) from error


def _get(address: str, timeout: float) -> str:
    end = monotonic() + timeout
    connection = http.client.HTTPConnection(address, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        socket = connection.sock
        answer = connection.getresponse()
        if answer.status != 200:
            msg = f"the answer to /metrics is {answer.status} {answer.reason}"
            raise http.client.HTTPException(msg)
        body = bytearray()
        # The socket's timeout is for each read, and a server may dribble. From
        # Python 3.13 on, the last byte that was promised closes the answer.
        while not answer.isclosed():
            if (left := end - monotonic()) <= 0:
                raise TimeoutError
            socket.settimeout(left)
            chunk = answer.read1(_CHUNK)
            if not chunk:
                break
            body += chunk
        if answer.length:  # what is missing of what was promised
            raise http.client.IncompleteRead(bytes(body), answer.length)
    return body.decode("utf-8", "replace")
