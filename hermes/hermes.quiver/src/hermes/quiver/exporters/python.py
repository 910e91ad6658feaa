"""A Python model, a file or the class in one -> Triton's Python backend."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path
from typing import Any

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Artifact, Request
from hermes.quiver.exporters.onnx import refuse_requests
from hermes.quiver.platforms import Platform

__all__ = ("to_python",)

_CLASS = "TritonPythonModel"
_COMPLETES = "auto_complete_config"


def to_python(network: Any, request: Request) -> Artifact:
    """Take a Python model's source file, whole, as it is.

    Args:
        network: Address of a file, with a class ``TritonPythonModel``; or a
            class of any name, whose file is taken.
        request: The declared inputs and outputs.

    Raises:
        InvalidInput: If Triton could not load such a file, or the
            configuration declares no inputs and outputs.
    """
    refuse_requests(request, "a Python model")
    if isinstance(network, str | os.PathLike):
        name, path = _CLASS, Path(network)
    else:
        name, path = network.__qualname__, _file_of(network)
    source, tree = _read(path)
    _check_imports(path, tree)
    if name != _CLASS:
        source += f"\n\n{_CLASS} = {name}\n"
    elif _CLASS not in _names(tree):
        msg = (
            f"{path} has no class {_CLASS}, by which Triton finds a model;"
            " name it so, or give the class instead of its file"
        )
        raise InvalidInput(msg)
    _check_declared(request, source)
    return Artifact(
        files={Platform.PYTHON.filename: source.encode()},
        inputs=request.inputs,
        outputs=request.outputs,
    )


def _file_of(network: type) -> Path:
    name = network.__qualname__
    reason = ""
    if network.__module__ == "__main__":
        reason = "is of the program itself, which the server would run"
    elif "." in name:
        reason = "is inside of something"
    try:
        file = inspect.getsourcefile(network)
    except TypeError:
        file = None
    if file is None or reason:
        msg = (
            f"the class {name} {reason or 'has no file'}; move it to a file"
            " of its own and give that, for the server runs the whole file"
        )
        raise InvalidInput(msg)
    return Path(file)


def _read(path: Path) -> tuple[str, ast.Module]:
    try:
        source = path.read_text(encoding="utf-8")
        return source, ast.parse(source)
    except (OSError, ValueError, SyntaxError) as error:
        msg = f"{path} cannot be read as Python: {error}"
        raise InvalidInput(msg) from error


def _check_imports(path: Path, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            msg = (
                f"{path}:{node.lineno} imports from beside it, and the server"
                " has only this file; install what it needs there"
            )
            raise InvalidInput(msg)


def _names(tree: ast.Module) -> set[str]:
    """What a file defines at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def _check_declared(request: Request, source: str) -> None:
    if (request.inputs and request.outputs) or _COMPLETES in source:
        return
    msg = (
        "nothing says what a Python model takes and gives; declare it first:"
        " model.config.add_input('x', (None, 2), 'float32') and"
        " model.config.add_output(...)"
    )
    raise InvalidInput(msg)
