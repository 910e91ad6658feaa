"""Serve SavedModels on the CPU, as Triton's own tensorflow backend did."""

from hermes_model import Model  # type: ignore[import-not-found]
from hermes_savedmodel import (  # type: ignore[import-not-found]
    SavedModel,
)

__all__ = ("TritonPythonModel",)


class TritonPythonModel(Model):  # type: ignore[misc]
    """One instance of one SavedModel."""

    make_runner = SavedModel
    filename = "model.savedmodel"
    keeps_states = False
