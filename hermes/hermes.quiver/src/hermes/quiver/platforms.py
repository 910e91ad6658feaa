"""What Triton can execute, in its own spelling."""

from enum import StrEnum

__all__ = ("Platform",)


class Platform(StrEnum):
    """The kind of artifact that a model of the repository holds.

    The values are Triton's ``platform`` strings; for Python models, which
    have none, the name of the backend.
    """

    ONNX = "onnxruntime_onnx"
    TORCHSCRIPT = "pytorch_libtorch"
    TENSORRT = "tensorrt_plan"
    SAVEDMODEL = "tensorflow_savedmodel"
    PYTHON = "python"
    ENSEMBLE = "ensemble"

    @property
    def filename(self) -> str:
        """Name of the artifact inside a version's directory."""
        return _FILENAMES[self]


_FILENAMES = {
    Platform.ONNX: "model.onnx",
    Platform.TORCHSCRIPT: "model.pt",
    Platform.TENSORRT: "model.plan",
    Platform.SAVEDMODEL: "model.savedmodel",  # a directory
    Platform.PYTHON: "model.py",
    # Triton wants a version directory of an ensemble too, and object stores
    # have no empty directories.
    Platform.ENSEMBLE: "model.empty",
}
