"""TensorFlow and tf2onnx, imported without what they say meanwhile.

The only importer of both.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

from hermes.quiver.exporters._quiet import Heard, quiet

_LOGGERS = ("absl", "tensorflow", "tf2onnx")
# What TensorFlow's C++ begins its lines with: a date, or the level's letter.
_CHATTER = re.compile(
    rb"\d{4}-\d\d-\d\d [\d:.]+: [IW] |[IW]\d{4} [\d:.]+ |"
    rb"WARNING: All log messages before absl::InitializeLog|"
    rb"To enable the following instructions: "
)
# It takes for an error, too, that a machine has no GPU.
_ERRORS = re.compile(rb"\d{4}-\d\d-\d\d [\d:.]+: E |E\d{4} [\d:.]+ ")


def quietly() -> AbstractContextManager[Heard]:
    """Keep to itself what TensorFlow and tf2onnx say; see `quiet`."""
    return quiet(_LOGGERS, is_chatter)


def is_chatter(line: bytes, failed: bool) -> bool:
    """Whether a line is TensorFlow's, and nothing that tells of a failure."""
    return bool(_CHATTER.match(line) or (not failed and _ERRORS.match(line)))


@contextlib.contextmanager
def _environment_kept(name: str) -> Iterator[None]:
    value = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


# tf2onnx would set the level for TensorFlow, and for all child processes.
with quietly(), _environment_kept("TF_CPP_MIN_LOG_LEVEL"):
    import tensorflow as tf
    import tf2onnx.convert

__all__ = ("is_chatter", "quietly", "tf", "tf2onnx")
