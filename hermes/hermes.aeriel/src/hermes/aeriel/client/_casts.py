"""From an array's dtype to the one that a tensor is sent as; pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel import dtypes
from hermes.aeriel.errors import DtypeMismatch
from hermes.aeriel.specs import TensorSpec

__all__ = ("to_sendable",)

Array = npt.NDArray[Any]


def to_sendable(tensor: TensorSpec, array: Array, *, cast: bool) -> Array:
    """Check an array's dtype, and bring it into that of the wire.

    Without ``cast`` no value changes: the dtype is the tensor's own, in any
    byte order; BF16 takes bfloat16 arrays, and float32 whose every value it
    holds exactly; bytes takes str, bytes, and objects that are either. With
    ``cast`` numbers become other numbers, as long as that loses nothing but
    precision:

    * to floating point, to the nearest number, ties to even; not beyond the
      largest one;
    * to integers, if every value is a whole number that fits;
    * to bool, what is not zero is True.

    Text is never a number, and complex numbers are none that Triton has.

    Raises:
        DtypeMismatch: If it cannot be; names the first such value.
    """
    if tensor.datatype == "BYTES":
        return _text(tensor, array)
    if tensor.datatype == "BF16":
        return _bfloat16(tensor, array, cast=cast)
    if array.dtype == tensor.dtype:
        return array
    if array.dtype.newbyteorder("=") == tensor.dtype:
        return array.astype(tensor.dtype)
    if not cast or not _is_number(array):
        raise _mismatch(tensor, array)
    if _is_bfloat16(array):
        array = dtypes.from_bfloat16(array)
    kind = tensor.dtype.kind
    to: Callable[[TensorSpec, Array], Array] = (
        _to_float if kind == "f" else _to_integer
    )
    return array.astype(np.bool_) if kind == "b" else to(tensor, array)


def _text(tensor: TensorSpec, array: Array) -> Array:
    if array.dtype.kind in "SUT":
        array = array.astype(np.object_)
    if array.dtype != np.object_:
        raise _mismatch(tensor, array)
    items = array.ravel().tolist()
    if all(issubclass(t, (str, bytes)) for t in {*map(type, items)}):
        return array
    place, item = next(
        (i, item)
        for i, item in enumerate(items)
        if not isinstance(item, (str, bytes))
    )
    index = tuple(map(int, np.unravel_index(place, array.shape)))
    msg = (
        f"{tensor.name!r} has {item!r} at {index}, but the model takes bytes:"
        " give str or bytes"
    )
    raise DtypeMismatch(msg)


def _bfloat16(tensor: TensorSpec, array: Array, *, cast: bool) -> Array:
    if _is_bfloat16(array):
        return array.view(dtypes.RAW_BF16)
    if cast and _is_number(array):
        wide = array if array.dtype.kind == "f" else array.astype(np.float64)
        raw = dtypes.to_bfloat16(wide.astype(_native(wide), copy=False))
        _check_finite(tensor, array, dtypes.from_bfloat16(raw))
        return raw
    if _native(array) != np.float32:
        raise _mismatch(tensor, array)
    array = array.astype(np.float32, copy=False)
    exact = dtypes.is_bfloat16(array)
    if not exact.all():
        cure = "cast=True rounds to nearest even"
        why = f"which is not exactly a bfloat16; {cure}"
        raise _refusal(tensor, array, ~exact, why)
    return dtypes.to_bfloat16(array)


def _native(array: Array) -> np.dtype:
    return array.dtype.newbyteorder("=")


def _is_bfloat16(array: Array) -> bool:
    # Known by its name: numpy has none, and who gives one has the library.
    return array.dtype.kind == "V" and (
        array.dtype == dtypes.RAW_BF16 or array.dtype.name == "bfloat16"
    )


def _is_number(array: Array) -> bool:
    return array.dtype.kind in "biuf" or _is_bfloat16(array)


def _to_float(tensor: TensorSpec, array: Array) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = array.astype(tensor.dtype)
    _check_finite(tensor, array, found)
    return found


def _check_finite(tensor: TensorSpec, array: Array, found: Array) -> None:
    too_large = np.isinf(found) & np.isfinite(array)
    if too_large.any():
        why = f"beyond the largest {tensor.datatype}"
        raise _refusal(tensor, array, too_large, why)


def _to_integer(tensor: TensorSpec, array: Array) -> Array:
    limits = np.iinfo(tensor.dtype)
    if array.dtype.kind == "b":
        return array.astype(tensor.dtype)
    if array.dtype.kind in "iu":
        fits = (array >= limits.min) & (array <= limits.max)
    else:
        # A power of two, which the limit itself may not be: exact.
        wide = array.astype(np.result_type(array, np.float64), copy=False)
        end = float(int(limits.max) + 1)
        fits = (wide == np.trunc(wide)) & (wide >= float(limits.min))
        fits &= wide < end
    if not fits.all():
        why = f"which is no {tensor.dtype}"
        raise _refusal(tensor, array, ~fits, why)
    return array.astype(tensor.dtype)


def _refusal(
    tensor: TensorSpec, array: Array, bad: Array, why: str
) -> DtypeMismatch:
    index = tuple(map(int, np.argwhere(bad)[0]))
    msg = f"{tensor.name!r} has {array[index]} at {index}, {why}"
    return DtypeMismatch(msg)


def _mismatch(tensor: TensorSpec, array: Array) -> DtypeMismatch:
    takes = {"BYTES": "bytes", "BF16": "bfloat16"}.get(
        tensor.datatype, str(tensor.dtype)
    )
    cure = ""
    if tensor.datatype == "BYTES":
        cure = ": give str or bytes"
    elif _is_number(array):
        cure = (
            f": convert it with .astype(np.{tensor.dtype}), or give cast=True"
        )
    msg = f"{tensor.name!r} is {array.dtype}, but the model takes {takes}"
    return DtypeMismatch(msg + cure)
