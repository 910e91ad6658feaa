"""Triton's tensors as numpy arrays and back, with numpy 1 and numpy 2.

Triton's stubs were built with numpy 1. With numpy 2, which Python 3.13 needs,
their ``as_numpy()`` returns the first element everywhere and ``Tensor()`` an
empty tensor, both silently. What remains is DLPack, where the stub and numpy
disagree on the name of a used capsule: numpy would print an error for every
tensor. So the capsules are made here, and have nothing to do when they die.
DLPack has no text, which therefore needs numpy 1.
"""

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from hermes_states import (  # type: ignore[import-not-found]
    Array,
    LoadError,
)

__all__ = ("check_types", "from_triton", "to_triton")

_NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"


def check_types(tensors: Iterable[Any]) -> None:
    """Refuse tensors that cannot pass between Triton and numpy.

    Raises:
        LoadError: If there is text, and numpy is of version 2.
    """
    for tensor in tensors:
        if tensor.data_type == "TYPE_STRING" and not _NUMPY_1:
            raise LoadError(
                f"tensor '{tensor.name}' is TYPE_STRING, which the local "
                "runtime serves with Python 3.11 or 3.12 only"
            )


def from_triton(tensor: Any, data_type: str) -> Array:
    """Return an input's array, which shares its memory.

    Args:
        tensor: Triton's tensor.
        data_type: Triton's name of its type.
    """
    if _NUMPY_1:
        found: Array = tensor.as_numpy()
        return found
    array: Array = np.from_dlpack(tensor)
    # DLPack had no booleans when the stub was written
    return array.view(np.bool_) if data_type == "TYPE_BOOL" else array


def to_triton(name: str, array: Array) -> Any:
    """Return an output's tensor.

    With numpy 2 the tensor refers to the array's memory until it is deleted.

    Args:
        name: Its name.
        array: Its value.
    """
    if _NUMPY_1:
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, _Exporter(array))


class _DLTensor(ctypes.Structure):
    _fields_ = [  # type: ignore[mutable-override]
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [  # type: ignore[mutable-override]
        ("tensor", _DLTensor),
        ("manager", ctypes.c_void_p),
        ("deleter", _Deleter),
    ]


_CPU = (1, 0)
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_CAPSULE_NAME = b"dltensor"

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

# What a tensor that Triton has not deleted yet refers to, by its address.
_exported: dict[int, Any] = {}


def _forget(address: int) -> None:
    _exported.pop(address, None)


_deleter = _Deleter(_forget)


class _Exporter:
    """An array as an object that DLPack's consumers take."""

    def __init__(self, array: Array) -> None:
        self._array = np.ascontiguousarray(array).reshape(array.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU

    def __dlpack__(self, **_: object) -> object:
        array = self._array
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        managed = _DLManagedTensor(
            _DLTensor(
                data=array.ctypes.data,
                device_type=_CPU[0],
                device_id=_CPU[1],
                ndim=array.ndim,
                code=_CODES[array.dtype.kind],
                bits=array.dtype.itemsize * 8,
                lanes=1,
                shape=shape,
            ),
            deleter=_deleter,
        )
        address = ctypes.addressof(managed)
        _exported[address] = (managed, shape, array)
        return _new_capsule(address, _CAPSULE_NAME, None)
