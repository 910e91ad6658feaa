"""Serve ONNX models on the CPU, as Triton's own onnxruntime backend does."""

from hermes_graph import Graph  # type: ignore[import-not-found]
from hermes_model import Model  # type: ignore[import-not-found]

__all__ = ("TritonPythonModel",)


class TritonPythonModel(Model):  # type: ignore[misc]
    """One instance of one ONNX model."""

    make_runner = Graph
    filename = "model.onnx"
