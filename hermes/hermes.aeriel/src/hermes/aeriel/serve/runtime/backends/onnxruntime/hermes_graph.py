"""ONNX graphs, and what a configuration must say to run one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hermes_states import (  # type: ignore[import-not-found]
    Array,
    Arrays,
    LoadError,
    RequestError,
)

__all__ = ("Graph", "TensorInfo", "auto_complete", "check_graph")

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

# Triton's own default.
_DEFAULT_MAX_BATCH_SIZE = 4

# Triton's spelling of onnxruntime's levels.
_LEVELS = {
    0: "ORT_ENABLE_ALL",
    -1: "ORT_ENABLE_BASIC",
    1: "ORT_ENABLE_EXTENDED",
    2: "ORT_DISABLE_ALL",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a graph: Triton's name of its type, and -1 for variable."""

    name: str
    data_type: str
    dims: tuple[int, ...]


def auto_complete(
    config: Mapping[str, Any],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> dict[str, Any]:
    """Return what Triton's backend adds to a configuration without tensors.

    Returns:
        ``max_batch_size``, ``dynamic_batching`` (whether to switch it on),
        ``input`` and ``output`` (empty where the configuration has them).

    Raises:
        LoadError: If a batch size is configured that the graph cannot take.
    """
    batches = all(
        tensor.dims and tensor.dims[0] == -1 for tensor in (*inputs, *outputs)
    )
    size = config["max_batch_size"]
    if size and not batches:
        raise LoadError(
            f"max_batch_size is {size}, but the graph has a tensor whose "
            "first dimension is not variable"
        )
    if batches and not size:
        size = _DEFAULT_MAX_BATCH_SIZE
    hidden = _hidden_names(config)
    return {
        "max_batch_size": size,
        "dynamic_batching": size > 1 and not config.get("sequence_batching"),
        "input": [] if config["input"] else _entries(inputs, hidden, size),
        "output": [] if config["output"] else _entries(outputs, hidden, size),
    }


def _hidden_names(config: Mapping[str, Any]) -> set[str]:
    """Return the tensors that Triton or its backend fill in themselves."""
    batching = config.get("sequence_batching") or {}
    states = batching.get("state", ())
    return {
        *(state["input_name"] for state in states),
        *(state["output_name"] for state in states),
        *(control["name"] for control in batching.get("control_input", ())),
    }


def _entries(
    tensors: Iterable[TensorInfo], hidden: set[str], max_batch_size: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tensor in tensors:
        if tensor.name in hidden:
            continue
        dims = list(tensor.dims[1:] if max_batch_size else tensor.dims)
        found.append(
            {
                "name": tensor.name,
                "data_type": tensor.data_type,
                # Triton has no tensor without dimensions
                "dims": dims or [1],
                **(
                    {"reshape": {"shape": []}}
                    if max_batch_size and not dims
                    else {}
                ),
            }
        )
    return found


def check_graph(
    config: Mapping[str, Any],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> None:
    """Refuse a configuration that the graph cannot serve.

    Raises:
        LoadError: If a tensor is missing, or its type or shape differs.
    """
    batching = config.get("sequence_batching") or {}
    states = batching.get("state", ())
    controls = batching.get("control_input", ())
    given = {entry["name"]: entry for entry in config["input"]}
    hidden = {state["input_name"]: state for state in states}
    hidden |= {control["name"]: control for control in controls}
    size = config["max_batch_size"]
    _check_tensors("input", given | hidden, inputs, size)
    absent = {tensor.name for tensor in inputs} - set(given | hidden)
    if absent:
        raise LoadError(
            f"the graph's input '{min(absent)}' is not in the configuration"
        )
    wanted = {entry["name"]: entry for entry in config["output"]}
    hidden = {state["output_name"]: state for state in states}
    _check_tensors("output", wanted | hidden, outputs, size)


def _check_tensors(
    kind: str,
    configured: Mapping[str, Mapping[str, Any]],
    tensors: Sequence[TensorInfo],
    max_batch_size: int,
) -> None:
    by_name = {tensor.name: tensor for tensor in tensors}
    for name, entry in configured.items():
        if name not in by_name:
            raise LoadError(
                f"the graph has no {kind} '{name}'; it has "
                f"{', '.join(by_name)}"
            )
        # control inputs have neither
        if "dims" in entry:
            _check_tensor(kind, entry, by_name[name], max_batch_size)


def _check_tensor(
    kind: str,
    entry: Mapping[str, Any],
    tensor: TensorInfo,
    max_batch_size: int,
) -> None:
    if entry["data_type"] != tensor.data_type:
        raise LoadError(
            f"{kind} '{tensor.name}' is {entry['data_type']} in the "
            f"configuration, {tensor.data_type} in the graph"
        )
    reshape = entry.get("reshape")
    dims = [
        int(size) for size in (reshape["shape"] if reshape else entry["dims"])
    ]
    full = [-1, *dims] if max_batch_size else dims
    # no dimensions at all: a scalar, or a shape that the graph leaves open
    fits = not tensor.dims or (
        len(full) == len(tensor.dims)
        and all(
            size in (-1, wanted)
            for size, wanted in zip(tensor.dims, full, strict=True)
        )
    )
    if not fits:
        raise LoadError(
            f"{kind} '{tensor.name}' has shape {full} in the configuration "
            f"(max_batch_size {max_batch_size}), {list(tensor.dims)} in the "
            "graph"
        )


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
    parameters = {
        name: value["string_value"]
        for name, value in (config.get("parameters") or {}).items()
    }
    optimization = config.get("optimization") or {}
    level = int((optimization.get("graph") or {}).get("level", 0))
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel,
        _LEVELS.get(level, "ORT_ENABLE_ALL"),
    )
    options.intra_op_num_threads = _count(parameters, "intra_op_thread_count")
    options.inter_op_num_threads = _count(parameters, "inter_op_thread_count")
    if _count(parameters, "execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    for name, attribute in (
        ("enable_mem_arena", "enable_cpu_mem_arena"),
        ("enable_mem_pattern", "enable_mem_pattern"),
    ):
        if name in parameters:
            enabled = parameters[name].lower() in ("1", "true", "on", "yes")
            setattr(options, attribute, enabled)
    # Stubs share the cores with the server and its clients: threads that wait
    # by spinning take them away.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _count(parameters: Mapping[str, str], name: str) -> int:
    value = parameters.get(name) or "0"
    if not value.isdecimal():
        raise LoadError(f"parameter {name} must be a count, got {value!r}")
    return int(value)
