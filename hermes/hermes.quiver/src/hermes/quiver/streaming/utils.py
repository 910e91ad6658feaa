"""Add a streaming layer of one's own to a repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from hermes.quiver._examples import example
from hermes.quiver.config import Dims
from hermes.quiver.errors import InvalidInput, ShapeMismatch
from hermes.quiver.streaming._layers import (
    IDLE_MICROSECONDS,
    Scheduling,
    State,
    add_stateful,
)
from hermes.quiver.streaming._parameters import Memory

if TYPE_CHECKING:
    from hermes.quiver.models import Model
    from hermes.quiver.repository import ModelRepository

__all__ = ("add_streaming_model",)


def add_streaming_model(
    repository: ModelRepository,
    streaming_layer: Any,
    name: str,
    input_name: str,
    input_shape: Dims,
    state_names: Sequence[str],
    state_shapes: Sequence[Dims],
    output_names: Sequence[str],
    streams_per_gpu: int = 1,
    *,
    input_dtype: npt.DTypeLike = np.float32,
    state_dtypes: Sequence[npt.DTypeLike] | None = None,
    strategy: str = "direct",
    max_batch_size: int = 0,
    max_sequence_idle_microseconds: int = IDLE_MICROSECONDS,
    memory: int | None = None,
    verify: bool | None = None,
) -> Model:
    """Add a layer whose state Triton keeps between a sequence's requests.

    The layer computes ``(update, *states) -> (*outputs, *states)``. Requests
    see the update and the outputs only. States begin as zeros.

    Args:
        repository: Where to add the model.
        streaming_layer: A ``torch.nn.Module``, or an ONNX ``ModelProto``
            whose inputs and outputs come in that order.
        name: Name of the model.
        input_name: Name of the update.
        input_shape: Its shape. Where rows are batched
            (``max_batch_size``), the first axis is that of the rows and
            variable (None); else all sizes are fixed.
        state_names: Name of each state.
        state_shapes: Shape of each, like ``input_shape``.
        output_names: Name of each output.
        streams_per_gpu: Sequences at a time on each GPU, or on the CPU.
        input_dtype: Of the update.
        state_dtypes: Of each state; float32 by default.
        strategy: ``"direct"`` gives each sequence a place of its own;
            ``"oldest"`` batches what is there across sequences.
        max_batch_size: Sequences whose requests may be rows of one batch.
            Keep it to tens: with 128 places in one instance, Triton 24.10
            crashes under load, and with four times 32 it does not.
        max_sequence_idle_microseconds: A sequence that sends nothing for so
            long is forgotten.
        memory: Past updates on which the state depends, for clients that
            restore it after a server's death; None if without a bound.
        verify: See `Model.export_version`.

    Returns:
        The model.

    Raises:
        ModelExists: If the repository has a model of that name.
        ShapeMismatch: If there is not one shape for each state, or they are
            not fixed.
        InvalidInput: If an ONNX graph has other numbers of inputs and outputs.
        ExportFailed: If torch cannot export the layer.
        ValueError: If the scheduling is impossible.
    """
    shapes = [tuple(shape) for shape in (input_shape, *state_shapes)]
    _check_shapes(state_names, shapes, batched=max_batch_size > 0)
    dtypes = list(state_dtypes or [np.float32] * len(state_names))
    if len(dtypes) != len(state_names):
        msg = f"{len(dtypes)} state_dtypes for {len(state_names)} states"
        raise ShapeMismatch(msg)
    states = [
        State(state, _fixed(shape[1:] if max_batch_size else shape), dtype)
        for state, shape, dtype in zip(
            state_names, shapes[1:], dtypes, strict=True
        )
    ]
    inputs = [input_name, *(state.input_name for state in states)]
    outputs = [*output_names, *(state.output_name for state in states)]

    def export(model: Model) -> None:
        if isinstance(streaming_layer, onnx.ModelProto):
            model.export_version(_renamed(streaming_layer, inputs, outputs))
            return
        rng = np.random.default_rng(0)
        samples = [
            example(rng, [2 if d in {None, -1} else d for d in shape], dtype)
            for shape, dtype in zip(
                shapes, [input_dtype, *dtypes], strict=True
            )
        ]
        model.export_version(
            streaming_layer,
            input_shapes=shapes,
            sample_inputs=samples,
            input_names=inputs,
            output_names=outputs,
            verify=verify,
        )

    return add_stateful(
        repository,
        name,
        states,
        Memory(kind="layer", num_updates=memory),
        Scheduling(
            streams_per_gpu,
            strategy,
            max_batch_size,
            max_sequence_idle_microseconds,
        ),
        export,
    )


def _check_shapes(
    names: Sequence[str], shapes: Sequence[Dims], *, batched: bool
) -> None:
    if len(shapes) != len(names) + 1 or not names:
        msg = (
            f"{len(names)} state_names ({list(names)}) but {len(shapes) - 1}"
            " state_shapes; give one for each state, and at least one"
        )
        raise ShapeMismatch(msg)
    for what, shape in zip(("update", *names), shapes, strict=True):
        rows, rest = (shape[:1], shape[1:]) if batched else ((None,), shape)
        if list(rows) not in ([None], [-1]) or None in rest or -1 in rest:
            wanted = "None, then fixed sizes" if batched else "fixed sizes"
            msg = f"{what} has shape {tuple(shape)}; it must have {wanted}"
            raise ShapeMismatch(msg)


def _fixed(shape: Dims) -> tuple[int, ...]:
    return tuple(int(size) for size in shape if size is not None)


def _renamed(
    network: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The same graph under other names, through nodes that only pass on.

    Renaming inside would have to follow the names into nested graphs.
    """
    if (len(network.graph.input), len(network.graph.output)) != (
        len(inputs),
        len(outputs),
    ):
        msg = (
            f"the graph has {len(network.graph.input)} inputs and"
            f" {len(network.graph.output)} outputs; needed are {list(inputs)}"
            f" and {list(outputs)}"
        )
        raise InvalidInput(msg)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(network)
    first, last = [], []
    for value, name in zip(renamed.graph.input, inputs, strict=True):
        if value.name != name:
            first.append(helper.make_node("Identity", [name], [value.name]))
            value.name = name
    for value, name in zip(renamed.graph.output, outputs, strict=True):
        if value.name != name:
            last.append(helper.make_node("Identity", [value.name], [name]))
            value.name = name
    nodes = [*first, *renamed.graph.node, *last]
    del renamed.graph.node[:]
    renamed.graph.node.extend(nodes)
    return renamed
