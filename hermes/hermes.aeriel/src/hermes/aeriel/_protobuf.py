"""Protobuf's fields as bytes: large ones go by without protobuf; pure.

It copies a tensor two or three times on the way in, and again on the way out.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ("before_bytes", "take_out")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MORE = 0x80


def before_bytes(number: int, size: int) -> bytes:
    """What goes before the content of a field of ``size`` bytes.

    The fields of a message may come in any order, so that this and the
    content may follow a message that is complete without them.
    """
    return _varint(number << 3 | _BYTES) + _varint(size)


def take_out(
    message: memoryview, number: int
) -> tuple[bytes, list[memoryview]]:
    """The message without a field, and what that field holds.

    Args:
        message: An encoded message.
        number: The field's; it holds bytes, or messages.

    Returns:
        The rest, an encoded message too, and the field's contents as parts
        of ``message``.

    Raises:
        ValueError: If it is no message.
    """
    rest: list[memoryview] = []
    found = []
    for key, begin, start, stop in _fields(message):
        if key == number << 3 | _BYTES:
            found.append(message[start:stop])
        else:
            rest.append(message[begin:stop])
    return b"".join(rest), found


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field's key, and where it, its value and the next one begin."""
    position = 0
    while position < len(message):
        begin = position
        key, start = _read_varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            _, position = _read_varint(message, start)
        elif kind == _BYTES:
            size, start = _read_varint(message, start)
            position = start + size
        elif kind in {_FIXED32, _FIXED64}:
            position = start + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"a protobuf field of type {kind}")
        if position > len(message):
            raise ValueError("a protobuf message that ends in a field")
        yield key, begin, start, position


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= _MORE:
        found.append(value & 0x7F | _MORE)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < _MORE:
            return value, position
    raise ValueError("a protobuf message that ends in a number")
