"""The online averager: from overlapping predictions to one time series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from hermes.quiver.errors import DtypeMismatch, ShapeMismatch
from hermes.quiver.streaming._layers import State, build
from hermes.quiver.streaming._parameters import Memory

__all__ = ("OUTPUT", "UPDATE", "OnlineAverager")

UPDATE = "update"
OUTPUT = "output_stream"


@dataclass(frozen=True)
class OnlineAverager:
    """Average the predictions that overlap, as they come.

    Each prediction is a window of a time series; each next one begins
    ``update_size`` samples later. From every prediction the last
    ``num_updates * update_size`` samples are used, so that every sample is
    the average of ``num_updates`` predictions. A sample comes out when the
    last of them is there: ``(num_updates - 1) * update_size`` samples late.

    Args:
        update_size: Samples between the begins of consecutive predictions.
        num_updates: Predictions averaged for each sample.
        batch_size: Predictions per request.
        prediction_size: Samples in a prediction.
        channels: Its channels, or None if it has no channel axis.
        dtype: Of the samples, floating point.
        divide_by_contributions: Divide the first outputs, to which fewer
            predictions contribute, by their number; False divides everything
            by ``num_updates``.

    Shapes:
        update: ``(batch_size, channels, prediction_size)``, or
            ``(batch_size, prediction_size)``
        output_stream: ``(1, channels, update_size * batch_size)``, or
            ``(1, update_size * batch_size)``

    Raises:
        ShapeMismatch: If a size is not positive, or the predictions are
            shorter than ``num_updates * update_size``.
        DtypeMismatch: If the dtype is not floating point.

    Predictions are added in their order, one by one: a sample does not depend
    on how they were batched. The first ``num_updates - 1`` outputs speak about
    the time before the first prediction's last samples.
    """

    update_size: int
    num_updates: int
    batch_size: int
    prediction_size: int
    channels: int | None = None
    dtype: npt.DTypeLike = np.float32
    divide_by_contributions: bool = True

    def __post_init__(self) -> None:
        for name in ("update_size", "num_updates", "batch_size"):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}; it must be positive"
                raise ShapeMismatch(msg)
        if self._span > self.prediction_size:
            msg = (
                f"averaging {self.num_updates} updates of {self.update_size}"
                f" samples needs predictions of {self._span} samples at least;"
                f" these have {self.prediction_size}"
            )
            raise ShapeMismatch(msg)
        if not np.issubdtype(np.dtype(self.dtype), np.floating):
            msg = f"averages are floating point, not {np.dtype(self.dtype)}"
            raise DtypeMismatch(msg)

    @property
    def _span(self) -> int:
        """Samples of a prediction that are used."""
        return self.num_updates * self.update_size

    @property
    def _num_channels(self) -> int:
        return 1 if self.channels is None else self.channels

    @property
    def states(self) -> tuple[State, ...]:
        """What the server keeps: unfinished sums, and how many were added."""
        shape = (1, self._num_channels, self._span)
        sums = State("sum", shape, self.dtype)
        count = State("count", (1,), np.int64)
        return (count, sums) if self.divide_by_contributions else (sums,)

    @property
    def memory(self) -> Memory:
        """How long it remembers, for clients."""
        return Memory(
            kind="averager",
            update_size=self.update_size,
            num_updates=self.num_updates,
            batch_size=self.batch_size,
            divide_by_contributions=self.divide_by_contributions,
        )

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what comes out per request."""
        channels = () if self.channels is None else (self.channels,)
        return (1, *channels, self.update_size * self.batch_size)

    def to_onnx(self) -> onnx.ModelProto:
        """Build the graph ``(update, *states) -> (output, *states)``."""
        channels = () if self.channels is None else (self.channels,)
        update_shape = (self.batch_size, *channels, self.prediction_size)
        states = self.states
        return build(
            [*self._sum_nodes(), *self._output_nodes()],
            {
                UPDATE: (update_shape, self.dtype),
                **{s.input_name: (s.shape, s.dtype) for s in states},
            },
            {
                OUTPUT: (self.output_shape, self.dtype),
                **{s.output_name: (s.shape, s.dtype) for s in states},
            },
            self._constants(),
        )

    def _sum_nodes(self) -> list[onnx.NodeProto]:
        """Add each prediction where it belongs; split finished sums off.

        The sums of ``num_updates + batch_size - 1`` blocks of update_size
        samples; the first ``batch_size`` of them are then finished. The
        state has one block more than is unfinished, all zeros, because Triton
        allows no empty state.
        """
        node = helper.make_node
        nodes = [
            node("Reshape", [UPDATE, "predictions_shape"], ["predictions"]),
            node(
                "Slice",
                ["predictions", "span_begin", "span_end", "time_axis"],
                ["spans"],
            ),
            node("Pad", ["input_sum", "state_pads"], ["sums_0"]),
        ]
        for i in range(self.batch_size):
            nodes += [
                node(
                    "Slice",
                    ["spans", f"row_{i}", f"row_{i + 1}"],
                    [f"span_{i}"],
                ),
                node("Pad", [f"span_{i}", f"pads_{i}"], [f"placed_{i}"]),
                node("Add", [f"sums_{i}", f"placed_{i}"], [f"sums_{i + 1}"]),
            ]
        last = f"sums_{self.batch_size}"
        return [
            *nodes,
            node(
                "Slice", [last, "zero", "out_size", "time_axis"], ["finished"]
            ),
            node(
                "Slice",
                [last, "out_size", "sums_end", "time_axis"],
                ["unfinished"],
            ),
            node("Pad", ["unfinished", "block_pads"], ["output_sum"]),
        ]

    def _output_nodes(self) -> list[onnx.NodeProto]:
        node = helper.make_node
        if not self.divide_by_contributions:
            return [
                node("Div", ["finished", "num_updates"], ["averages"]),
                node("Reshape", ["averages", "output_shape"], [OUTPUT]),
            ]
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return [
            node("Reshape", ["finished", "blocks_shape"], ["blocks"]),
            node("Add", ["input_count", "numbers"], ["counts"]),
            node("Min", ["counts", "num_updates"], ["contributions"]),
            node("Cast", ["contributions"], ["divisors"], to=dtype),
            node("Unsqueeze", ["divisors", "one"], ["columns"]),
            node("Div", ["blocks", "columns"], ["averages"]),
            node("Reshape", ["averages", "output_shape"], [OUTPUT]),
            node("Add", ["input_count", "batch_size"], ["count"]),
            node("Min", ["count", "num_updates"], ["output_count"]),
        ]

    def _constants(self) -> dict[str, npt.ArrayLike]:
        block, batch = self.update_size, self.batch_size
        channels, out_size = self._num_channels, block * batch
        constants: dict[str, npt.ArrayLike] = {
            "predictions_shape": [batch, channels, self.prediction_size],
            "span_begin": [self.prediction_size - self._span],
            "span_end": [self.prediction_size],
            "time_axis": [2],
            "state_pads": [0, 0, 0, 0, 0, out_size - block],
            "block_pads": [0, 0, 0, 0, 0, block],
            "zero": [0],
            "out_size": [out_size],
            "sums_end": [self._span + out_size - block],
            "output_shape": list(self.output_shape),
        }
        for i in range(batch):
            before, after = i * block, (batch - 1 - i) * block
            constants[f"pads_{i}"] = [0, 0, before, 0, 0, after]
            constants[f"row_{i}"] = [i]
        constants[f"row_{batch}"] = [batch]
        if self.divide_by_contributions:
            return constants | {
                "numbers": list(range(1, batch + 1)),
                "num_updates": [self.num_updates],
                "batch_size": [batch],
                "one": [1],
                "blocks_shape": [1, channels, batch, block],
            }
        return constants | {
            "num_updates": np.array([self.num_updates], self.dtype)
        }
