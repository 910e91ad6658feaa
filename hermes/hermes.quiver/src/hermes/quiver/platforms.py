"""What Triton can execute, in its own spelling."""

from __future__ import annotations

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

    @classmethod
    def of(cls, platform: str, backend: str = "") -> Platform | str:
        """The platform of a configuration, by either of its two fields.

        Returns:
            The platform; Triton's own string if quiver knows no such.
        """
        name = platform or _OF_BACKENDS.get(backend, backend)
        return cls(name) if name in {*cls} else name

    @property
    def filename(self) -> str:
        """Name of the artifact inside a version's directory."""
        return _FILENAMES[self]


# Configurations of today name the backend instead. That of TensorFlow loads
# other files, too; nothing else is made for it.
_OF_BACKENDS = {
    "onnxruntime": Platform.ONNX,
    "pytorch": Platform.TORCHSCRIPT,
    "tensorflow": Platform.SAVEDMODEL,
    "tensorrt": Platform.TENSORRT,
}
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
