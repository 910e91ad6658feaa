"""One dtype, two spellings: numpy's and the wire's.

numpy has no bfloat16. What was received is given as float32, which holds
every BF16 number exactly; what is sent is an array of two raw bytes per
number, dtype ``V2``.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.errors import (
    DtypeMismatch,
    InferenceError,
    UnsupportedModel,
)

__all__ = (
    "RAW_BF16",
    "decode",
    "encode",
    "from_bfloat16",
    "from_triton",
    "is_bfloat16",
    "to_bfloat16",
    "to_wire",
    "wire_name",
)

#: Dtype of BF16 numbers that are ready to be sent.
RAW_BF16 = np.dtype("V2")

_NUMPY_OF_WIRE = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    # bytes of any length, in an object array
    "BYTES": np.dtype(np.object_),
}
_WIRE_OF_NUMPY = {dtype: name for name, dtype in _NUMPY_OF_WIRE.items()}
_WIRE_OF_NUMPY[RAW_BF16] = "BF16"
_NUMPY_OF_WIRE["BF16"] = np.dtype(np.float32)

_LENGTH = struct.Struct("<I")
_QUIET = 0x40  # the bit that makes a BF16 a NaN rather than an infinity


def wire_name(name: str) -> str:
    """Translate a configuration's ``"TYPE_FP32"`` into ``"FP32"``."""
    return {"TYPE_STRING": "BYTES"}.get(name, name.removeprefix("TYPE_"))


def from_triton(name: str) -> np.dtype:
    """Translate a configuration's ``"TYPE_FP32"`` into a numpy dtype.

    ``"TYPE_BF16"`` is float32: what its numbers are given as.

    Raises:
        UnsupportedModel: If numpy has no such dtype.
    """
    try:
        return _NUMPY_OF_WIRE[wire_name(name)]
    except KeyError:
        msg = f"numpy has no dtype for Triton's {name}"
        raise UnsupportedModel(msg) from None


def to_wire(dtype: np.dtype) -> str:
    """Translate a numpy dtype into a request's ``"FP32"``.

    Raises:
        DtypeMismatch: If Triton has no such dtype.
    """
    name = _WIRE_OF_NUMPY.get(dtype) or _WIRE_OF_NUMPY.get(
        dtype.newbyteorder("=")
    )
    if name is None:
        msg = f"Triton has no dtype for numpy's {dtype}"
        raise DtypeMismatch(msg)
    return name


def encode(array: npt.NDArray[Any]) -> bytes:
    """The bytes of an array, as Triton wants them.

    One copy, whatever the array's order in memory; one more where its bytes
    have the other order. An object array holds str and bytes only.
    """
    if array.dtype != np.object_:
        little = array.dtype.newbyteorder("<")
        return array.astype(little, copy=False).tobytes()
    items = [
        item.encode() if isinstance(item, str) else item
        for item in array.ravel().tolist()
    ]
    lengths = map(_LENGTH.pack, map(len, items))
    pairs = zip(lengths, items, strict=True)
    return b"".join(chain.from_iterable(pairs))


def decode(
    content: bytes | bytearray | memoryview,
    wire: str,
    shape: tuple[int, ...],
) -> npt.NDArray[Any]:
    """The array that Triton sent as these bytes; writable.

    It shares memory with a content that is writable, as long as that is
    aligned; one that is not is copied once.

    Raises:
        UnsupportedModel: If numpy has no such dtype.
        InferenceError: If these are not the bytes of such an array.
    """
    dtype = from_triton(wire)
    try:
        if wire == "BYTES":
            return _strings(bytes(content)).reshape(shape)
        if wire == "BF16":
            raw = np.frombuffer(content, "<u2").view(RAW_BF16)
            return from_bfloat16(raw).reshape(shape)
        buffer = content
        if memoryview(content).readonly:
            buffer = bytearray(content)
        array = np.frombuffer(buffer, dtype.newbyteorder("<")).reshape(shape)
    except (ValueError, struct.error) as error:
        msg = (
            f"the server sent {memoryview(content).nbytes} bytes that are no"
            f" {wire} of shape {shape}: {error}"
        )
        raise InferenceError(msg) from error
    return array if array.flags.aligned else array.copy()


def _strings(content: bytes) -> npt.NDArray[Any]:
    found = []
    position, end = 0, len(content)
    read = _LENGTH.unpack_from
    while position < end:
        begin = position + 4
        position = begin + read(content, position)[0]
        found.append(content[begin:position])
    if position != end:
        msg = "the last item is cut off"
        raise ValueError(msg)
    return np.fromiter(found, np.object_, len(found))


def from_bfloat16(raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """BF16 numbers as float32, exactly.

    Args:
        raw: Two bytes per number, ``RAW_BF16``.
    """
    bits = np.ascontiguousarray(raw).view("<u2").astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32).reshape(raw.shape)


def to_bfloat16(array: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
    """Round to the nearest BF16 numbers, ties to even.

    Args:
        array: float16, float32 or float64.

    Returns:
        Two bytes per number, ``RAW_BF16``. NaN and infinities stay what they
        are; numbers beyond the largest BF16 become infinite.
    """
    bits = _single(array.reshape(-1)).view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))
    # Adding may carry a NaN into the sign, and cutting may make it infinite.
    nan = np.isnan(array.reshape(-1))
    rounded[nan] = bits[nan] | (_QUIET << 16)
    raw = (rounded >> 16).astype("<u2").view(RAW_BF16)
    return raw.reshape(array.shape)


def _single(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """As float32 such that rounding again gives what rounding once would.

    What is cut off is remembered in the last bit (round to odd); that bit
    alone never decides a BF16, it only breaks ties.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = np.array(array, np.float32, order="C", copy=None)
    if array.dtype.itemsize <= single.dtype.itemsize:
        return single
    bits = single.view(np.uint32)
    bits -= np.abs(single) > np.abs(array)
    bits |= bits.view(np.float32) != array
    return single


def is_bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which float32 numbers BF16 holds exactly; every NaN counts as one."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    return np.asarray(((bits & 0xFFFF) == 0) | np.isnan(array))
