"""Which time an item of a model's output speaks about; pure.

All follows from three facts. Kernel ``k`` of a sequence that begins with
sample ``n`` ends before sample ``n + (k + 1) * stride_size``. A direct output
has one item per kernel. An averaged output has ``size / batch_size`` samples
per kernel, the oldest of those that the kernel completes: they lie
``num_updates - 1`` strides before the last stride of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.series._chunks import Array
from hermes.stillwater.series._grid import check_size

__all__ = ("Layout", "Output", "Reference", "read_outputs")

Reference = Literal["start", "centre", "end"]


@dataclass(frozen=True, slots=True)
class Output:
    """What is known of an output.

    Attributes:
        num_warmup: Items at the start of a sequence that are not valid.
        size: Items per update.
        num_updates: Predictions that are averaged for each sample; None if
            the output has one item for each kernel.
    """

    num_warmup: int
    size: int
    num_updates: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What one output's items are.

    Attributes:
        stride_size: Samples between consecutive kernels.
        snapshot_size: Samples in a kernel.
        batch_size: Kernels in an update.
        output: What is known of the output.
        reference: Which time of a kernel its prediction speaks about.
        offset: Seconds added to it.
    """

    stride_size: int
    snapshot_size: int
    batch_size: int
    output: Output
    reference: Reference = "end"
    offset: float = 0.0

    @property
    def block(self) -> int:
        """Items per kernel."""
        return self.output.size // self.batch_size

    @property
    def step(self) -> tuple[int, int]:
        """Samples between consecutive items, as a fraction."""
        common = math.gcd(self.stride_size, self.block)
        return self.stride_size // common, self.block // common

    def sample_rate(self, sample_rate: float) -> float:
        """Items per second."""
        samples, items = self.step
        return sample_rate * items / samples

    def valid(self, index: int, num_padded: int) -> range:
        """The items of an update that speak of data, counted in the update.

        Args:
            index: Position of the update in its sequence.
            num_padded: Samples at the update's end that are padding.
        """
        update_size = self.stride_size * self.batch_size
        kernels = (update_size - num_padded) // self.stride_size
        warmup = self.output.num_warmup - index * self.output.size
        return range(max(warmup, 0), kernels * self.block)

    def times(self, first: int, items: range, sample_rate: float) -> Array:
        """GPS seconds of items of an update.

        Args:
            first: Number of the update's first sample.
            items: Which ones.
            sample_rate: Samples per second.

        Returns:
            The nearest floats, but for an offset that is no whole number of
            samples: those may be the next to nearest.
        """
        samples, divisor = self.step
        shift = self._shift() + _snap(self.offset * sample_rate)
        whole = math.floor(shift)
        numbers = np.arange(items.start, items.stop, dtype=np.int64) * samples
        numbers += (first + whole) * divisor
        if shift == whole:
            return numbers / (sample_rate * divisor)
        return (numbers + (shift - whole) * divisor) / (sample_rate * divisor)

    def is_filled(
        self, first: int, items: range, filled: Sequence[tuple[int, int]]
    ) -> Array:
        """Which items depend on some of the ranges of samples."""
        kernels = np.arange(items.start, items.stop) // self.block
        ends = first + (kernels + 1) * self.stride_size
        begins = ends - self.memory_size
        found = np.zeros(len(items), bool)
        for begin, end in filled:
            found |= (begins < end) & (begin < ends)
        return found

    @property
    def memory_size(self) -> int:
        """Samples on which an item depends."""
        others = (self.output.num_updates or 1) - 1
        return self.snapshot_size + others * self.stride_size

    def _shift(self) -> float:
        """Samples from an update's first to what its first item means."""
        stride = self.stride_size
        if self.output.num_updates is not None:
            return (1 - self.output.num_updates) * stride
        kernel = self.snapshot_size
        back = {"start": kernel, "centre": kernel / 2, "end": 0}
        return stride - back[self.reference]


