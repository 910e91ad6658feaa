"""One dtype, three spellings: numpy's, Triton's and ONNX's."""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from hermes.quiver.errors import DtypeMismatch

__all__ = ("from_onnx", "from_triton", "to_onnx", "to_triton")

_ONNX_OF_TRITON = {
    "TYPE_BOOL": TensorProto.BOOL,
    "TYPE_UINT8": TensorProto.UINT8,
    "TYPE_UINT16": TensorProto.UINT16,
    "TYPE_UINT32": TensorProto.UINT32,
    "TYPE_UINT64": TensorProto.UINT64,
    "TYPE_INT8": TensorProto.INT8,
    "TYPE_INT16": TensorProto.INT16,
    "TYPE_INT32": TensorProto.INT32,
    "TYPE_INT64": TensorProto.INT64,
    "TYPE_FP16": TensorProto.FLOAT16,
    "TYPE_FP32": TensorProto.FLOAT,
    "TYPE_FP64": TensorProto.DOUBLE,
    "TYPE_BF16": TensorProto.BFLOAT16,
    "TYPE_STRING": TensorProto.STRING,
}
# numpy has no bfloat16 of its own: the one that ``onnx`` brings (ml_dtypes)
# is used; strings are object arrays.
_NUMPY_OF_TRITON = {
    triton: np.dtype(helper.tensor_dtype_to_np_dtype(code))
    for triton, code in _ONNX_OF_TRITON.items()
}
_TRITON_OF_NUMPY = {dtype: name for name, dtype in _NUMPY_OF_TRITON.items()}
_TRITON_OF_ONNX: dict[int, str] = {
    code: name for name, code in _ONNX_OF_TRITON.items()
}


def from_triton(name: str) -> np.dtype:
    """Translate Triton's ``"TYPE_FP32"`` into a numpy dtype.

    Raises:
        DtypeMismatch: If Triton has no such data type.
    """
    try:
        return _NUMPY_OF_TRITON[name]
    except KeyError:
        msg = (
            f"{name} is none of Triton's data types {sorted(_ONNX_OF_TRITON)}"
        )
        raise DtypeMismatch(msg) from None


def to_triton(dtype: npt.DTypeLike) -> str:
    """Translate a numpy dtype into Triton's ``"TYPE_FP32"``.

    Raises:
        DtypeMismatch: If Triton has no data type for it.
    """
    try:
        wanted = np.dtype(dtype)
    except TypeError as error:
        msg = f"{dtype!r} is no dtype; give numpy's, such as 'float32'"
        raise DtypeMismatch(msg) from error
    if wanted.kind in "SU":
        wanted = np.dtype(object)
    try:
        return _TRITON_OF_NUMPY[wanted]
    except KeyError:
        msg = (
            f"Triton has no data type for numpy's {wanted}; it has"
            f" {', '.join(map(str, _TRITON_OF_NUMPY))}"
        )
        raise DtypeMismatch(msg) from None


def from_onnx(code: int) -> np.dtype:
    """Translate ONNX's element type into a numpy dtype.

    Raises:
        DtypeMismatch: If Triton has no data type for it.
    """
    if code not in _TRITON_OF_ONNX:
        name = TensorProto.DataType.Name(code)
        msg = f"Triton has no data type for ONNX's {name}"
        raise DtypeMismatch(msg)
    return _NUMPY_OF_TRITON[_TRITON_OF_ONNX[code]]


def to_onnx(dtype: npt.DTypeLike) -> int:
    """Translate a numpy dtype into ONNX's element type.

    Raises:
        DtypeMismatch: If Triton has no data type for it.
    """
    return int(_ONNX_OF_TRITON[to_triton(dtype)])
