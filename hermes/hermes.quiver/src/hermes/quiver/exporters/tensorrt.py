"""Any network that goes to ONNX -> TensorRT.

The network is exported to ONNX, and compared with it there. Then the engine
is built in a process of its own: here, or where ``command`` leads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hermes.quiver import exporters
from hermes.quiver._examples import example
from hermes.quiver._extras import load_if_there
from hermes.quiver.errors import ExportFailed, MissingExtra
from hermes.quiver.exporters._precision import lower
from hermes.quiver.exporters._profile import Profile, decide
from hermes.quiver.exporters._rounding import check
from hermes.quiver.exporters._tensorrt_options import Options, read_options
from hermes.quiver.exporters._tensorrt_run import Built, convert
from hermes.quiver.exporters._types import Arrays, Artifact, Request
from hermes.quiver.platforms import Platform

__all__ = ("to_tensorrt",)

_PROVENANCE = f"{Platform.TENSORRT.filename}.json"
_ROWS = 2
# TensorRT's names of data types.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
}


def to_tensorrt(network: Any, request: Request) -> Artifact:
    """Build an engine, with a file beside it that says how.

    Args:
        network: What some exporter takes to ONNX.
        request: How to export it. The options are those of TensorRT, which
            ``docs/exporting.md`` explains, and of the export to ONNX.

    Raises:
        ExportFailed: If no engine can be built.
        InvalidInput: If an option, or the range of shapes, does not fit.
        MissingExtra: If there is no TensorRT.
        UnsupportedExport: If the network does not go to ONNX.
        VerificationFailed: If the ONNX graph computes something else than
            the network, or the precision does not suffice.
    """
    options, others = read_options(request.options)
    if options.command is None:
        _check_installed(options.modules)
    source = exporters.export(
        network,
        Platform.ONNX,
        dataclasses.replace(request, options=others),
    )
    profile = decide(source.inputs, request.max_batch_size, options.profile)
    content = source.files[Platform.ONNX.filename]
    graph = _in_precision(source, content, options, profile, request.verify)
    built = _build(graph, options, profile)
    _check_tensors(source, built)
    return Artifact(
        files={
            Platform.TENSORRT.filename: built.plan,
            _PROVENANCE: _provenance(built, options, profile, content),
        },
        inputs=source.inputs,
        outputs=source.outputs,
    )


def _check_installed(modules: Sequence[str]) -> None:
    """Refuse before time is spent on the export to ONNX."""
    if not any(importlib.util.find_spec(name) for name in modules):
        msg = (
            f"none of {list(modules)} is installed; TensorRT comes with"
            " hermes-quiver's extra 'tensorrt' (for GPUs of the RTX kind:"
            " tensorrt-rtx), or lead command=[...] to where it is"
        )
        raise MissingExtra(msg)


def _in_precision(
    source: Artifact,
    content: bytes,
    options: Options,
    profile: Profile,
    verify: bool | None,
) -> bytes:
    if options.type not in {"fp16", "bf16"}:
        return content
    model = onnx.load_from_string(content)
    lowered = lower(model, options.type, options.keep_fp32)
    if verify is not False:
        runtime = load_if_there(source.runtime, required=verify is True)
        if runtime is not None:
            samples = source.samples or _samples(source, profile)
            check(
                model,
                lowered,
                options.type,
                (samples, *source.others),
                runtime.open_session,
            )
    return lowered.graph.SerializeToString()


def _samples(source: Artifact, profile: Profile) -> Arrays:
    """Data of the most frequent shapes, but of few rows."""
    rng = np.random.default_rng(0)
    arrays = {}
    for tensor in source.inputs:
        shape = profile.get(tensor.name, (tensor.shape,) * 3)[1]
        size = [int(n or 1) for n in shape]
        if tensor.shape and tensor.shape[0] is None:
            size[0] = min(size[0], _ROWS)
        arrays[tensor.name] = example(rng, size, tensor.dtype)
    return arrays


def _build(graph: bytes, options: Options, profile: Profile) -> Built:
    cache = options.timing_cache
    return convert(
        graph,
        {
            "builders": options.modules,
            "profile": profile,
            "tf32": options.type == "tf32",
            "workspace": options.workspace,
            "hardware_compatibility": options.hardware_compatibility,
        },
        [os.fspath(word) for word in options.command or [sys.executable]],
        options.timeout,
        None if cache is None else Path(cache),
    )


def _provenance(
    built: Built, options: Options, profile: Profile, source: bytes
) -> bytes:
    """What `repository.lint` compares with a container and a GPU."""
    facts = {
        **built.facts,
        "hardware_compatibility": options.hardware_compatibility or "none",
        "precision": options.type,
        "keep_fp32": list(options.keep_fp32),
        "profile": profile,
        "workspace": options.workspace,
        "onnx_sha256": hashlib.sha256(source).hexdigest(),
        "hermes_quiver_version": metadata.version("hermes-quiver"),
    }
    return json.dumps(facts, indent=2).encode()


def _check_tensors(source: Artifact, built: Built) -> None:
    """Triton would refuse an engine that takes other types than declared."""
    for kind in "inputs", "outputs":
        wanted = {t.name: str(t.dtype) for t in getattr(source, kind)}
        found = {n: _DTYPES.get(t, t) for n, t, _ in built.facts[kind]}
        if found != wanted:
            msg = (
                f"TensorRT has no such {kind}: the network's are {wanted}, the"
                f" engine's {found}; cast them in the network"
            )
            raise ExportFailed(msg)