def read_outputs(
    stream: Any, declared: Collection[str] = ()
) -> tuple[tuple[int, int, int], dict[str, Output]]:
    """Understand what a model says of its stream.

    Args:
        stream: The parameter ``hermes.stream`` as a dict, or anything with
            attributes of the same names; or a model's spec, whose attribute
            ``stream`` is that.
        declared: Outputs that are known from elsewhere.

    Returns:
        Stride size, snapshot size and batch size; what is known of each
        output, by name.

    Raises:
        InvalidSeries: If it is something else, or inputs differ in kernels.
    """
    stream = getattr(stream, "stream", stream)
    inputs = [
        tuple(
            int(_get(entry, key))
            for key in ("stride_size", "snapshot_size", "batch_size")
        )
        for entry in _entries(_get(stream, "inputs")).values()
    ]
    if len(set(inputs)) != 1:
        msg = (
            f"the stream has inputs of (stride, kernel, batch) {inputs}: give"
            " the sizes that the times shall refer to as stride_size,"
            " snapshot_size and batch_size, with outputs"
        )
        raise InvalidSeries(msg)
    stride, kernel, batch = inputs[0]
    warmup = -(-kernel // stride) - 1
    return (stride, kernel, batch), {
        name: _output(name, entry, warmup, batch)
        for name, entry in _entries(_get(stream, "outputs")).items()
        if name not in declared
    }


def _output(name: str, entry: Any, warmup: int, batch: int) -> Output:
    """Tell averages from direct outputs: they warm up for longer."""
    num_warmup = int(_get(entry, "num_warmup"))
    size = int(_get(entry, "size"))
    if size == batch and num_warmup == warmup:
        return Output(num_warmup, size)
    if size % batch == 0 and num_warmup % (size // batch) == 0:
        num_updates = num_warmup // (size // batch) - warmup + 1
        if num_updates >= 1:
            return Output(num_warmup, size, num_updates)
    msg = (
        f"output {name!r} has {size} items per update of {batch} kernels, and"
        f" warms up for {num_warmup}, which is neither one prediction per"
        " kernel nor an average: give outputs={"
        f"{name!r}: Output(num_warmup, size, num_updates)}}"
    )
    raise InvalidSeries(msg)


def _entries(entries: Any) -> dict[str, Any]:
    if isinstance(entries, Mapping):
        return dict(entries)
    return {_get(entry, "name"): entry for entry in entries}


def _get(entry: Any, key: str) -> Any:
    try:
        if isinstance(entry, Mapping):
            return entry[key]
        return getattr(entry, key)
    except (AttributeError, KeyError) as error:
        msg = (
            f"{entry!r} says nothing of {key!r}: give the stream of a model's"
            " spec, or its parameter hermes.stream as a dict"
        )
        raise InvalidSeries(msg) from error


def _snap(samples: float) -> float:
    """What is meant to be a whole number of samples, is."""
    nearest = round(samples)
    return nearest if abs(samples - nearest) < 1e-6 else samples


def check(layout: Layout, name: str) -> None:
    """Make sure that an output's layout is one.

    Raises:
        InvalidSeries: If it is not.
    """
    for option in ("stride_size", "snapshot_size", "batch_size"):
        check_size(option, getattr(layout, option))
    output = layout.output
    check_size(f"size of output {name!r}", output.size)
    if output.num_updates is not None:
        check_size(f"num_updates of output {name!r}", output.num_updates)
    is_direct = output.num_updates is None
    if output.size % layout.batch_size or (is_direct and layout.block != 1):
        msg = (
            f"output {name!r} has {output.size} items per update of"
            f" {layout.batch_size} kernels: give one for each kernel, or for"
            " averages a multiple, and num_updates"
        )
        raise InvalidSeries(msg)
    if layout.reference not in get_args(Reference):
        msg = (
            f"reference={layout.reference!r} of output {name!r}: give one of"
            f" {', '.join(get_args(Reference))}"
        )
        raise InvalidSeries(msg)
    if not math.isfinite(layout.offset):
        msg = f"offset={layout.offset!r} of output {name!r}: give seconds"
        raise InvalidSeries(msg)
