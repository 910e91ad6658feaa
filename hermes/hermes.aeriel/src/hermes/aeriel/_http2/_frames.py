"""HTTP/2's frames as bytes (RFC 9113); pure.

A frame is a header of nine bytes (length, type, flags, stream) and a payload.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

__all__ = (
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "HEADER_SIZE",
    "PREFACE",
    "ErrorCode",
    "Frame",
    "FrameReader",
    "FrameType",
    "ProtocolError",
    "Setting",
    "error_name",
    "frame",
    "goaway",
    "header",
    "headers",
    "read_goaway",
    "read_number",
    "read_settings",
    "reset",
    "settings",
    "window_update",
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITY = 0x20

_MAX_WINDOW = 2**31 - 1
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
# the length has 24 bits: 16 and 8
_HEADER = struct.Struct(">HBBBL")


class FrameType(enum.IntEnum):
    """What a frame is; others are to be ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_MAY_BE_PADDED = frozenset({FrameType.DATA, FrameType.HEADERS})


class Setting(enum.IntEnum):
    """What a SETTINGS frame may set; others are to be ignored."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends; others may occur."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def error_name(code: int) -> str:
    """What an error code is called."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"


class ProtocolError(Exception):
    """The other end broke the protocol: the connection has to end."""

    def __init__(
        self, message: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR
    ) -> None:
        super().__init__(message)
        self.code = code


class Frame(NamedTuple):
    """A frame, without padding and priority.

    Attributes:
        type: A `FrameType`, or a number that is none.
        flags: Bits, their meaning depends on the type.
        stream: The stream's number; 0 is the connection.
        payload: Valid until more is read.
        size: What flow control counts: the payload and its padding.
    """

    type: int
    flags: int
    stream: int
    payload: memoryview | bytes
    size: int


def header(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The header of a frame with a payload of ``size`` bytes."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return header(len(payload), kind, flags, stream) + payload


def headers(stream: int, block: bytes, max_frame_size: int) -> bytes:
    """HEADERS, and CONTINUATION if the block is too large for one frame."""
    pieces = [
        block[start : start + max_frame_size]
        for start in range(0, len(block), max_frame_size)
    ]
    kinds = [FrameType.HEADERS] + [FrameType.CONTINUATION] * (len(pieces) - 1)
    flags = [0] * (len(pieces) - 1) + [END_HEADERS]
    return b"".join(
        frame(kind, flag, stream, piece)
        for kind, flag, piece in zip(kinds, flags, pieces, strict=True)
    )


def settings(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_SETTING.pack(*item) for item in values.items())
    return frame(FrameType.SETTINGS, 0, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    payload = _NUMBER.pack(increment)
    return frame(FrameType.WINDOW_UPDATE, 0, stream, payload)


def reset(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last_stream: int, code: ErrorCode, debug: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    payload = _NUMBER.pack(last_stream) + _NUMBER.pack(code) + debug
    return frame(FrameType.GOAWAY, 0, 0, payload)


def read_settings(payload: memoryview | bytes) -> dict[int, int]:
    """The values in a SETTINGS frame.

    Raises:
        ProtocolError: If it is none, or a value is not allowed.
    """
    if len(payload) % _SETTING.size:
        msg = f"a SETTINGS frame of {len(payload)} bytes"
        raise ProtocolError(msg, ErrorCode.FRAME_SIZE_ERROR)
    values = dict(_SETTING.iter_unpack(payload))
    if values.get(Setting.INITIAL_WINDOW_SIZE, 0) > _MAX_WINDOW:
        msg = "INITIAL_WINDOW_SIZE is too large"
        raise ProtocolError(msg, ErrorCode.FLOW_CONTROL_ERROR)
    if not 2**14 <= values.get(Setting.MAX_FRAME_SIZE, 2**14) < 2**24:
        raise ProtocolError("MAX_FRAME_SIZE is out of its range")
    return values


def read_number(payload: memoryview | bytes) -> int:
    """The number of a WINDOW_UPDATE or an RST_STREAM frame.

    Raises:
        ProtocolError: If the payload is not one number.
    """
    if len(payload) != _NUMBER.size:
        msg = f"{len(payload)} bytes where a frame has 4"
        raise ProtocolError(msg, ErrorCode.FRAME_SIZE_ERROR)
    number: int = _NUMBER.unpack(payload)[0]
    return number


def read_goaway(payload: memoryview | bytes) -> tuple[int, int, str]:
    """The last stream, the error code and the text of a GOAWAY frame.

    Raises:
        ProtocolError: If the payload is too short.
    """
    if len(payload) < 8:
        msg = f"a GOAWAY frame of {len(payload)} bytes"
        raise ProtocolError(msg, ErrorCode.FRAME_SIZE_ERROR)
    last, code = struct.unpack_from(">LL", payload)
    text = bytes(payload[8:]).decode(errors="replace")
    return last & _MAX_WINDOW, code, text


class FrameReader:
    """Cuts what arrives into frames.

    An unpadded DATA frame is handed on as it arrives, as several smaller
    ones would be: it may be longer than what is read at once.

    Args:
        max_frame_size: What we told the other end.
    """

    def __init__(self, max_frame_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._rest = b""
        # Of the DATA frame that has been handed on in part: what is missing,
        # its flags and its stream.
        self._missing = 0
        self._flags = 0
        self._stream = 0

    def feed(self, data: memoryview | bytes) -> Iterator[Frame]:
        """Read more; yields the frames that this completes.

        Raises:
            ProtocolError: If a frame is too long, or its padding is.
        """
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        if self._missing and end:
            position = min(self._missing, end)
            yield self._data(data[:position])
        while end - position >= HEADER_SIZE:
            high, low, kind, flags, stream = _HEADER.unpack_from(
                data, position
            )
            size = high << 8 | low
            self._check(size)
            start, stop = position + HEADER_SIZE, position + HEADER_SIZE + size
            if stop <= end:
                yield _frame(kind, flags, stream, data[start:stop])
            elif kind == FrameType.DATA and not flags & _PADDED:
                self._missing, self._flags, self._stream = size, flags, stream
                yield self._data(data[start:end])
                stop = end
            else:
                break
            position = stop
        self._rest = bytes(data[position:])

    def _data(self, piece: memoryview | bytes) -> Frame:
        """A part of the DATA frame that has begun."""
        self._missing -= len(piece)
        flags = 0 if self._missing else self._flags
        return _frame(FrameType.DATA, flags, self._stream, piece)

    def _check(self, size: int) -> None:
        if size > self._max_frame_size:
            msg = f"a frame of {size} bytes"
            raise ProtocolError(msg, ErrorCode.FRAME_SIZE_ERROR)


def _frame(
    kind: int, flags: int, stream: int, payload: memoryview | bytes
) -> Frame:
    size = len(payload)
    if flags and kind in _MAY_BE_PADDED:
        payload = _unpad(kind, flags, payload)
    return Frame(kind, flags, stream & _MAX_WINDOW, payload, size)


def _unpad(
    kind: int, flags: int, payload: memoryview | bytes
) -> memoryview | bytes:
    """The payload without padding and priority."""
    start = padding = 0
    if flags & _PADDED:
        if not payload:
            raise ProtocolError("a padded frame without its padding")
        start, padding = 1, payload[0]
    if kind == FrameType.HEADERS and flags & _PRIORITY:
        start += 5
    stop = len(payload) - padding
    if start > stop:
        raise ProtocolError("a frame with more padding than payload")
    return payload[start:stop]
