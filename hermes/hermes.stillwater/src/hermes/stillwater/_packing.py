"""Packages as bytes: a header, a pickle, and the data of arrays beside it.

header | sizes of the arrays | pickle | data of each array, aligned
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = (
    "HEADER_SIZE",
    "Header",
    "Packer",
    "array_sizes",
    "padding",
    "unpack",
    "unpack_small",
)

_HEADER = struct.Struct("<IIQQ")
HEADER_SIZE = _HEADER.size
# A package this small is copied once more, for fewer steps.
SMALL = 2**16
_ALIGNMENT = 64
_NOTHING = bytes(_ALIGNMENT)


class Header(NamedTuple):
    """What a package says of itself.

    Attributes:
        kind: A small number, its sender's.
        num_arrays: Arrays whose data follows the pickle.
        head_size: Bytes from here to the data: sizes and pickle.
        size: Bytes from here to the end.
    """

    kind: int
    num_arrays: int
    head_size: int
    size: int

    @classmethod
    def read(cls, data: bytes | bytearray) -> Header:
        """Read the first `HEADER_SIZE` bytes of a package."""
        return cls(*_HEADER.unpack(data))

    @property
    def is_small(self) -> bool:
        """Whether all of it is best read at once."""
        return self.size <= SMALL


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Keep the data of arrays out of the pickle.

        numpy does so where it is in one piece, of its own type, and of a
        type that buffers know.
        """
        if isinstance(obj, np.memmap):  # what is sent is no file any more
            obj = obj.view(np.ndarray)
        elif type(obj) is not np.ndarray:
            return NotImplemented
        if obj.dtype.kind in "mM":
            return np.ndarray.view, (obj.view(np.int64), obj.dtype)
        if not (obj.flags.c_contiguous or obj.flags.f_contiguous):
            obj = np.ascontiguousarray(obj)
        return obj.__reduce_ex__(5)


class Packer:
    """Turns packages into bytes; not for several threads at once."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._pickler = _Pickler(
            self._file, protocol=5, buffer_callback=self._buffers.append
        )

    def pack(self, kind: int, package: object) -> list[bytes | memoryview]:
        """Turn a package into bytes and views of its arrays.

        Args:
            kind: A small number that comes back in the `Header`.
            package: Any nesting of arrays and small objects.

        Returns:
            What is to be sent, in order. Views are of the arrays themselves:
            send them before those can change.
        """
        try:
            self._pickler.dump(package)
            views = [buffer.raw() for buffer in self._buffers]
            pickled = self._file.getvalue()
        finally:
            self._buffers.clear()
            self._pickler.clear_memo()
            self._file.seek(0)
            self._file.truncate()
        sizes = [len(view) for view in views]
        head_size = _aligned(8 * len(sizes) + len(pickled))
        size = head_size + sum(map(_aligned, sizes))
        head = b"".join(
            (
                _HEADER.pack(kind, len(views), head_size, size),
                struct.pack(f"<{len(sizes)}Q", *sizes),
                pickled,
                _NOTHING[: padding(8 * len(sizes) + len(pickled))],
            )
        )
        parts: list[bytes | memoryview] = [head]
        for view in views:
            parts += [view, _NOTHING[: padding(len(view))]]
        return [b"".join(parts)] if size <= SMALL else parts


def array_sizes(header: Header, head: memoryview) -> tuple[int, ...]:
    """Read the sizes of the arrays' data."""
    end = 8 * header.num_arrays
    return struct.unpack(f"<{header.num_arrays}Q", head[:end])


def unpack(header: Header, head: memoryview, arrays: list[Any]) -> Any:
    """Make the package again.

    Args:
        header: Its header.
        head: Sizes and pickle.
        arrays: The data of each array, as bytes. The package keeps them.
    """
    # What crosses is from the same program, on the same machine.
    pickled = head[8 * header.num_arrays :]
    return pickle.loads(pickled, buffers=arrays)  # noqa: S301


def unpack_small(header: Header, body: memoryview) -> Any:
    """Make a package again of all its bytes, which its arrays keep."""
    head = body[: header.head_size]
    return unpack(header, head, list(_split(header, body)))


def _split(header: Header, body: memoryview) -> Iterator[memoryview]:
    begin = header.head_size
    for size in array_sizes(header, body):
        yield body[begin : begin + size]
        begin += _aligned(size)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def padding(size: int) -> int:
    """Bytes between data of this size and what follows."""
    return _aligned(size) - size
