"""Run ONNX artifacts in this process (extra ``verify``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from hermes.quiver.exporters._types import Arrays, Session
from hermes.quiver.platforms import Platform

__all__ = ("open_artifact", "open_session")


def open_artifact(files: Mapping[str, bytes]) -> Session:
    """Load the ONNX artifact among a version's files."""
    return open_session(files[Platform.ONNX.filename])


def open_session(content: bytes) -> Session:
    """Load an ONNX artifact.

    Args:
        content: The file's content.

    Returns:
        A function of the names of outputs and of the inputs, which gives the
        outputs.
    """
    session = onnxruntime.InferenceSession(
        content, providers=["CPUExecutionProvider"]
    )

    def run(names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
        # onnxruntime sums in an order that depends on where the memory
        # begins, modulo 16 bytes: a view gives other last bits than an array.
        arrays = {name: np.array(array) for name, array in feeds.items()}
        return [np.asarray(array) for array in session.run(names, arrays)]

    return run
