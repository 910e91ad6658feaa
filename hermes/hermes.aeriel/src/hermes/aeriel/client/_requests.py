"""From the caller's arrays to the tensors of a request; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel import dtypes
from hermes.aeriel._transport import Parameter
from hermes.aeriel.client._casts import to_sendable
from hermes.aeriel.client._padding import (
    Arrays,
    batch_axis,
    batch_to_fill,
    blank,
    check_rows,
    pad,
    pad_tail,
)
from hermes.aeriel.errors import InvalidRequest, ShapeMismatch
from hermes.aeriel.specs import ModelSpec, StreamInput, TensorSpec

__all__ = (
    "Arrays",
    "Prepared",
    "check_outputs",
    "check_parameters",
    "to_request",
    "zeros",
)

Input = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Shape = tuple[int | None, ...]

# Arrays of these are looked into before they are sent.
_CONVERTED = ("BF16", "BYTES")
# Triton acts on these itself; all but the last two are set by the client.
_RESERVED = ("headers", "sequence_end", "sequence_id", "sequence_start")
_WHOLE = ("priority", "timeout")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request that fits the model, and how much of it is real.

    Attributes:
        tensors: Tensors by name, as the wire wants them.
        rows: Rows of the batch that were given; None if none were added.
        of: Rows that are sent; None if none were added.
        predictions: Kernels that end within the samples that were given, 0
            if not even one does; None for full updates.
    """

    tensors: Arrays
    rows: int | None = None
    of: int | None = None
    predictions: int | None = None


def to_request(
    spec: ModelSpec,
    x: Input,
    *,
    cast: bool = False,
    batch_size: int | None = None,
    allow_tail: bool = False,
) -> Prepared:
    """Check arrays against a model, and shape them as it wants them.

    Args:
        spec: The model.
        x: The only input's array, or arrays by the names of inputs. In
            place of a streaming input its parts may be given, by the names
            in ``spec.states``.
        cast: Convert numbers to the model's dtypes where that loses nothing
            but precision; see `to_sendable`.
        batch_size: Rows to send. Requests of fewer are filled up with zeros
            (empty bytes). None takes the model's own where that is fixed.
            Models that keep state are never filled up.
        allow_tail: Whether streaming inputs may end early, for the last
            update of a stream; they are filled up with zeros.

    Raises:
        InvalidRequest: If an input is missing or unknown, or the model takes
            no batches of ``batch_size`` rows.
        ShapeMismatch: If an array has the wrong shape.
        DtypeMismatch: If an array has the wrong dtype, or a value cannot be
            converted.
    """
    if isinstance(x, np.ndarray) and _is_exact(spec, x):
        return Prepared({next(iter(spec.inputs)): _as_update(spec, x)})
    given = dict(x) if isinstance(x, Mapping) else {_only(spec): x}
    updates = spec.stream.inputs if spec.stream else {}
    for entry in updates.values():
        _join_parts(spec, entry, given, cast=cast, allow_tail=allow_tail)
    _check_names(spec, given)
    batch = batch_to_fill(spec, batch_size)
    tensors = {
        name: _fit(
            tensor,
            given[name],
            _loosened(tensor.shape, batch, allow_tail and name in updates),
            is_update=name in updates,
            cast=cast,
        )
        for name, tensor in spec.inputs.items()
        if name in given
    }
    if batch is not None:
        return _fill(spec, tensors, batch)
    if spec.max_batch_size or batch_axis(spec):
        check_rows(spec, tensors, spec.max_batch_size or None)
    if allow_tail:
        tensors, predictions = pad_tail(spec, tensors)
        return Prepared(tensors, predictions=predictions)
    return Prepared(tensors)


def _is_exact(spec: ModelSpec, x: npt.NDArray[Any]) -> bool:
    """Whether there is nothing to do: so it is with nearly all updates.

    What follows would find the same at ten times the cost.
    """
    if len(spec.inputs) != 1:
        return False
    (tensor,) = spec.inputs.values()
    return (
        x.dtype == tensor.dtype
        and x.shape in (tensor.shape, tensor.shape[1:])
        and tensor.datatype not in _CONVERTED
        and (x.ndim == len(tensor.shape) or _takes_updates(spec, tensor))
    )


