"""Tensors on the wire, as tritonclient spells them.

Not with the client's own module: a fake that shares its errors finds none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from hermes.aeriel.testing._errors import InvalidFake

__all__ = ("decode", "encode", "size", "to_numpy", "to_wire")

# numpy has no such dtype: two raw bytes each
_BF16 = np.dtype("V2")


def to_wire(dtype: Any) -> str:
    """A request's ``"FP32"`` for it or for numpy's dtype.

    Raises:
        InvalidFake: If it is neither.
    """
    if isinstance(dtype, str) and triton_to_np_dtype(dtype) is not None:
        return dtype
    try:
        found = np.dtype(dtype)
        wire = "BF16" if found == _BF16 else np_to_triton_dtype(found)
    except TypeError:
        wire = None
    if wire is None:
        raise InvalidFake(f"{dtype!r} is no dtype of Triton's or numpy's")
    return str(wire)


def to_numpy(wire: str) -> np.dtype:
    """Numpy's dtype for a request's ``"FP32"``."""
    return _BF16 if wire == "BF16" else np.dtype(triton_to_np_dtype(wire))


def size(wire: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor; None if its shape does not say."""
    if wire == "BYTES":
        return None
    return to_numpy(wire).itemsize * int(np.prod(shape, dtype=np.int64))


def encode(array: npt.NDArray[Any]) -> bytes:
    """The bytes of an array."""
    if to_wire(array.dtype) != "BYTES":
        return array.tobytes()
    items = (i.encode() if isinstance(i, str) else i for i in array.flat)
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def decode(
    content: bytes, wire: str, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The array that these bytes are; writable."""
    if wire != "BYTES":
        return np.frombuffer(bytearray(content), to_numpy(wire)).reshape(shape)
    array = np.empty(shape, np.object_)
    array.flat[:] = list(_split(content))
    return array


def _split(content: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from("<I", content, position)
        position += 4
        yield content[position : position + length]
        position += length
