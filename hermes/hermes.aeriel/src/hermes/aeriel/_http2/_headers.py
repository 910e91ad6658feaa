"""Requests' and responses' headers (the only importer of hpack); pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

from hermes.aeriel._channel import OK, Status
from hermes.aeriel._http2._frames import ErrorCode, ProtocolError, error_name

__all__ = (
    "HeaderReader",
    "Headers",
    "request_block",
    "status_of_reset",
    "status_of_response",
    "status_of_trailers",
)

Headers = Mapping[str, str]

_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# gRPC's own translations of what is not gRPC
_CODE_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    "429": "UNAVAILABLE",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "UNAVAILABLE",
}
_CODE_OF_RESET: Mapping[int, str] = {
    ErrorCode.REFUSED_STREAM: "UNAVAILABLE",
    ErrorCode.CANCEL: "CANCELLED",
    ErrorCode.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
    ErrorCode.INADEQUATE_SECURITY: "PERMISSION_DENIED",
}
_GRPC = re.compile(r"application/grpc($|[+;])")


def request_block(method: str, authority: str, extra: Headers) -> bytes:
    """The header block that begins a call.

    It leaves no trace in the state of either end's compression, so that it
    can be sent again as it is.
    """
    found = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "hermes-aeriel",
        **extra,
    }
    return Encoder().encode(
        NeverIndexedHeaderTuple(name.encode(), value.encode())
        for name, value in found.items()
    )


class HeaderReader:
    """Reads the header blocks of one connection, each of them in turn."""

    def __init__(self) -> None:
        self._decoder = Decoder()

    def read(self, block: bytes) -> dict[str, str]:
        """The headers in a block; of several with one name the last.

        Raises:
            ProtocolError: If it is no header block.
        """
        try:
            found: Iterable[tuple[bytes, bytes]] = self._decoder.decode(
                block, raw=True
            )
        except HPACKError as error:
            msg = f"headers that cannot be read: {error}"
            raise ProtocolError(msg, ErrorCode.COMPRESSION_ERROR) from error
        return {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in found
        }


def status_of_response(headers: Headers) -> Status | None:
    """The status of a response that is not gRPC's; None if it is."""
    status = headers.get(":status", "")
    if status != "200":
        code = _CODE_OF_HTTP.get(status, "UNKNOWN")
        return Status(code, f"the server answers with HTTP status {status!r}")
    content_type = headers.get("content-type", "")
    if not _GRPC.match(content_type):
        msg = f"no gRPC server: it answers with content-type {content_type!r}"
        return Status("UNKNOWN", msg)
    return None


def status_of_trailers(headers: Headers) -> Status:
    """The status that a server ends a call with."""
    number = headers.get("grpc-status", "")
    if not number.isdecimal():
        return Status("UNKNOWN", "the server ended the call without a status")
    if number == "0":
        return OK
    code = _CODES[int(number)] if int(number) < len(_CODES) else "UNKNOWN"
    # Percent-encoded UTF-8; unquote() replaces what is none.
    return Status(code, unquote(headers.get("grpc-message", "")))


def status_of_reset(error_code: int) -> Status:
    """The status of a call that the server reset."""
    code = _CODE_OF_RESET.get(error_code, "INTERNAL")
    name = error_name(error_code)
    return Status(code, f"the server reset the call ({name})")
