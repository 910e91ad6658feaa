"""The stage that cuts chunks into updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series._chunks import (
    Chunk,
    SequenceEnd,
    StreamEnd,
    Update,
)
from hermes.stillwater.series._framing import (
    Frames,
    Framing,
    Gap,
    LongGap,
    Overlap,
    Selection,
)
from hermes.stillwater.series._grid import check_rate, check_size, stride_size

__all__ = ("Framer",)


class Framer(PipelineProcess):
    """Cut chunks of any length into the updates that a model takes.

    Chunks become `Update` packages, and a `SequenceEnd` where a sequence is
    over: at the end of its stream, and before a restart. Streams may be
    interleaved (`Chunk.stream`), each is a sequence of its own. A sequence
    begins with the first sample of its first chunk.

    Args:
        update_size: Samples in an update. Or give the next two.
        stride_size: Samples between consecutive kernels.
        batch_size: Kernels in an update.
        inference_sampling_rate: Predictions per second, instead of the
            stride size; needs the sample rate.
        sample_rate: What chunks must have, in samples per second; None for
            any.
        gap: What to do where samples are missing: ``"error"`` raises
            `GapFound`; ``"fill"`` puts ``fill_value`` in their place;
            ``"restart"`` ends the sequence and begins another.
        overlap: What to do where samples come again: ``"error"`` raises
            `OverlapFound`; ``"trim"`` keeps what came first; ``"restart"``
            ends the sequence and begins another with all of the chunk.
        pad: Whether the tail of a sequence is filled up with zeros to a last
            update; else it is dropped.
        fill_value: What gaps are filled with.
        max_fill: Seconds of the longest gap that is filled.
        long_gap: What to do with a longer one, ``"error"`` or ``"restart"``.
        dtype: What samples are converted to; None to leave them.
        inputs: For a model with several streaming inputs, which channels
            each of them takes; then the data of an update are a dict.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`. There is one worker: order matters.

    Shapes:
        chunk: ``(channels, samples)``
        update: ``(1, channels, update_size)``, an array of its own or a view
            of the chunk

    Raises:
        InvalidSeries: If the options make no sense.
    """

    def __init__(
        self,
        update_size: int | None = None,
        *,
        stride_size: int | None = None,
        batch_size: int | None = None,
        inference_sampling_rate: float | None = None,
        sample_rate: float | None = None,
        gap: Gap = "error",
        overlap: Overlap = "error",
        pad: bool = True,
        fill_value: float = 0.0,
        max_fill: float | None = None,
        long_gap: LongGap = "error",
        dtype: npt.DTypeLike | None = None,
        inputs: Mapping[str, Selection] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        _check_choice("gap", gap, ("error", "fill", "restart"))
        _check_choice("overlap", overlap, ("error", "trim", "restart"))
        _check_choice("long_gap", long_gap, ("error", "restart"))
        _check_alone(self.workers)
        if inference_sampling_rate is not None:
            stride_size = _stride(
                sample_rate, inference_sampling_rate, stride_size
            )
        self._frames = Frames(
            Framing(
                _update_size(update_size, stride_size, batch_size),
                gap,
                overlap,
                pad,
                fill_value,
                _max_fill(gap, max_fill),
                long_gap,
                None if sample_rate is None else check_rate(sample_rate),
                None if dtype is None else np.dtype(dtype),
                inputs,
            )
        )

    def process(
        self, package: Chunk | StreamEnd
    ) -> Iterator[Update | SequenceEnd]:
        """Give the updates that a chunk completes.

        Args:
            package: A `Chunk`, or a `StreamEnd`.

        Raises:
            GapFound: If samples are missing and ``gap`` does not allow it.
            OverlapFound: If samples come again, likewise.
            InvalidSeries: If it is no chunk, or one unlike those before.
        """
        yield from self._frames.push(package)

    def finish(self) -> Iterator[Update | SequenceEnd]:
        """Give the tails of all streams."""
        yield from self._frames.finish()


def _check_choice(
    option: str, value: object, choices: tuple[str, ...]
) -> None:
    if value not in choices:
        msg = f"{option}={value!r}: give one of {', '.join(choices)}"
        raise InvalidSeries(msg)


def _check_alone(workers: int) -> None:
    if workers != 1:
        msg = (
            f"workers={workers}, but chunks of a stream must be framed in"
            " order by one: leave workers out"
        )
        raise InvalidSeries(msg)


def _stride(
    sample_rate: float | None,
    inference_sampling_rate: float,
    given: int | None,
) -> int:
    if sample_rate is None or given is not None:
        msg = (
            f"inference_sampling_rate={inference_sampling_rate!r} with"
            f" sample_rate={sample_rate!r} and stride_size={given!r}: give it"
            " with the sample_rate and without the stride_size"
        )
        raise InvalidSeries(msg)
    return stride_size(sample_rate, inference_sampling_rate)


def _update_size(
    update_size: int | None, stride: int | None, batch_size: int | None
) -> int:
    sizes = {
        "update_size": update_size,
        "stride_size": stride,
        "batch_size": batch_size,
    }
    for option, size in sizes.items():
        if size is not None:
            check_size(option, size)
    product = None if stride is None else stride * (batch_size or 1)
    if product is None and (update_size is None or batch_size is not None):
        msg = (
            "the size of updates is unknown: give update_size, or stride_size"
            " with batch_size"
        )
        raise InvalidSeries(msg)
    if None not in {update_size, product} and update_size != product:
        msg = (
            f"update_size={update_size}, but stride_size x batch_size is"
            f" {product}: give either"
        )
        raise InvalidSeries(msg)
    return product or update_size or 0


def _max_fill(gap: str, max_fill: float | None) -> float:
    if (gap == "fill") != (max_fill is not None):
        msg = (
            f"gap={gap!r} with max_fill={max_fill!r}: give the seconds of the"
            " longest gap to fill with gap='fill', and only then"
        )
        raise InvalidSeries(msg)
    if max_fill is not None and not max_fill > 0:
        msg = f"max_fill={max_fill!r}: give seconds, above 0"
        raise InvalidSeries(msg)
    return max_fill or 0.0
