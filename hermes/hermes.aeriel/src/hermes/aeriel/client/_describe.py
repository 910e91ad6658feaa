"""Read a model's configuration, as the server gives it; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hermes.aeriel import dtypes
from hermes.aeriel.errors import UnsupportedModel
from hermes.aeriel.specs import (
    ModelSpec,
    StreamInput,
    StreamOutput,
    StreamSpec,
    TensorSpec,
)

__all__ = (
    "describe",
    "is_stateful_alone",
    "sees_sequence_id_alone",
    "steps",
)

_STREAM = "hermes.stream"
_STREAM_VERSION = 1
_ID_CONTROL = "CONTROL_SEQUENCE_CORRID"


def describe(
    config: Mapping[str, Any],
    version: int | None,
    is_stateful: bool,
    *,
    sees_sequence_id: bool = False,
) -> ModelSpec:
    """What a client must know of a model.

    Args:
        config: The model's configuration: Triton's ``ModelConfig`` as a
            mapping with Triton's field names.
        version: The version that was asked for.
        is_stateful: Whether it, or a step of it, keeps state.
        sees_sequence_id: Whether it, or a step of it, is told the sequence's
            id.

    Raises:
        UnsupportedModel: If it has tensors, or a description of its
            streams, that this client cannot handle.
    """
    inputs = _tensors(config, "input")
    stream = _stream(config, inputs)
    states = {} if stream is None else _states(stream, inputs)
    return ModelSpec(
        name=config["name"],
        version=version,
        inputs=inputs,
        outputs=_tensors(config, "output"),
        states=states,
        stream=stream,
        is_stateful=is_stateful,
        max_batch_size=int(config.get("max_batch_size", 0)),
        sees_sequence_id=sees_sequence_id,
    )


def is_stateful_alone(config: Mapping[str, Any]) -> bool:
    """Whether the model keeps state, not counting steps of an ensemble."""
    return "sequence_batching" in config


def sees_sequence_id_alone(config: Mapping[str, Any]) -> bool:
    """Whether the model is told the id, not counting steps of an ensemble."""
    batching = config.get("sequence_batching", {})
    return any(
        control.get("kind") == _ID_CONTROL
        for tensor in batching.get("control_input", [])
        for control in tensor.get("control", [])
    )


def steps(config: Mapping[str, Any]) -> dict[str, int | None]:
    """Version of each model that an ensemble runs, by its name."""
    scheduling = config.get("ensemble_scheduling", {})
    versions = {
        step["model_name"]: int(step.get("model_version", -1))
        for step in scheduling.get("step", [])
    }
    return {name: None if v < 1 else v for name, v in versions.items()}


def _tensors(config: Mapping[str, Any], kind: str) -> dict[str, TensorSpec]:
    # A reshape is between Triton and the model: clients see dims.
    batch = (None,) if int(config.get("max_batch_size", 0)) > 0 else ()
    return {
        tensor["name"]: TensorSpec(
            tensor["name"],
            (*batch, *map(_dim, tensor.get("dims", []))),
            dtypes.from_triton(tensor["data_type"]),
            dtypes.wire_name(tensor["data_type"]),
            bool(tensor.get("optional", False)),
        )
        for tensor in config.get(kind, [])
    }


def _dim(value: str | int) -> int | None:
    # 64-bit integers come as strings in protobuf's mapping.
    return None if int(value) < 0 else int(value)


def _stream(
    config: Mapping[str, Any], inputs: Mapping[str, TensorSpec]
) -> StreamSpec | None:
    parameter = config.get("parameters", {}).get(_STREAM)
    if parameter is None:
        return None
    try:
        found = json.loads(parameter["string_value"])
        if found["version"] != _STREAM_VERSION:
            msg = (
                f"model {config['name']!r} describes its streams in version"
                f" {found['version']}; this client reads {_STREAM_VERSION}:"
                " upgrade hermes-aeriel"
            )
            raise UnsupportedModel(msg)
        return StreamSpec(
            inputs={
                inputs[e["name"]].name: _stream_input(e)
                for e in found["inputs"]
            },
            outputs={e["name"]: StreamOutput(**e) for e in found["outputs"]},
            replay_updates=found["replay_updates"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        msg = (
            f"parameter {_STREAM!r} of model {config['name']!r} is not what"
            f" hermes-quiver writes ({error!r}); export the ensemble again"
        )
        raise UnsupportedModel(msg) from error


def _stream_input(entry: Mapping[str, Any]) -> StreamInput:
    tensors = {t["name"]: t["channels"] for t in entry["tensors"]}
    return StreamInput(**{**entry, "tensors": tensors})


def _states(
    stream: StreamSpec, inputs: Mapping[str, TensorSpec]
) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            name,
            (1, entry.update_size)
            if channels is None
            else (1, channels, entry.update_size),
            inputs[entry.name].dtype,
            inputs[entry.name].datatype,
        )
        for entry in stream.inputs.values()
        for name, channels in entry.tensors.items()
    }
