"""The seam between Triton's protocol and gRPC: calls of bytes.

A channel carries serialised messages to one server and back; what they mean
is the affair of whoever uses it. There are two: `_http2`, our own, for plain
connections, and `_grpcio` for TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hermes.aeriel.errors import InvalidRequest

__all__ = (
    "OK",
    "Call",
    "CallFailed",
    "Channel",
    "ChannelOptions",
    "Message",
    "Status",
)

# What arrives; it belongs to whoever gets it.
Message = bytes | bytearray

_ADDRESS = re.compile(r"(?P<host>\[[^\[\]\s]+\]|[^\[\]\s/]+):(?P<port>\d+)")
_HEADER_NAME = re.compile(r"[0-9a-z_.\-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
# They say how a message is to be read, and the channel says that itself.
_OUR_HEADERS = frozenset({"content-type", "te", "user-agent", "host"})


@dataclass(frozen=True)
class Status:
    """How a call ended.

    Attributes:
        code: The gRPC status code's name, such as ``"UNAVAILABLE"``.
        details: What the server, or the channel, says about it.
    """

    code: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.details} ({self.code})" if self.details else self.code


OK = Status("OK")


class CallFailed(Exception):
    """A call ended, or could not begin, with a status that is not OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass(frozen=True)
class ChannelOptions:
    """What a channel is made of.

    Attributes:
        address: ``"host:port"`` of the server.
        ssl: Whether to speak TLS.
        root_certificates: File of the certificates to trust (PEM); the
            system's by default.
        private_key: File of the client's key (PEM).
        certificate_chain: File of the certificates that go with it (PEM).
        headers: Sent with every call, by their lower-case names.

    Raises:
        InvalidRequest: If one of them cannot be used.
    """

    address: str
    ssl: bool = False
    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        match = _ADDRESS.fullmatch(self.address)
        if match is None or not 0 < int(match["port"]) < 65536:
            msg = f'the address must be "host:port", got {self.address!r}'
            raise InvalidRequest(msg)
        for name, value in self.headers.items():
            _check_header(name, value)
        self.certificates()
        self._check_pairs()

    @property
    def host(self) -> str:
        """The address without its port, an IPv6 one without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The address's port."""
        return int(self.address.rpartition(":")[2])

    def certificates(self) -> dict[str, bytes | None]:
        """What the three files hold, by their keywords."""
        return {
            name: _read(name, getattr(self, name))
            for name in (
                "root_certificates",
                "private_key",
                "certificate_chain",
            )
        }

    def _check_pairs(self) -> None:
        given = [name for name, file in self.certificates().items() if file]
        if given and not self.ssl:
            msg = f"{given[0]} is given, but not ssl=True"
            raise InvalidRequest(msg)
        if (self.private_key is None) != (self.certificate_chain is None):
            msg = (
                "private_key and certificate_chain go together, got"
                f" private_key={self.private_key!r} and"
                f" certificate_chain={self.certificate_chain!r}"
            )
            raise InvalidRequest(msg)


class Call(Protocol):
    """A bidirectional stream of messages.

    Its methods return at once and may be called from any thread, that of the
    callbacks included. On a call that has ended they do nothing, and in a
    forked child nothing but raise.
    """

    def write(self, *parts: bytes) -> None:
        """Send a message, after those before it.

        Args:
            *parts: The message, in as many pieces as it is there in.

        Raises:
            ClientForked: If the channel is the parent process's.
        """

    def half_close(self) -> None:
        """Say that no more messages follow those written."""

    def cancel(self) -> None:
        """End the call now; it ends as CANCELLED unless it has already."""


class Channel(Protocol):
    """A way to one server. Its methods may be called from any thread."""

    def unary(self, method: str, message: bytes, timeout: float) -> Message:
        """Send one message and wait for the one that answers it.

        Args:
            method: ``"/package.Service/Method"``.
            message: The request.
            timeout: Seconds to wait.

        Raises:
            CallFailed: If the status is not OK.
            ClientForked: If the channel is the parent process's.
        """

    def stream(
        self,
        method: str,
        on_message: Callable[[Message], None],
        on_end: Callable[[Status], None],
    ) -> Call:
        """Begin a stream; returns at once, and connects anew if need be.

        Args:
            method: ``"/package.Service/Method"``.
            on_message: Called with each message, one at a time, from a
                thread of the channel's. If it raises, the call ends as
                INTERNAL.
            on_end: Called once, after the last message, from there too.

        Raises:
            CallFailed: If the channel is closed.
            ClientForked: If the channel is the parent process's.
        """

    def close(self) -> None:
        """End all calls as CANCELLED, and the connection; idempotent.

        Takes a fraction of a second at most, and leaves no thread behind,
        unless one of the callbacks does not return.
        """


def _check_header(name: object, value: object) -> None:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        msg = (
            f"a header's name is made of a-z, 0-9, '-', '_' and '.', got"
            f" {name!r}"
        )
        raise InvalidRequest(msg)
    if name in _OUR_HEADERS or name.startswith("grpc-"):
        raise InvalidRequest(f"the header {name!r} is gRPC's own")
    if name.endswith("-bin"):
        msg = f"the header {name!r} would be binary, which is not supported"
        raise InvalidRequest(msg)
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        # the value may be a secret: it is not repeated
        msg = (
            f"the value of the header {name!r} must be printable ASCII"
            " without spaces around it"
        )
        raise InvalidRequest(msg)


def _read(name: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{name}={path!r} cannot be read: {reason}"
        raise InvalidRequest(msg) from error
