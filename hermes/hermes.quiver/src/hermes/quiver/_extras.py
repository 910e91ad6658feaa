"""Modules that need an extra: imported late, and named when missing."""

from importlib import import_module
from typing import Any

from hermes.quiver.errors import MissingExtra

__all__ = ("load", "load_if_there")

# A dependency that is missing -> the extra that brings it.
_EXTRAS = {
    "keras": "tensorflow",
    "onnxruntime": "verify",
    "onnxscript": "torch",
    "tensorflow": "tensorflow",
    "tf2onnx": "tensorflow",
    "torch": "torch",
}


def load(module: str) -> Any:
    """Import a module of ours that needs an extra.

    Raises:
        MissingExtra: If the extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(str(error.name).split(".")[0])
        if extra is None:
            raise
        msg = (
            f"{error.name} is not installed; it comes with hermes-quiver's"
            f" extra {extra!r}"
        )
        raise MissingExtra(msg) from error


def load_if_there(module: str, *, required: bool) -> Any | None:
    """Import a module of ours, or give None where its extra is missing.

    Raises:
        MissingExtra: If the extra is not installed, and required.
    """
    try:
        return load(module)
    except MissingExtra:
        if required:
            raise
        return None
