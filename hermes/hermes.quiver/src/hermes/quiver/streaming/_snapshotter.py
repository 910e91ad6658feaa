"""The snapshotter: from updates to overlapping kernels, as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from hermes.quiver.errors import ShapeMismatch
from hermes.quiver.streaming._layers import State, build
from hermes.quiver.streaming._parameters import Memory

__all__ = ("UPDATE", "Snapshotter", "StreamedTensor")

UPDATE = "snapshot_update"


@dataclass(frozen=True)
class StreamedTensor:
    """A tensor that the snapshotter produces.

    Attributes:
        name: Its name.
        channels: Channels of the update that it takes, or None for a tensor
            without a channel axis, which takes one.
    """

    name: str
    channels: int | None

    @property
    def num_channels(self) -> int:
        """Channels of the update that it takes."""
        return 1 if self.channels is None else self.channels


@dataclass(frozen=True)
class Snapshotter:
    """Turn a stream of updates into overlapping kernels.

    Keeps the last ``snapshot_size`` samples of every channel as state and
    cuts ``batch_size`` kernels from them and the update, each ending
    ``stride_size`` samples after the last.

    Args:
        tensors: What it produces, in the order of the update's channels.
        snapshot_size: Samples in a kernel, and of history held.
        stride_size: Samples between the ends of consecutive kernels.
        batch_size: Kernels produced per update.
        dtype: Of the samples.

    Shapes:
        update: ``(1, channels, stride_size * batch_size)``
        snapshot (in and out): ``(1, channels, snapshot_size)``
        kernels, per tensor: ``(batch_size, channels, snapshot_size)``, or
            ``(batch_size, snapshot_size)`` for one without channel axis

    Raises:
        ShapeMismatch: If a size is not positive, or the stride is larger
            than the snapshot, so that samples would never be seen.

    The first `num_warmup` kernels of a sequence begin with zeros that were
    never sent.
    """

    tensors: Sequence[StreamedTensor]
    snapshot_size: int
    stride_size: int
    batch_size: int = 1
    dtype: npt.DTypeLike = np.float32

    def __post_init__(self) -> None:
        if not self.tensors:
            msg = "a snapshotter needs at least one tensor to produce"
            raise ShapeMismatch(msg)
        sizes = {
            "batch_size": self.batch_size,
            "stride_size": self.stride_size,
            **{f"channels of {t.name}": t.num_channels for t in self.tensors},
        }
        for what, size in sizes.items():
            if size < 1:
                msg = f"{what} is {size}; it must be at least 1"
                raise ShapeMismatch(msg)
        if self.stride_size > self.snapshot_size:
            msg = (
                f"stride_size={self.stride_size} is larger than the kernel"
                f" of {self.snapshot_size} samples: samples between kernels"
                " would never be seen"
            )
            raise ShapeMismatch(msg)

    @property
    def num_channels(self) -> int:
        """Channels of the update."""
        return sum(tensor.num_channels for tensor in self.tensors)

    @property
    def update_size(self) -> int:
        """Samples in an update."""
        return self.stride_size * self.batch_size

    @property
    def num_warmup(self) -> int:
        """Kernels at the start of a sequence that are not yet full."""
        return -(-self.snapshot_size // self.stride_size) - 1

    @property
    def replay_updates(self) -> int:
        """Past updates that rebuild the state exactly."""
        return -(-self.snapshot_size // self.update_size)

    @property
    def update_shape(self) -> tuple[int, int, int]:
        """Shape of an update."""
        return (1, self.num_channels, self.update_size)

    @property
    def states(self) -> tuple[State]:
        """What the server keeps: the last samples."""
        shape = (1, self.num_channels, self.snapshot_size)
        return (State("snapshot", shape, self.dtype),)

    @property
    def memory(self) -> Memory:
        """How long it remembers, for clients."""
        return Memory(
            kind="snapshotter",
            stride_size=self.stride_size,
            snapshot_size=self.snapshot_size,
            batch_size=self.batch_size,
        )

    def kernels_shape(self, tensor: StreamedTensor) -> tuple[int, ...]:
        """Shape of one of the tensors."""
        channels = () if tensor.channels is None else (tensor.channels,)
        return (self.batch_size, *channels, self.snapshot_size)

    def to_onnx(self) -> onnx.ModelProto:
        """Build the graph ``(update, snapshot) -> (*kernels, snapshot)``.

        It only copies samples: the kernels are exact to the bit.
        """
        (state,) = self.states
        state_value = state.shape, self.dtype
        return build(
            self._nodes(state),
            {
                UPDATE: (self.update_shape, self.dtype),
                state.input_name: state_value,
            },
            {
                **{
                    t.name: (self.kernels_shape(t), self.dtype)
                    for t in self.tensors
                },
                state.output_name: state_value,
            },
            self._constants(),
        )

    def _ends(self) -> range:
        """Where the kernels end, in samples of the update."""
        return range(self.stride_size, self.update_size + 1, self.stride_size)

    def _nodes(self, state: State) -> list[onnx.NodeProto]:
        """History and update joined, cut into windows, split by tensor."""
        windows = [f"window_{end}" for end in self._ends()]
        cuts = [
            helper.make_node(
                "Slice",
                ["samples", f"from_{end}", f"to_{end}", "time_axis"],
                [f"window_{end}"],
            )
            for end in self._ends()
        ]
        return [
            helper.make_node(
                "Concat", [state.input_name, UPDATE], ["samples"], axis=2
            ),
            *cuts,
            # The last window is what the next update follows on.
            helper.make_node("Identity", [windows[-1]], [state.output_name]),
            helper.make_node("Concat", windows, ["kernels"], axis=0),
            *self._split(),
        ]

    def _split(self) -> list[onnx.NodeProto]:
        parts = [f"channels_{i}" for i in range(len(self.tensors))]
        nodes = [
            helper.make_node("Split", ["kernels", "channels"], parts, axis=1)
        ]
        for part, tensor in zip(parts, self.tensors, strict=True):
            if tensor.channels is None:
                inputs, operator = [part, "channel_axis"], "Squeeze"
            else:
                inputs, operator = [part], "Identity"
            nodes.append(helper.make_node(operator, inputs, [tensor.name]))
        return nodes

    def _constants(self) -> dict[str, list[int]]:
        values = {
            "time_axis": [2],
            "channels": [t.num_channels for t in self.tensors],
        }
        for end in self._ends():
            values[f"from_{end}"] = [end]
            values[f"to_{end}"] = [end + self.snapshot_size]
        if any(tensor.channels is None for tensor in self.tensors):
            values["channel_axis"] = [1]
        return values
