"""Run ONNX artifacts in this process (extra ``verify``)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from hermes.quiver import dtypes
from hermes.quiver.errors import VerificationFailed
from hermes.quiver.exporters._types import Arrays, Session
from hermes.quiver.platforms import Platform

__all__ = ("open_artifact", "open_session")

# onnxruntime's own arrays of it are the only ones that it takes and gives.
_BFLOAT16 = dtypes.from_triton("TYPE_BF16")
_SILENT = 4


def open_artifact(files: Mapping[str, bytes]) -> Session:
    """Load the ONNX artifact among a version's files.

    Raises:
        VerificationFailed: If onnxruntime cannot run it on a CPU.
    """
    return open_session(files[Platform.ONNX.filename])


def open_session(content: bytes) -> Session:
    """Load an ONNX artifact.

    Args:
        content: The file's content.

    Returns:
        A function of the names of outputs and of the inputs, which gives the
        outputs.

    Raises:
        VerificationFailed: If onnxruntime cannot run it on a CPU; the
            function raises it too.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT  # what it says is in its errors
    with _translated():
        session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def run(names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
        # onnxruntime sums in an order that depends on where the memory
        # begins, modulo 16 bytes: a view gives other last bits than an array.
        values = {name: _value(np.array(a)) for name, a in feeds.items()}
        with _translated():
            outputs = session.run_with_ort_values(list(names), values)
        return [_array(output) for output in outputs]

    return run


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's have no base of their own
        reason = str(error).strip().splitlines()[0]
        msg = (
            f"onnxruntime cannot run the artifact on a CPU: {reason};"
            " verify=False exports it unchecked"
        )
        raise VerificationFailed(msg) from error


def _value(array: npt.NDArray[Any]) -> Any:
    if array.dtype == _BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint16), dtypes.to_onnx(_BFLOAT16)
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> npt.NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    size = value.tensor_size_in_bytes()
    content = ctypes.string_at(value.data_ptr(), size)
    return np.frombuffer(content, _BFLOAT16).reshape(value.shape())
