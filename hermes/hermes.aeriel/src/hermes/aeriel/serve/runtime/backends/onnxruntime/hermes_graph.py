"""ONNX graphs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hermes_configuration import (  # type: ignore[import-not-found]
    TensorInfo,
    count,
    parameters,
)
from hermes_states import (  # type: ignore[import-not-found]
    Array,
    Arrays,
    LoadError,
    RequestError,
)

__all__ = ("Graph",)

_ONNX_TYPES = {
    f"tensor({onnx})": f"TYPE_{triton}"
    for onnx, triton in (
        ("bool", "BOOL"),
        ("uint8", "UINT8"),
        ("uint16", "UINT16"),
        ("uint32", "UINT32"),
        ("uint64", "UINT64"),
        ("int8", "INT8"),
        ("int16", "INT16"),
        ("int32", "INT32"),
        ("int64", "INT64"),
        ("float16", "FP16"),
        ("float", "FP32"),
        ("double", "FP64"),
        ("string", "STRING"),
    )
}

# Triton's spelling of onnxruntime's levels.
_LEVELS = {
    0: "ORT_ENABLE_ALL",
    -1: "ORT_ENABLE_BASIC",
    1: "ORT_ENABLE_EXTENDED",
    2: "ORT_DISABLE_ALL",
}


class Graph:
    """An ONNX session: named arrays in, named arrays out.

    Args:
        file: The ONNX file, or a directory with a ``model.onnx``.
        config: The model's configuration, for the session's options.

    Raises:
        LoadError: If onnxruntime cannot load the file.
    """

    def __init__(self, file: Path, config: Mapping[str, Any]) -> None:
        # It takes a quarter of a second, which a model with a complete
        # configuration does not need twice.
        import onnxruntime  # noqa: PLC0415

        path = file / "model.onnx" if file.is_dir() else file
        options = _session_options(onnxruntime, config)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise LoadError(
                f"onnxruntime cannot load {path}: {error}"
            ) from error
        self.inputs = [_describe(info) for info in self._session.get_inputs()]
        self.outputs = [
            _describe(info) for info in self._session.get_outputs()
        ]
        self._strings = {
            info.name
            for info in self.inputs
            if info.data_type == "TYPE_STRING"
        }
        self._scalars = {info.name for info in self.inputs if not info.dims}

    def run(self, outputs: Sequence[str], feeds: Arrays) -> list[Array]:
        """Run the graph once.

        Raises:
            RequestError: If the arrays are not what the graph takes.
        """
        for name in self._strings & feeds.keys():
            feeds[name] = _decode(name, feeds[name])
        for name in self._scalars & feeds.keys():
            if feeds[name].size == 1:
                feeds[name] = feeds[name].reshape(())
        try:
            results: list[Array] = self._session.run(outputs, feeds)
        except Exception as error:
            raise RequestError(f"onnxruntime: {error}") from error
        return results


def _describe(info: Any) -> TensorInfo:
    data_type = _ONNX_TYPES.get(info.type)
    if data_type is None:
        raise LoadError(
            f"tensor '{info.name}' of the graph is {info.type}: the local "
            f"runtime serves {', '.join(_ONNX_TYPES)}"
        )
    dims = [size if isinstance(size, int) else -1 for size in info.shape]
    return TensorInfo(info.name, data_type, tuple(dims))


def _decode(name: str, array: Array) -> Array:
    """Return Triton's bytes as the text that onnxruntime takes."""
    try:
        texts = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise RequestError(f"input '{name}' is not UTF-8: {error}") from error
    return np.array(texts, np.object_).reshape(array.shape)


def _session_options(onnxruntime: Any, config: Mapping[str, Any]) -> Any:
    """Return onnxruntime's options, from where Triton's backend reads them."""
    options = onnxruntime.SessionOptions()
    given = parameters(config)
    optimization = config.get("optimization") or {}
    level = int((optimization.get("graph") or {}).get("level", 0))
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel,
        _LEVELS.get(level, "ORT_ENABLE_ALL"),
    )
    options.intra_op_num_threads = count(given, "intra_op_thread_count")
    options.inter_op_num_threads = count(given, "inter_op_thread_count")
    if count(given, "execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    for name, attribute in (
        ("enable_mem_arena", "enable_cpu_mem_arena"),
        ("enable_mem_pattern", "enable_mem_pattern"),
    ):
        if name in given:
            enabled = given[name].lower() in ("1", "true", "on", "yes")
            setattr(options, attribute, enabled)
    # Stubs share the cores with the server and its clients: threads that wait
    # by spinning take them away.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
