"""Packages as bytes: a header, a pickle, and the data of arrays beside it.

header | sizes of the arrays | pickle | data of each array

In a small package each part is padded, so that the arrays are aligned in the
one piece that it is read as. A small package that is an array, and nothing
else, has its dtype and shape in place of sizes and pickle.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = (
    "HEADER_SIZE",
    "Header",
    "Packer",
    "Taken",
    "array_sizes",
)

_HEADER = struct.Struct("<IIQQ")
_PLAIN_HEAD = struct.Struct("<8sQ")  # dtype, number of dimensions
# Stands for the number of arrays.
_PLAIN = 2**32 - 1
HEADER_SIZE = _HEADER.size
# A package this small is copied once more, for fewer steps.
SMALL = 2**16
_ALIGNMENT = 64
_NOTHING = bytes(_ALIGNMENT)


class Header(NamedTuple):
    """What a package says of itself.

    Attributes:
        kind: A small number, its sender's.
        num_arrays: Arrays whose data follows the pickle, if there is one.
        head_size: Bytes from here to the data: sizes and pickle.
        size: Bytes from here to the end, padding counted in.
    """

    kind: int
    num_arrays: int
    head_size: int
    size: int

    @classmethod
    def read(cls, data: Any, offset: int = 0) -> Header:
        """Read the first `HEADER_SIZE` bytes of a package."""
        return cls(*_HEADER.unpack_from(data, offset))

    @property
    def is_small(self) -> bool:
        """Whether all of it is best read at once."""
        return self.size <= SMALL


# numpy's own way to keep data out of a pickle costs twice as much: it pickles
# the dtype as an object.
_NUMBERS = "biufc"


def _is_number(dtype: np.dtype) -> bool:
    # Buffers know long doubles in the machine's own byte order only.
    return dtype.kind in _NUMBERS and (
        dtype.isnative or dtype.char not in "gG"
    )


def _reduce(array: np.ndarray) -> Any:
    """Take an array apart for a pickle without its data."""
    if type(array) is not np.ndarray:  # a memmap: what is sent is no file
        array = array.view(np.ndarray)
    dtype = array.dtype
    if dtype.kind in "mM":  # which buffers do not know
        return np.ndarray.view, (array.view(np.int64), dtype)
    flags = array.flags
    if not (flags.c_contiguous or flags.f_contiguous):
        array = np.ascontiguousarray(array)
    if not _is_number(dtype):
        return array.__reduce_ex__(5)
    order = "C" if array.flags.c_contiguous else "F"
    buffer = pickle.PickleBuffer(array.data)
    return _restore, (buffer, array.shape, dtype.str, order)


def _restore(buffer: Any, shape: Any, dtype: str, order: Any) -> np.ndarray:
    return np.ndarray(shape, dtype, buffer, order=order)


class _Reducers(dict[type, Callable[[Any], Any]]):
    """Our own, and those that are registered, now or later."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        return copyreg.dispatch_table[kind]


_REDUCERS = _Reducers({np.ndarray: _reduce, np.memmap: _reduce})


class Packer:
    """Turns packages into bytes; not for several threads at once."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._pickler = pickle.Pickler(
            self._file, protocol=5, buffer_callback=self._buffers.append
        )
        self._pickler.dispatch_table = _REDUCERS

    def pack(self, kind: int, package: object) -> list[bytes | memoryview]:
        """Turn a package into bytes and views of its arrays.

        Args:
            kind: A small number that comes back in the `Header`.
            package: Any nesting of arrays and small objects.

        Returns:
            What is to be sent, in order. Views are of the arrays themselves:
            send them before those can change.
        """
        if (array := _plain(package)) is not None:
            return [_pack_plain(kind, array)]
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
        used = 8 * len(sizes) + len(pickled)
        head_size = _aligned(used)
        size = head_size + sum(map(_aligned, sizes))
        parts: list[bytes | memoryview] = [
            _HEADER.pack(
                kind, len(sizes), head_size if size <= SMALL else used, size
            ),
            struct.pack(f"<{len(sizes)}Q", *sizes),
            pickled,
        ]
        if size > SMALL:
            return [b"".join(parts), *views]
        parts.append(_NOTHING[: head_size - used])
        for view in views:
            parts += view, _NOTHING[: _aligned(len(view)) - len(view)]
        return [b"".join(parts)]


def _plain(package: object) -> np.ndarray | None:
    """Give a small array of numbers in C order; None for all else."""
    if (
        type(package) is not np.ndarray
        or not _is_number(package.dtype)
        or package.nbytes > SMALL // 2
    ):
        return None
    flags = package.flags
    if not flags.writeable:  # and to stay so
        return None
    if flags.c_contiguous:
        return package
    return None if flags.f_contiguous else np.ascontiguousarray(package)


def _pack_plain(kind: int, array: np.ndarray) -> bytes:
    shape = array.shape
    used = _PLAIN_HEAD.size + 8 * len(shape)
    head_size = _aligned(used)
    return b"".join(
        (
            _HEADER.pack(kind, _PLAIN, head_size, head_size + array.nbytes),
            _PLAIN_HEAD.pack(array.dtype.str.encode(), len(shape)),
            struct.pack(f"<{len(shape)}Q", *shape),
            _NOTHING[: head_size - used],
            array.data,
        )
    )


def _unpack_plain(header: Header, body: memoryview) -> np.ndarray:
    dtype, num_dims = _PLAIN_HEAD.unpack_from(body)
    shape = struct.unpack_from(f"<{num_dims}Q", body, _PLAIN_HEAD.size)
    name = dtype.rstrip(b"\0").decode()
    return np.ndarray(shape, name, body, header.head_size)


def array_sizes(header: Header, head: memoryview) -> tuple[int, ...]:
    """Read the sizes of the arrays' data."""
    end = 8 * header.num_arrays
    return struct.unpack(f"<{header.num_arrays}Q", head[:end])


class Taken(NamedTuple):
    """All bytes of a package.

    Attributes:
        header: Its header.
        body: Sizes and pickle; of a small package all of it.
        arrays: The data of each array, where it is not in `body`.
    """

    header: Header
    body: memoryview
    arrays: list[memoryview] | None = None

    def unpack(self) -> Any:
        """Make the package again; its arrays keep these bytes."""
        header, body, arrays = self
        if header.num_arrays == _PLAIN:
            return _unpack_plain(header, body)
        if arrays is None:
            arrays = list(_split(header, body))
        pickled = body[8 * header.num_arrays : header.head_size]
        # What crosses is from the same program, on the same machine.
        return pickle.loads(pickled, buffers=arrays)  # noqa: S301


def _split(header: Header, body: memoryview) -> Iterator[memoryview]:
    begin = header.head_size
    for size in array_sizes(header, body):
        yield body[begin : begin + size]
        begin += _aligned(size)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
