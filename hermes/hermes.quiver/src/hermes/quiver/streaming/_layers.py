"""What all streaming layers share: their states, and their place in Triton."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from hermes.quiver import dtypes
from hermes.quiver.config import ModelConfig
from hermes.quiver.errors import ModelExists
from hermes.quiver.platforms import Platform
from hermes.quiver.streaming._parameters import Memory, write_memory

if TYPE_CHECKING:
    from hermes.quiver.models import Model
    from hermes.quiver.repository import ModelRepository

__all__ = (
    "IDLE_MICROSECONDS",
    "Layer",
    "Scheduling",
    "State",
    "add_layer",
    "add_stateful",
    "build",
)

# Long enough for a batch of updates to gather in real time; Triton's own
# default, a second, would end such a sequence between two requests.
IDLE_MICROSECONDS = 60_000_000

# Old enough for every Triton container of the last years.
_OPSET = 13
_IR_VERSION = 7


@dataclass(frozen=True)
class State:
    """A tensor that the server keeps between the requests of a sequence.

    Triton pairs the two names of a state by their positions in the sorted
    lists of all input and of all output names. The common stems make both
    lists sort alike, whatever the states are called.

    Attributes:
        name: Its name.
        shape: Its shape, all fixed.
        dtype: Its dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: npt.DTypeLike = np.float32

    @property
    def input_name(self) -> str:
        """Tensor through which the layer reads it."""
        return f"input_{self.name}"

    @property
    def output_name(self) -> str:
        """Tensor through which the layer writes it."""
        return f"output_{self.name}"


class Layer(Protocol):
    """``(update, *states) -> (*outputs, *states)``, as an ONNX graph."""

    @property
    def states(self) -> tuple[State, ...]:
        """What the server keeps."""

    @property
    def memory(self) -> Memory:
        """How long it remembers."""

    def to_onnx(self) -> onnx.ModelProto:
        """Build the graph."""


@dataclass(frozen=True)
class Scheduling:
    """How Triton runs the sequences of a stateful model.

    Attributes:
        streams_per_gpu: Sequences at a time on each GPU, or on the CPU.
        strategy: ``"direct"`` gives each sequence a place of its own;
            ``"oldest"`` batches what is there across sequences.
        max_batch_size: Sequences whose requests may be run as rows of one
            batch; 0 for a model without such an axis.
        idle_microseconds: A sequence that sends nothing for so long is
            forgotten.

    Raises:
        ValueError: If the strategy is unknown or a number is not positive.
    """

    streams_per_gpu: int = 1
    strategy: str = "direct"
    max_batch_size: int = 0
    idle_microseconds: int = IDLE_MICROSECONDS

    def __post_init__(self) -> None:
        if self.strategy not in {"direct", "oldest"}:
            msg = f"strategy={self.strategy!r} is neither direct nor oldest"
            raise ValueError(msg)
        if min(self.streams_per_gpu, self.idle_microseconds) < 1:
            msg = (
                f"streams_per_gpu={self.streams_per_gpu} and idle_microseconds"
                f"={self.idle_microseconds} must be positive"
            )
            raise ValueError(msg)

    def write(self, config: ModelConfig) -> None:
        """Declare it in a configuration."""
        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = self.idle_microseconds
        if self.max_batch_size:
            config.max_batch_size = self.max_batch_size
        if self.strategy == "oldest":
            batching.oldest.max_candidate_sequences = self.streams_per_gpu
            config.add_instance_group(count=1)
            return
        batching.direct.SetInParent()
        places = max(1, self.max_batch_size)
        config.add_instance_group(count=-(-self.streams_per_gpu // places))


def add_layer(
    repository: ModelRepository,
    name: str,
    layer: Layer,
    streams_per_gpu: int,
) -> Model:
    """Add one of quiver's own layers to a repository.

    Raises:
        ModelExists: If the repository has a model of that name.
        ValueError: If ``streams_per_gpu`` is not positive.
    """
    return add_stateful(
        repository,
        name,
        layer.states,
        layer.memory,
        Scheduling(streams_per_gpu),
        lambda model: model.export_version(layer.to_onnx()),
    )


def add_stateful(
    repository: ModelRepository,
    name: str,
    states: Sequence[State],
    memory: Memory,
    scheduling: Scheduling,
    export: Callable[[Model], object],
) -> Model:
    """Add a model with states; nothing is added if its export fails.

    Args:
        repository: Where to add it.
        name: Its name.
        states: Its states; no batch axis where rows are batched.
        memory: How long it remembers.
        scheduling: How Triton runs it.
        export: Exports its first version.

    Raises:
        ModelExists: If the repository has a model of that name.
    """
    if name in repository.models:
        msg = (
            f"{repository.root} has a model {name!r} already; give the new one"
            " another name, with name=, or, where the old one is only left"
            f" from before, repository.remove({name!r}) first"
        )
        raise ModelExists(msg)
    model = repository.add(name, Platform.ONNX)
    try:
        for state in states:
            model.config.add_state(
                state.input_name, state.output_name, state.shape, state.dtype
            )
        scheduling.write(model.config)
        write_memory(model.config, memory)
        export(model)
    except BaseException:
        repository.remove(model)
        raise
    return model


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[Sequence[int], npt.DTypeLike]],
    outputs: Mapping[str, tuple[Sequence[int], npt.DTypeLike]],
    constants: Mapping[str, npt.ArrayLike],
) -> onnx.ModelProto:
    """Make an ONNX model; integer constants are 64-bit."""

    def values(tensors: Mapping[str, tuple[Sequence[int], Any]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, dtypes.to_onnx(dtype), shape)
            for name, (shape, dtype) in tensors.items()
        ]

    graph = helper.make_graph(
        nodes,
        "streaming",
        values(inputs),
        values(outputs),
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in constants.items()
        ],
    )
    return helper.make_model(
        graph,
        producer_name="hermes.quiver",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