def _as_update(spec: ModelSpec, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    (tensor,) = spec.inputs.values()
    return x if x.ndim == len(tensor.shape) else x[None]


def _takes_updates(spec: ModelSpec, tensor: TensorSpec) -> bool:
    return spec.stream is not None and tensor.name in spec.stream.inputs


def _loosened(shape: Shape, batch: int | None, is_tail: bool) -> Shape:
    """The shape that may be given where the rest is filled up."""
    if batch is not None:
        return (None, *shape[1:])
    return (*shape[:-1], None) if is_tail else shape


def zeros(spec: ModelSpec) -> Arrays:
    """The smallest request that the model accepts, all zeros."""
    return {
        name: blank([d or 1 for d in tensor.shape], _sent(tensor))
        for name, tensor in spec.inputs.items()
        if not tensor.optional
    }


def check_outputs(
    spec: ModelSpec, names: Iterable[str] | str
) -> tuple[str, ...]:
    """Names of outputs to ask for, each once.

    Args:
        spec: The model.
        names: One name, or several; none is all.

    Raises:
        InvalidRequest: If the model has no such output.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in wanted if name not in spec.outputs]
    if unknown:
        msg = (
            f"model {spec.name!r} has no output {_names(unknown)}; it has"
            f" {_names(spec.outputs)}"
        )
        raise InvalidRequest(msg)
    return tuple(dict.fromkeys(wanted))


def check_parameters(
    parameters: Mapping[str, Parameter],
) -> dict[str, Parameter]:
    """Parameters that Triton can pass on to a model.

    Numbers of numpy become Python's. ``priority`` and ``timeout`` (in
    microseconds) are meant for Triton's own scheduler.

    Raises:
        InvalidRequest: If a name or a value is not one that can be sent.
    """
    return {
        _parameter_name(name): _parameter(name, value)
        for name, value in parameters.items()
    }


def _parameter_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        msg = f"parameter {name!r} has no name: its name must be a str"
        raise InvalidRequest(msg)
    if name in _RESERVED or name.startswith("triton_"):
        msg = (
            f"parameter {name!r} is Triton's own: take another name"
            " (client.sequence() sets those of sequences)"
        )
        raise InvalidRequest(msg)
    return name


def _parameter(name: str, value: Any) -> Parameter:
    if isinstance(value, np.generic):
        value = value.item()
    is_int = isinstance(value, int) and not isinstance(value, bool)
    lowest = 0 if name in _WHOLE else -(2**63)
    if is_int and lowest <= value < 2**64:
        return int(value)
    if is_int or name in _WHOLE:
        msg = (
            f"parameter {name!r} is {value!r}; it must be a whole number from"
            f" {lowest} to 2**64 - 1"
        )
        raise InvalidRequest(msg)
    if isinstance(value, bool | float | str):
        return value
    msg = (
        f"parameter {name!r} is a {type(value).__name__}; give a bool, int,"
        " float or str"
    )
    raise InvalidRequest(msg)


def _sent(tensor: TensorSpec) -> np.dtype:
    return dtypes.RAW_BF16 if tensor.datatype == "BF16" else tensor.dtype


def _only(spec: ModelSpec) -> str:
    """The input that a bare array is for."""
    needed = [name for name, t in spec.inputs.items() if not t.optional]
    needed = needed or list(spec.inputs)
    if len(needed) != 1:
        msg = (
            f"model {spec.name!r} takes several inputs: give a dict with"
            f" {_names(spec.inputs)}"
        )
        raise InvalidRequest(msg)
    return needed[0]


def _join_parts(
    spec: ModelSpec,
    entry: StreamInput,
    given: dict[str, Any],
    *,
    cast: bool,
    allow_tail: bool,
) -> None:
    """Replace the parts of an update by the update."""
    parts = [name for name in entry.tensors if name in given]
    if not parts or entry.name in given:
        return
    missing = [name for name in entry.tensors if name not in given]
    if missing:
        msg = f"input {entry.name!r} also needs {_names(missing)}"
        raise InvalidRequest(msg)
    joined = []
    for name, channels in entry.tensors.items():
        tensor = spec.states[name]
        shape = _loosened(tensor.shape, None, allow_tail)
        part = _fit(tensor, given.pop(name), shape, is_update=True, cast=cast)
        joined.append(part[:, None] if channels is None else part)
    sizes = {part.shape[-1] for part in joined}
    if len(sizes) > 1:
        msg = (
            f"the parts of {entry.name!r} have {sorted(sizes)} samples: give"
            f" as many of {_names(entry.tensors)}"
        )
        raise ShapeMismatch(msg)
    given[entry.name] = np.concatenate(joined, axis=1)


def _check_names(spec: ModelSpec, given: Mapping[str, Any]) -> None:
    unknown = [name for name in given if name not in spec.inputs]
    missing = [
        name
        for name, tensor in spec.inputs.items()
        if name not in given and not tensor.optional
    ]
    if unknown or missing:
        takes = _names({**spec.inputs, **spec.states})
        msg = f"model {spec.name!r} takes {takes}; given were {_names(given)}"
        raise InvalidRequest(msg)


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _hint(given: Shape, wanted: Shape) -> str:
    if wanted[:1] != (None,) or len(given) != len(wanted) - 1:
        return ""
    return "; a batch of one is x[None]"


def _fit(
    tensor: TensorSpec,
    value: npt.ArrayLike,
    shape: Shape,
    *,
    is_update: bool,
    cast: bool,
) -> npt.NDArray[Any]:
    array = to_sendable(tensor, _array(tensor, value), cast=cast)
    # There is one update in a request: its leading axis says nothing.
    if is_update and array.ndim == len(shape) - 1:
        array = array[None]
    fits = array.ndim == len(shape) and all(
        wanted is None or wanted == size
        for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        msg = (
            f"{tensor.name!r} has shape {array.shape}, but the model takes"
            f" {tensor.shape} (None is variable)"
            f"{_hint(array.shape, shape)}"
        )
        raise ShapeMismatch(msg)
    return array


def _array(tensor: TensorSpec, value: Any) -> npt.NDArray[Any]:
    # numpy's own dtype for bytes drops zeros at their ends.
    dtype = np.object_ if _is_text(tensor, value) else None
    try:
        return np.asarray(value, dtype)
    except ValueError as error:
        msg = f"{tensor.name!r} is no array: {error}"
        raise ShapeMismatch(msg) from error
    except (RuntimeError, TypeError) as error:
        msg = f"{tensor.name!r} cannot be read as an array: {error}"
        raise InvalidRequest(msg) from error


def _is_text(tensor: TensorSpec, value: Any) -> bool:
    return tensor.datatype == "BYTES" and not hasattr(value, "__array__")


def _fill(spec: ModelSpec, tensors: Arrays, batch: int) -> Prepared:
    rows = check_rows(spec, tensors, batch)
    if rows is None or rows == batch:
        return Prepared(tensors)
    padded = {name: pad(array, batch, 0) for name, array in tensors.items()}
    return Prepared(padded, rows=rows, of=batch)
