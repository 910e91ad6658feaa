"""Models of a fake server: a configuration, and a function that answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hermes.aeriel._transport import Request
from hermes.aeriel.testing import _tensors
from hermes.aeriel.testing._errors import InvalidFake

__all__ = ("FakeModel", "Tensor")

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
# ("FP32", [-1, 2, 4]); "TYPE_FP32", numpy dtypes and None for -1 will do, too
Tensor = tuple[Any, Sequence[int | None]]

_IDLE_MICROSECONDS = 60_000_000


@dataclass(frozen=True)
class FakeModel:
    """A model for `FakeTriton` and `FakeTransport.of`.

    `of`, `stateful` and `streaming` make one of a numpy function. The class
    itself is for full control of both sides.

    Args:
        config: Triton's ``ModelConfig`` as a mapping with Triton's field
            names; ``name`` at least.
        answer: Gives the outputs by name for a `Request`. What it raises
            fails the request. The arrays need not fit the configuration.
        step: In place of ``answer``, for a model that keeps state: takes the
            sequence's state and a `Request`, gives its next state and the
            outputs.
        initial: The state at the START of a sequence; each gets a copy.

    Raises:
        InvalidFake: If it has no name, or both or none of the functions.

    A model whose configuration has ``sequence_batching`` demands sequences
    as Triton does.
    """

    config: Mapping[str, Any]
    answer: Callable[[Request], Arrays] | None = None
    step: Callable[[Any, Request], tuple[Any, Arrays]] | None = None
    initial: Any = None

    def __post_init__(self) -> None:
        if not self.config.get("name"):
            raise InvalidFake(f"a model needs a name: config={self.config}")
        if (self.answer is None) == (self.step is None):
            msg = f"model {self.name!r} needs either answer= or step="
            raise InvalidFake(msg)

    @property
    def name(self) -> str:
        """The configuration's name."""
        return str(self.config["name"])

    @property
    def is_stateful(self) -> bool:
        """Whether each request must belong to a sequence."""
        return "sequence_batching" in self.config

    @property
    def max_batch_size(self) -> int:
        """As in the configuration; 0 if there is no batch axis."""
        return int(self.config.get("max_batch_size", 0))

    def tensors(self, kind: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype (``"FP32"``) and shape, batch axis included, by name.

        Args:
            kind: ``"input"`` or ``"output"``.
        """
        batch = (-1,) if self.max_batch_size else ()
        return {
            t["name"]: (
                _wire(t["data_type"]),
                (*batch, *map(int, t.get("dims", ()))),
            )
            for t in self.config.get(kind, ())
        }

    def start(self) -> Any:
        """The state of a new sequence."""
        return copy.deepcopy(self.initial)

    def run(self, state: Any, request: Request) -> tuple[Any, Arrays]:
        """Answer a request; returns the next state and the outputs."""
        if self.step is not None:
            return self.step(state, request)
        assert self.answer is not None  # noqa: S101 - see __post_init__
        return state, self.answer(request)

    @classmethod
    def of(
        cls,
        name: str,
        function: Callable[..., Any],
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        **config: Any,
    ) -> Self:
        """A model that is a function of its inputs.

        Args:
            name: Name of the model.
            function: Takes the inputs' arrays in the order of ``inputs``;
                gives the output's array, several in the order of
                ``outputs``, or arrays by name. They are cast to the declared
                dtypes.
            inputs: Dtype and shape of each input by name, such as
                ``{"x": ("FP32", [-1, 2, 4])}``; -1 or None is variable.
            outputs: The same of each output.
            **config: More fields of the configuration, such as
                ``max_batch_size=8`` (shapes are then without the batch).

        Raises:
            InvalidFake: If a dtype is none.
        """

        def answer(request: Request) -> Arrays:
            return _named(function(*_ordered(request, inputs)), outputs)

        return cls(_config(name, inputs, outputs, config), answer)

    @classmethod
    def stateful(
        cls,
        name: str,
        function: Callable[..., tuple[Any, Any]],
        initial: Any,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        **config: Any,
    ) -> Self:
        """A model that keeps a state for each sequence.

        Args:
            name: Name of the model.
            function: Takes the sequence's state and the inputs' arrays;
                gives the next state, and the outputs as in `of`.
            initial: The state at START; each sequence gets a copy.
            inputs: See `of`.
            outputs: See `of`.
            **config: See `of`.

        Raises:
            InvalidFake: If a dtype is none.
        """

        def step(state: Any, request: Request) -> tuple[Any, Arrays]:
            state, found = function(state, *_ordered(request, inputs))
            return state, _named(found, outputs)

        batching = {
            "direct": {},
            "max_sequence_idle_microseconds": _IDLE_MICROSECONDS,
        }
        more = {"sequence_batching": batching, **config}
        return cls(
            _config(name, inputs, outputs, more), step=step, initial=initial
        )

    @classmethod
    def streaming(
        cls,
        name: str,
        network: Callable[[Array], Any],
        *,
        num_channels: int,
        kernel_size: int,
        stride_size: int,
        batch_size: int = 1,
        output: str = "output_0",
        tensor: str = "network/input",
    ) -> Self:
        """What quiver's ``add_streaming_inputs`` makes of a network.

        The server keeps the last samples of each sequence, cuts overlapping
        kernels from them, and applies the network.

        Args:
            name: Name of the model that clients ask for.
            network: Takes float32 kernels, gives one array with a row per
                kernel. It is called once to see the rows.
            num_channels: Channels of the stream.
            kernel_size: Samples in a kernel.
            stride_size: Samples between consecutive kernels.
            batch_size: Kernels per update.
            output: Name of the output.
            tensor: Name of the network's input, as ``"model/input"``.

        Shapes:
            update: ``(1, num_channels, stride_size * batch_size)``
            kernels: ``(batch_size, num_channels, kernel_size)``
        """
        update_size = stride_size * batch_size
        shape = (batch_size, num_channels, kernel_size)
        example = np.asarray(network(np.zeros(shape, np.float32)))

        def step(snapshot: Array, update: Array) -> tuple[Array, Array]:
            samples = np.concatenate([snapshot, update[0]], axis=-1)
            ends = range(stride_size, update_size + 1, stride_size)
            kernels = [samples[:, end : end + kernel_size] for end in ends]
            found = np.asarray(network(np.stack(kernels)))
            return samples[:, -kernel_size:], found

        stream = _stream(
            tensor, output, num_channels, kernel_size, stride_size, batch_size
        )
        return cls.stateful(
            name,
            step,
            np.zeros((num_channels, kernel_size), np.float32),
            {"snapshot_update": ("FP32", [1, num_channels, update_size])},
            {output: (example.dtype, [-1, *example.shape[1:]])},
            parameters={
                "hermes.stream": {"string_value": json.dumps(stream)},
                "states": {"string_value": tensor},
            },
        )


def _stream(
    tensor: str,
    output: str,
    num_channels: int,
    kernel_size: int,
    stride_size: int,
    batch_size: int,
) -> dict[str, Any]:
    """What quiver writes into the parameter ``hermes.stream``."""
    update_size = stride_size * batch_size
    num_warmup = -(-kernel_size // stride_size) - 1
    stream_input = {
        "name": "snapshot_update",
        "tensors": [{"name": tensor, "channels": num_channels}],
        "stride_size": stride_size,
        "update_size": update_size,
        "snapshot_size": kernel_size,
        "batch_size": batch_size,
        "num_warmup": num_warmup,
    }
    stream_output = {
        "name": output,
        "num_warmup": num_warmup,
        "size": batch_size,
    }
    return {
        "version": 1,
        "inputs": [stream_input],
        "outputs": [stream_output],
        "replay_updates": -(-kernel_size // update_size),
    }


def _config(
    name: str,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "input": [_tensor(*item) for item in inputs.items()],
        "output": [_tensor(*item) for item in outputs.items()],
        **more,
    }


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    dtype, shape = tensor
    # 64-bit integers are strings in protobuf's mapping
    dims = ["-1" if size is None else str(size) for size in shape]
    return {"name": name, "data_type": _triton(dtype), "dims": dims}


def _triton(dtype: Any) -> str:
    """Triton's ``"TYPE_FP32"`` for its own or numpy's spelling."""
    if isinstance(dtype, str):
        dtype = _wire(dtype)
    wire = _tensors.to_wire(dtype)
    return "TYPE_STRING" if wire == "BYTES" else f"TYPE_{wire}"


def _wire(data_type: str) -> str:
    wire = data_type.removeprefix("TYPE_")
    return "BYTES" if wire == "STRING" else wire


def _ordered(request: Request, inputs: Mapping[str, Tensor]) -> list[Array]:
    return [request.inputs[name] for name in inputs]


def _named(found: Any, outputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """What a function returned, by name and in the declared dtypes."""
    if not isinstance(found, Mapping):
        several = found if isinstance(found, tuple) else (found,)
        found = dict(zip(outputs, several, strict=True))
    return {
        name: _cast(array, outputs[name][0]) for name, array in found.items()
    }


def _cast(array: Any, dtype: Any) -> Array:
    return np.asarray(array, _tensors.to_numpy(_wire(_triton(dtype))))
