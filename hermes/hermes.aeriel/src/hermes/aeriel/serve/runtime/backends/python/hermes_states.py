"""Triton's implicit states, kept for a backend written in Python.

Triton keeps none for such backends. It hides the state tensors from clients
and from responses, and gives the backend START, END and correlation ID; the
states themselves are the backend's to keep.

Nothing here knows of Triton's Python interface or of onnxruntime.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = (
    "DTYPES",
    "Array",
    "Arrays",
    "LoadError",
    "RequestError",
    "SequenceId",
    "SequenceStates",
    "StateSpec",
    "read_states",
)

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
SequenceId = int | str

DTYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_UINT16": "uint16",
    "TYPE_UINT32": "uint32",
    "TYPE_UINT64": "uint64",
    "TYPE_INT8": "int8",
    "TYPE_INT16": "int16",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
}


class RequestError(Exception):
    """A request cannot be answered; others can."""


class LoadError(Exception):
    """The model cannot be served."""


@dataclass(frozen=True)
class StateSpec:
    """An implicit state.

    Args:
        input_name: Tensor of the graph that takes it.
        output_name: Tensor of the graph that gives its next value.
        initial: Its value at the start of a sequence.
    """

    input_name: str
    output_name: str
    initial: Array


class SequenceStates:
    """The states of every sequence that is under way.

    Args:
        specs: The model's states.
        idle_seconds: States that were not used for longer are dropped.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        specs: Sequence[StateSpec],
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs = tuple(specs)
        self._initial = {spec.input_name: spec.initial for spec in specs}
        self._idle_seconds = idle_seconds
        self._clock = clock
        # the least recently used sequence first
        self._used: OrderedDict[SequenceId, float] = OrderedDict()
        self._values: dict[SequenceId, Arrays] = {}

    def __len__(self) -> int:
        return len(self._values)

    def enter(self, sequence_id: SequenceId, *, start: bool) -> Arrays:
        """Return what a request of a sequence finds, by input name.

        Args:
            sequence_id: The sequence.
            start: Whether the request has the START flag.

        Raises:
            RequestError: If the sequence is unknown and does not start.
        """
        self._drop_idle()
        if start:
            self._values[sequence_id] = self._initial
        elif sequence_id not in self._values:
            raise RequestError(
                f"sequence {sequence_id} has no state: its first request "
                "must have the START flag, and so must the next one after "
                "the server has dropped its state"
            )
        self._used[sequence_id] = self._clock()
        self._used.move_to_end(sequence_id)
        return self._values[sequence_id]

    def commit(
        self, sequence_id: SequenceId, outputs: Mapping[str, Array]
    ) -> None:
        """Keep what a successful run left for the sequence's next request."""
        self._values[sequence_id] = {
            spec.input_name: outputs[spec.output_name] for spec in self._specs
        }

    def leave(self, sequence_id: SequenceId) -> None:
        """Forget a sequence, which has ended."""
        self._used.pop(sequence_id, None)
        self._values.pop(sequence_id, None)

    def _drop_idle(self) -> None:
        oldest_allowed = self._clock() - self._idle_seconds
        while self._used:
            sequence_id, used = next(iter(self._used.items()))
            if used >= oldest_allowed:
                break
            self.leave(sequence_id)


def read_states(
    config: Mapping[str, Any], model_directory: Path
) -> list[StateSpec]:
    """Return the states of a configuration.

    Args:
        config: The model's configuration.
        model_directory: Where its files of initial states are.

    Raises:
        LoadError: If a state is of a kind that cannot be kept, or its file
            does not hold it.
    """
    batching = config.get("sequence_batching") or {}
    batch = [1] if config["max_batch_size"] > 0 else []
    return [
        StateSpec(
            state["input_name"],
            state["output_name"],
            _initial_state(state, batch, model_directory),
        )
        for state in batching.get("state", ())
    ]


def _initial_state(
    state: Mapping[str, Any], batch: list[int], model_directory: Path
) -> Array:
    name = state["input_name"]
    dtype = DTYPES.get(state["data_type"])
    if dtype is None:
        raise LoadError(
            f"state '{name}' is {state['data_type']}: the local runtime "
            f"keeps states of {', '.join(DTYPES)}"
        )
    given = (state.get("initial_state") or [None])[0]
    dims = [int(size) for size in (given or state)["dims"]]
    shape = batch + [max(size, 1) for size in dims]
    if given is None:
        return np.zeros(shape, dtype)
    if given["data_type"] != state["data_type"]:
        raise LoadError(
            f"state '{name}' is {state['data_type']}, but its initial state "
            f"is {given['data_type']}"
        )
    if not given.get("data_file"):
        return np.zeros(shape, dtype)
    file = model_directory / "initial_state" / given["data_file"]
    return _read_array(file, shape, np.dtype(dtype), name)


def _read_array(
    file: Path, shape: list[int], dtype: "np.dtype[Any]", name: str
) -> Array:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise LoadError(f"initial state of '{name}': {error}") from error
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise LoadError(
            f"initial state of '{name}': {file} has {len(content)} bytes, "
            f"shape {shape} of {dtype} needs {expected}"
        )
    return np.frombuffer(content, dtype).reshape(shape)
