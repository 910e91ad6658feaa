"""From a network in memory to the files of an artifact.

One module per source framework. The table says which function of which takes
a network to a platform; it is imported only when it is needed. Each is
``to_PLATFORM(network, request) -> Artifact``; a new framework is one module
and its rows. ``unchanged(network)``, where a module has it, undoes what the
runs of a network do to what it remembers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from hermes.quiver._extras import apart_from_triton, load, load_if_there
from hermes.quiver.errors import InvalidInput, UnsupportedExport
from hermes.quiver.exporters._compare import compare
from hermes.quiver.exporters._inputs import check_entries
from hermes.quiver.exporters._types import Artifact, Request, TensorInfo
from hermes.quiver.platforms import Platform

__all__ = ("Artifact", "Request", "TensorInfo", "export", "find")

# (source, platform) -> module of this package, and its function. A source is
# the package that the network's class, or one of its bases, comes from, or
# what no package can be called.
_EXPORTERS = {
    ("torch", Platform.ONNX): ("torch", "to_onnx"),
    ("torch", Platform.TORCHSCRIPT): ("torch", "to_torchscript"),
    ("onnx", Platform.ONNX): ("onnx", "to_onnx"),
    ("a file", Platform.ONNX): ("onnx", "to_onnx"),
    ("a model", Platform.ONNX): ("onnx", "to_onnx"),
    ("a file", Platform.PYTHON): ("python", "to_python"),
    ("a class", Platform.PYTHON): ("python", "to_python"),
    ("keras", Platform.ONNX): ("keras", "to_onnx"),
    ("keras", Platform.SAVEDMODEL): ("keras", "to_savedmodel"),
    ("tensorflow", Platform.ONNX): ("tensorflow", "to_onnx"),
    ("tensorflow", Platform.SAVEDMODEL): ("tensorflow", "to_savedmodel"),
    # What goes to ONNX goes on from there.
    ("torch", Platform.TENSORRT): ("tensorrt", "to_tensorrt"),
    ("keras", Platform.TENSORRT): ("tensorrt", "to_tensorrt"),
    ("tensorflow", Platform.TENSORRT): ("tensorrt", "to_tensorrt"),
    ("onnx", Platform.TENSORRT): ("tensorrt", "to_tensorrt"),
    ("a file", Platform.TENSORRT): ("tensorrt", "to_tensorrt"),
    ("a model", Platform.TENSORRT): ("tensorrt", "to_tensorrt"),
}
_MODELS = "hermes.quiver.models"


def export(
    network: Any, platform: Platform | str, request: Request
) -> Artifact:
    """Export a network, and check the artifact against it.

    Args:
        network: What to export.
        platform: What will execute the artifact.
        request: How to export it.

    Raises:
        UnsupportedExport: If the table has no row for it.
        MissingExtra: If an extra is not installed.
        InvalidInput: If the request does not fit the network.
        VerificationFailed: If artifact and network disagree.
    """
    _check_names("input_names", request.input_names)
    _check_names("output_names", request.output_names)
    check_entries(request)
    with apart_from_triton():
        exporter = find(network, platform)
    # Not each run by itself: the comparison is to find what remembers.
    with _unchanged(exporter, network):
        with apart_from_triton():
            artifact = exporter(network, request)
        if request.verify is not False and artifact.reference is not None:
            _verify(artifact, request)
    return artifact


def find(
    network: Any, platform: Platform | str
) -> Callable[[Any, Request], Artifact]:
    """The function that exports such a network to the platform.

    Raises:
        UnsupportedExport: If there is none.
        MissingExtra: If its extra is not installed.
    """
    for source in _sources(network):
        if (source, platform) in _EXPORTERS:
            module, function = _EXPORTERS[source, Platform(platform)]
            found: Callable[[Any, Request], Artifact] = getattr(
                load(f"{__name__}.{module}"), function
            )
            return found
    raise UnsupportedExport(_unsupported(network, platform))


def _check_names(what: str, names: Any) -> None:
    if names is None:
        return
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    if (
        not is_list
        or not all(isinstance(name, str) and name for name in names)
        or len({*names}) < len(names)
    ):
        msg = f"{what}={names!r}: give a list of names, each its own"
        raise InvalidInput(msg)


def _unchanged(
    exporter: Callable[[Any, Request], Artifact], network: Any
) -> AbstractContextManager[None]:
    """Give a network back what its runs change, if its exporter knows how."""
    module = sys.modules[exporter.__module__]
    unchanged: AbstractContextManager[None] = getattr(
        module, "unchanged", nullcontext
    )(network)
    return unchanged


def _unsupported(network: Any, platform: Platform | str) -> str:
    target = getattr(platform, "name", platform)
    known: dict[str, list[str]] = {}
    for source, possible in _EXPORTERS:
        known.setdefault(source, []).append(possible.name)
    rows = "; ".join(
        f"{source} -> {', '.join(names)}" for source, names in known.items()
    )
    if isinstance(network, type):
        name = network.__qualname__
        what = f"the class {name} (meant was {name}()?)"
    else:
        kind = type(network)
        what = f"a {kind.__module__}.{kind.__qualname__}"
    return f"no exporter takes {what} to {target}; there are: {rows}"


def _sources(network: Any) -> list[str]:
    if isinstance(network, str | os.PathLike):
        return ["a file"]
    if isinstance(network, type):
        return ["a class"]
    modules = [c.__module__ for c in type(network).__mro__]
    return ["a model"] * (_MODELS in modules) + [
        module.split(".")[0] for module in modules
    ]


def _verify(artifact: Artifact, request: Request) -> None:
    runtime = load_if_there(artifact.runtime, required=request.verify is True)
    if runtime is not None:
        session = runtime.open_artifact(artifact.files)
        compare(artifact, session, request.max_batch_size)
