"""What a configuration must say to run a graph, whoever runs it."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermes_states import (  # type: ignore[import-not-found]
    DTYPES,
    LoadError,
)

__all__ = (
    "TensorInfo",
    "auto_complete",
    "check_graph",
    "count",
    "declared_inputs",
    "declared_outputs",
    "load_framework",
    "misfit",
    "parameters",
)

# Triton's own default.
_DEFAULT_MAX_BATCH_SIZE = 4


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


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a configuration, by name."""
    return {
        name: value["string_value"]
        for name, value in (config.get("parameters") or {}).items()
    }


def count(given: Mapping[str, str], name: str) -> int:
    """Return a parameter that is a count; 0 if it is not given.

    Raises:
        LoadError: If it is something else.
    """
    value = given.get(name) or "0"
    if not value.isdecimal():
        raise LoadError(f"parameter {name} must be a count, got {value!r}")
    return int(value)


def declared_inputs(config: Mapping[str, Any]) -> list[TensorInfo]:
    """Return what a configuration says that the model takes.

    States and control inputs come last.
    """
    size = config["max_batch_size"]
    batching = config.get("sequence_batching") or {}
    return [
        *(_declared(entry, size) for entry in config["input"]),
        *(
            TensorInfo(state["input_name"], *_type_and_dims(state, size))
            for state in batching.get("state", ())
        ),
        *(
            TensorInfo(
                control["name"],
                _control_type(control),
                (-1, 1) if size else (1,),
            )
            for control in batching.get("control_input", ())
        ),
    ]


def declared_outputs(config: Mapping[str, Any]) -> list[TensorInfo]:
    """Return what a configuration says that the model gives; states last."""
    size = config["max_batch_size"]
    batching = config.get("sequence_batching") or {}
    outputs = [_declared(entry, size) for entry in config["output"]]
    names = {info.name for info in outputs}
    return outputs + [
        TensorInfo(state["output_name"], *_type_and_dims(state, size))
        for state in batching.get("state", ())
        if state["output_name"] not in names
    ]


def _declared(entry: Mapping[str, Any], max_batch_size: int) -> TensorInfo:
    return TensorInfo(entry["name"], *_type_and_dims(entry, max_batch_size))


def _type_and_dims(
    entry: Mapping[str, Any], max_batch_size: int
) -> tuple[str, tuple[int, ...]]:
    reshape = entry.get("reshape")
    sizes = reshape["shape"] if reshape else entry["dims"]
    dims = tuple(int(size) for size in sizes)
    return entry["data_type"], (-1, *dims) if max_batch_size else dims


def _control_type(control: Mapping[str, Any]) -> str:
    for kind in control["control"]:
        for name in ("int32", "fp32", "bool"):
            if kind.get(f"{name}_false_true"):
                return f"TYPE_{name.upper()}"
    return str(control["control"][0].get("data_type", "TYPE_INVALID"))


def misfit(info: TensorInfo, dtype: str, shape: tuple[int, ...]) -> str:
    """Return why an output is not as it was declared; nothing if it is.

    Args:
        info: What was declared.
        dtype: numpy's name of its type.
        shape: Its shape; a scalar is given the declared one.
    """
    fits = len(info.dims) == len(shape) and all(
        wanted in (-1, size)
        for wanted, size in zip(info.dims, shape, strict=True)
    )
    if dtype == DTYPES.get(info.data_type) and (fits or not shape):
        return ""
    return (
        f"output '{info.name}' is {info.data_type} of shape "
        f"{list(info.dims)} in the configuration, but the model gives "
        f"{dtype} of shape {list(shape)}"
    )


def load_framework(name: str) -> Any:
    """Import what runs a kind of models.

    It takes seconds, which a model with a complete configuration does not
    need twice.

    Args:
        name: Its module, and what ``install --with`` calls it.

    Raises:
        LoadError: If it is not there.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LoadError(
            f"this Triton's Python cannot import {name} ({error}); for the "
            "local runtime run `python -m hermes.aeriel.serve install --with "
            f"{name}`"
        ) from error
