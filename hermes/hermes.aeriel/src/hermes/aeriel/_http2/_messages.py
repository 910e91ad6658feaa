"""gRPC's messages in a stream of bytes; pure.

Each is a flag (compressed or not), its length in four bytes, and itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hermes.aeriel._channel import Message, Status

__all__ = ("PREFIX_SIZE", "BadMessage", "MessageReader", "prefix")

_PREFIX = struct.Struct(">BL")
PREFIX_SIZE = _PREFIX.size
# protobuf has none that are longer
_MAX_SIZE = 2**31 - 1


class BadMessage(Exception):
    """The other end sent what is no message that we can read."""

    def __init__(self, status: Status) -> None:
        super().__init__(str(status))
        self.status = status


def prefix(size: int) -> bytes:
    """What goes before a message of ``size`` bytes."""
    return _PREFIX.pack(0, size)


class MessageReader:
    """Puts messages together from what arrives."""

    def __init__(self) -> None:
        self._prefix = b""
        self._message = bytearray()
        # bytes of the message that are yet to come, once its prefix is whole
        self._missing = 0

    @property
    def is_between(self) -> bool:
        """Whether no message has begun."""
        return not self._prefix

    def feed(self, data: memoryview | bytes) -> Iterator[Message]:
        """Read more; yields the messages that this completes.

        Raises:
            BadMessage: If one is compressed or too long.
        """
        position, end = 0, len(data)
        if self._prefix:
            position = self._go_on(data)
            if self._missing or len(self._prefix) < PREFIX_SIZE:
                return
            message, self._message, self._prefix = (
                self._message,
                bytearray(),
                b"",
            )
            yield message
        while end - position >= PREFIX_SIZE:
            start = position + PREFIX_SIZE
            stop = start + _size(data, position)
            if stop > end:
                break
            yield bytes(data[start:stop])
            position = stop
        if position < end:
            self._go_on(data[position:])

    def _go_on(self, data: memoryview | bytes) -> int:
        """Go on with the message that has begun; returns what that took."""
        taken = 0
        if len(self._prefix) < PREFIX_SIZE:
            taken = PREFIX_SIZE - len(self._prefix)
            self._prefix += bytes(data[:taken])
            if len(self._prefix) < PREFIX_SIZE:
                return len(data)
            self._missing = _size(self._prefix, 0)
        piece = data[taken : taken + self._missing]
        self._message += piece
        self._missing -= len(piece)
        return taken + len(piece)


def _size(data: memoryview | bytes, position: int) -> int:
    """The length of the message that begins there."""
    compressed, size = _PREFIX.unpack_from(data, position)
    if compressed:
        msg = "the server compressed a message, which it was not asked for"
        raise BadMessage(Status("INTERNAL", msg))
    if size > _MAX_SIZE:
        msg = f"the server sent a message of {size} bytes"
        raise BadMessage(Status("RESOURCE_EXHAUSTED", msg))
    return int(size)
