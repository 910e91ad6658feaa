"""TensorFlow and tf2onnx, imported without what they say meanwhile.

The only importer of both.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from hermes.quiver.exporters._noise import environment_kept, quiet

_LOGGERS = ("absl", "tensorflow", "tf2onnx")

# tf2onnx would set the level for TensorFlow, and for all child processes.
with quiet(_LOGGERS), environment_kept("TF_CPP_MIN_LOG_LEVEL"):
    import tensorflow as tf
    import tf2onnx.convert

__all__ = ("quietly", "tf", "tf2onnx")


def quietly() -> AbstractContextManager[list[logging.LogRecord]]:
    """Keep to itself what TensorFlow and tf2onnx say; see `quiet`."""
    return quiet(_LOGGERS)
