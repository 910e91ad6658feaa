"""What Triton can execute, in its own spelling."""

from enum import StrEnum

__all__ = ("Platform",)


class Platform(StrEnum):
    """The kind of artifact that a model of the repository holds.

    The values are Triton's ``platform`` strings.
    """

    ONNX = "onnxruntime_onnx"
    ENSEMBLE = "ensemble"

    @property
    def filename(self) -> str:
        """Name of the artifact inside a version's directory."""
        return _FILENAMES[self]


_FILENAMES = {
    Platform.ONNX: "model.onnx",
    # Triton wants a version directory of an ensemble too, and object stores
    # have no empty directories.
    Platform.ENSEMBLE: "model.empty",
}
