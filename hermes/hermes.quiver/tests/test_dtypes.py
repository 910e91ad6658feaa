"""One dtype, three spellings."""

import numpy as np
import pytest
from onnx import TensorProto

from hermes.quiver import dtypes
from hermes.quiver.errors import DtypeMismatch

TRITON = [
    "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64",
    "TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16",
    "TYPE_FP32", "TYPE_FP64", "TYPE_BF16", "TYPE_STRING",
]  # fmt: skip


@pytest.mark.parametrize("name", TRITON)
def test_every_type_of_triton_comes_back(name) -> None:
    dtype = dtypes.from_triton(name)
    assert dtypes.to_triton(dtype) == name
    assert dtypes.from_onnx(dtypes.to_onnx(dtype)) == dtype


def test_text_is_a_string_however_long() -> None:
    assert dtypes.to_triton("S8") == dtypes.to_triton(str) == "TYPE_STRING"


def test_what_triton_lacks_is_refused() -> None:
    with pytest.raises(
        DtypeMismatch, match="no data type for numpy's complex"
    ):
        dtypes.to_triton(np.complex64)
    with pytest.raises(
        DtypeMismatch, match="TYPE_INVALID is none of Triton's"
    ):
        dtypes.from_triton("TYPE_INVALID")
    with pytest.raises(DtypeMismatch, match="no data type for ONNX's COMPLEX"):
        dtypes.from_onnx(TensorProto.COMPLEX128)
