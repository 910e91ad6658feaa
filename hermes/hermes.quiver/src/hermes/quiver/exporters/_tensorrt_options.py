"""Pure: what users may say about an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._inputs import refuse_unknown

__all__ = ("Options", "read_options")

_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
_BUILDERS = {
    "tensorrt": ["tensorrt"],
    "rtx": ["tensorrt_rtx", "tensorrt_rtx_bindings"],
}
_ONNX_OPTIONS = {"opset_version"}
_COMPATIBILITIES = (None, "ampere_plus", "same_compute_capability")


@dataclass(frozen=True)
class Options:
    """Options of an export to TensorRT; ``docs/exporting.md`` explains them.

    They are as the user gave them: ``type`` and ``modules`` say what follows.
    """

    precision: str | None = None
    use_fp16: bool | None = None
    keep_fp32: Sequence[str] = ()
    profile: Mapping[str, Any] | None = None
    workspace: int | None = None
    timing_cache: str | os.PathLike[str] | None = None
    hardware_compatibility: str | None = None
    builder: str | None = None
    command: Sequence[str | os.PathLike[str]] | None = None
    timeout: float = 3600.0

    @property
    def type(self) -> str:
        """The precision, from either option."""
        return self.precision or ("fp16" if self.use_fp16 else "fp32")

    @property
    def modules(self) -> list[str]:
        """Where TensorRT may be imported from, the preferred one first."""
        if self.builder is not None:
            return _BUILDERS[self.builder]
        return [name for names in _BUILDERS.values() for name in names]


def read_options(
    options: Mapping[str, Any],
) -> tuple[Options, dict[str, Any]]:
    """Read what an export to TensorRT was called with.

    Returns:
        What is meant for TensorRT, and the rest for the export to ONNX.

    Raises:
        InvalidInput: If an option is unknown, or its value impossible.
    """
    ours = {field.name for field in fields(Options)}
    refuse_unknown(options, sorted(ours | _ONNX_OPTIONS), "TENSORRT")
    given = {name: v for name, v in options.items() if name in ours}
    read = Options(**given)
    _check_precision(read)
    _check_resources(read)
    _check_builder(read)
    return read, {k: v for k, v in options.items() if k not in ours}


def _check_precision(options: Options) -> None:
    if options.precision not in {None, *_PRECISIONS}:
        msg = f"precision={options.precision!r} is none of {_PRECISIONS}"
        raise InvalidInput(msg)
    if options.use_fp16 is not None and (
        options.use_fp16 != (options.type == "fp16")
    ):
        msg = (
            f"use_fp16={options.use_fp16!r} and"
            f" precision={options.precision!r} contradict each other; give"
            " one of them"
        )
        raise InvalidInput(msg)
    if isinstance(options.keep_fp32, str):
        msg = f"keep_fp32={options.keep_fp32!r}: give a list of names"
        raise InvalidInput(msg)
    if options.keep_fp32 and options.type not in {"fp16", "bf16"}:
        msg = f"keep_fp32 says nothing where precision={options.type!r}"
        raise InvalidInput(msg)


def _check_resources(options: Options) -> None:
    size, timeout = options.workspace, options.timeout
    if size is not None and (type(size) is not int or size < 1):
        msg = f"workspace={size!r} is no positive number of bytes"
        raise InvalidInput(msg)
    if type(timeout) not in {int, float} or not 0 < timeout < float("inf"):
        msg = f"timeout={timeout!r} is no positive number of seconds"
        raise InvalidInput(msg)
    if options.timing_cache is not None:
        path = Path(options.timing_cache)
        if path.is_dir() or not path.parent.is_dir():
            msg = f"timing_cache={str(path)!r} cannot be a file"
            raise InvalidInput(msg)


def _check_builder(options: Options) -> None:
    command = options.command
    if command is not None and (
        isinstance(command, str)
        or not command
        or not all(isinstance(word, str | os.PathLike) for word in command)
    ):
        msg = (
            f"command={command!r}: give a list of words that runs Python, e.g."
            " ['apptainer', 'exec', '--nv', 'image.sif', 'python3']"
        )
        raise InvalidInput(msg)
    if options.hardware_compatibility not in _COMPATIBILITIES:
        msg = (
            f"hardware_compatibility={options.hardware_compatibility!r} is"
            f" none of {_COMPATIBILITIES}"
        )
        raise InvalidInput(msg)
    if options.builder not in {None, *_BUILDERS}:
        msg = f"builder={options.builder!r} is none of {[*_BUILDERS]}"
        raise InvalidInput(msg)
