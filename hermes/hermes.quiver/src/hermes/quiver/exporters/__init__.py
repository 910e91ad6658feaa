"""From a network in memory to the bytes of an artifact.

One module per source framework, found through one table and imported only
when it is needed. Each has a function
``export(network, request) -> Artifact``; a new framework is one module and
one row.
"""

from __future__ import annotations

from typing import Any

from hermes.quiver._extras import load, load_if_there
from hermes.quiver.errors import UnsupportedExport
from hermes.quiver.exporters._types import Artifact, Request, TensorInfo
from hermes.quiver.platforms import Platform

__all__ = ("Artifact", "Request", "TensorInfo", "export", "find")

# (package that the network's class comes from, platform) -> module
_EXPORTERS = {
    ("torch", Platform.ONNX): "hermes.quiver.exporters.torch",
    ("onnx", Platform.ONNX): "hermes.quiver.exporters.onnx",
}


def export(
    network: Any,
    platform: Platform | str,
    request: Request,
    *,
    verify: bool | None = None,
) -> Artifact:
    """Export a network, and check the artifact against it.

    Args:
        network: What to export.
        platform: What will execute the artifact.
        request: How to export it.
        verify: See `Model.export_version`.

    Raises:
        UnsupportedExport: If the table has no row for it.
        MissingExtra: If an extra is not installed.
        InvalidInput: If the request does not fit the network.
        VerificationFailed: If artifact and network disagree.
    """
    module = load(find(network, platform))
    artifact: Artifact = module.export(network, request)
    if verify is not False and artifact.reference is not None:
        _verify(artifact, required=verify is True)
    return artifact


def find(network: Any, platform: Platform | str) -> str:
    """Name of the module that exports such a network to the platform.

    Raises:
        UnsupportedExport: If there is none.
    """
    packages = [c.__module__.split(".")[0] for c in type(network).__mro__]
    for package in packages:
        if (package, platform) in _EXPORTERS:
            return _EXPORTERS[package, Platform(platform)]
    known = ", ".join(f"{p} -> {target.name}" for p, target in _EXPORTERS)
    target = getattr(platform, "name", platform)
    msg = (
        f"no exporter takes a {type(network).__module__}."
        f"{type(network).__qualname__} to {target}; there are: {known}"
    )
    raise UnsupportedExport(msg)


def _verify(artifact: Artifact, *, required: bool) -> None:
    verify = load_if_there("hermes.quiver.verify", required=required)
    if verify is not None:
        verify.verify_artifact(artifact)
