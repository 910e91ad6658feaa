"""Modules that need an extra: imported late, and named when missing."""

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hermes.quiver.errors import MissingExtra

__all__ = ("apart_from_triton", "load", "load_if_there")

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


@contextmanager
def apart_from_triton(
    modules: MutableMapping[str, Any] = sys.modules,
) -> Iterator[None]:
    """Keep torch from importing OpenAI's ``triton`` after TensorFlow.

    Both bring an LLVM, and the second one ends the process. The other way
    round they get along, and torch exports without it.
    """
    clash = "tensorflow" in modules and "triton" not in modules
    if clash:
        modules["triton"] = None  # as if it were not installed
    try:
        yield
    finally:
        if clash:
            del modules["triton"]
