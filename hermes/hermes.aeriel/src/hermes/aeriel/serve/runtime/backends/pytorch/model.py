"""Serve TorchScript on the CPU, as Triton's own pytorch backend does."""

from hermes_model import Model  # type: ignore[import-not-found]
from hermes_torchscript import (  # type: ignore[import-not-found]
    TorchScript,
)

__all__ = ("TritonPythonModel",)


class TritonPythonModel(Model):  # type: ignore[misc]
    """One instance of one TorchScript module."""

    make_runner = TorchScript
    filename = "model.pt"
