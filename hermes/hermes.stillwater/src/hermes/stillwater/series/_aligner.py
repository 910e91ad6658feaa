"""The stage that gives predictions their times."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

from hermes.stillwater.errors import InvalidSeries
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series._chunks import (
    Array,
    Prediction,
    SequenceEnd,
    Series,
)
from hermes.stillwater.series._grid import sample_number
from hermes.stillwater.series._layout import (
    Layout,
    Output,
    Reference,
    check,
    read_outputs,
)

__all__ = ("Aligner",)

T = TypeVar("T")

_END: Reference = "end"


class Aligner(PipelineProcess):
    """Give predictions the times that they speak about.

    Drops what is not valid: predictions of the warm-up, whose kernels begin
    before their sequence did, and those of kernels that reach into padding.
    A `Prediction` becomes a `Series` for each output with any valid items; a
    `SequenceEnd` passes through.

    A kernel lasts from its first sample to ``kernel_length`` later, which is
    the time of the first sample after it. A prediction for a kernel speaks
    about its ``"start"``, ``"centre"`` or ``"end"``, plus the offset: a
    merger 0.25 s before the end of the kernel, whitened with an ``fduration``
    of 1 s (half of it cropped from each side), is ``reference="end",
    offset=-0.25 - 0.5``, if the network counts from the end of what it sees.

    The samples of an average speak about themselves: the last sample of each
    prediction is taken for that of its kernel. What the network crops there
    is a negative offset; `reference` does not apply. The delay of averaging,
    ``num_updates - 1`` strides, is accounted for.

    Args:
        stream: What the model says of its stream: ``client.spec`` or its
            ``stream``, or the parameter ``hermes.stream`` as a dict.
        stride_size: Samples between consecutive kernels; with the next
            three instead of ``stream``.
        snapshot_size: Samples in a kernel.
        batch_size: Kernels in an update.
        outputs: What is known of each output, by name.
        only: Names of outputs to keep; None for all.
        reference: Which time of its kernel a prediction speaks about, or
            that for each output by name.
        offset: Seconds to add to it, or that for each output by name.
        drop_filled: Whether to drop what depends on samples that fill a gap;
            else `Series.filled` says where.
        name: See `PipelineProcess`.
        **options: See `PipelineProcess`. There is one worker: order matters.

    Shapes:
        a direct output: ``(batch_size, ...)``
        an averaged output: ``(1, channels, size)`` or ``(1, size)``
        series: ``(times, ...)`` or ``(times, channels)`` or ``(times,)``

    Raises:
        InvalidSeries: If the options make no sense.
    """

    def __init__(
        self,
        stream: Any = None,
        *,
        stride_size: int | None = None,
        snapshot_size: int | None = None,
        batch_size: int = 1,
        outputs: Mapping[str, Output] | None = None,
        only: tuple[str, ...] | None = None,
        reference: Reference | Mapping[str, Reference] = "end",
        offset: float | Mapping[str, float] = 0.0,
        drop_filled: bool = False,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        _check_alone(self.workers)
        if stream is not None:
            sizes, known = read_outputs(stream, outputs or ())
        else:
            sizes = _sizes(stride_size, snapshot_size, batch_size)
            known = {}
        known |= outputs or {}
        self._only = _check_only(only, known)
        self._drop_filled = drop_filled
        references = _spread("reference", reference, known, _END)
        offsets = _spread("offset", offset, known, 0.0)
        self._layouts = {
            output: Layout(
                *sizes, known[output], references[output], offsets[output]
            )
            for output in self._only
        }
        for output, layout in self._layouts.items():
            check(layout, output)
        self._known = tuple(known)
        self._update_size = sizes[0] * sizes[2]
        self._memory_size = max(
            layout.memory_size for layout in self._layouts.values()
        )
        self._sequences: dict[Hashable, _Course] = {}

    def process(
        self, package: Prediction | SequenceEnd
    ) -> Iterator[Series | SequenceEnd]:
        """Give the valid items of a prediction their times.

        Args:
            package: A `Prediction`, or a `SequenceEnd`.

        Raises:
            InvalidSeries: If an update was left out, or the outputs are
                others than declared.
        """
        if isinstance(package, SequenceEnd):
            self._sequences.pop(package.sequence, None)
            yield package
        elif isinstance(package, Prediction):
            yield from self._align(package)
        else:
            msg = (
                f"{type(package).__name__} came to an Aligner, which takes"
                " Predictions: let the stage before it give"
                " update.answer(outputs)"
            )
            raise InvalidSeries(msg)

    def _align(self, prediction: Prediction) -> Iterator[Series]:
        unknown = set(prediction.outputs).difference(self._known)
        missing = set(self._layouts).difference(prediction.outputs)
        if unknown or missing:
            msg = (
                f"a prediction has the outputs {[*prediction.outputs]}, but"
                f" {[*self._known]} were declared: give outputs for all, and"
                " only for those to keep"
            )
            raise InvalidSeries(msg)
        first = sample_number(prediction.start, prediction.sample_rate)
        course = self._sequences.setdefault(prediction.sequence, _Course())
        course.follow(prediction, first, self._update_size, self._memory_size)
        for output, layout in self._layouts.items():
            items = layout.valid(prediction.index, prediction.num_padded)
            if items:
                yield from self._cut(output, layout, prediction, items, first)

    def _cut(
        self,
        name: str,
        layout: Layout,
        prediction: Prediction,
        items: range,
        first: int,
    ) -> Iterator[Series]:
        values = _time_first(name, prediction.outputs[name], layout, items)
        rate = prediction.sample_rate
        times = layout.times(first, items, rate)
        ranges = self._sequences[prediction.sequence].filled
        filled = layout.is_filled(first, items, ranges) if ranges else None
        if filled is None or not filled.any():
            runs, filled = [slice(None)], None
        elif self._drop_filled:
            runs, filled = _runs(~filled), None
        else:
            runs = [slice(None)]
        for run in runs:
            yield Series(
                name,
                values[run],
                times[run],
                layout.sample_rate(rate),
                prediction.sequence,
                filled,
            )


class _Course:
    """How far a sequence is, and where it was filled of late."""

    def __init__(self) -> None:
        self.filled: list[tuple[int, int]] = []
        self._index = 0
        self._next: int | None = None

    def follow(
        self,
        prediction: Prediction,
        first: int,
        update_size: int,
        memory_size: int,
    ) -> None:
        """Take the next prediction into account.

        Raises:
            InvalidSeries: If it is not the next.
        """
        expected = first if self._next is None else self._next
        if (prediction.index, first) != (self._index, expected):
            msg = (
                f"prediction {prediction.index} of sequence"
                f" {prediction.sequence!r} at GPS {prediction.start!r} came"
                f" where {self._index} at GPS"
                f" {expected / prediction.sample_rate!r} was due: give all"
                f" predictions in order, for updates of {update_size} samples"
            )
            raise InvalidSeries(msg)
        self._index += 1
        self._next = first + update_size
        self.filled = [r for r in self.filled if r[1] > first - memory_size]
        self.filled += [(first + a, first + b) for a, b in prediction.filled]


def _time_first(
    name: str, values: Array, layout: Layout, items: range
) -> Array:
    """Bring the axis of time to the front, and cut the valid items.

    Raises:
        InvalidSeries: If there are not as many.
    """
    if layout.output.num_updates is not None:
        if values.ndim not in {2, 3} or values.shape[0] != 1:
            msg = (
                f"output {name!r} has shape {values.shape}, but averages have"
                " (1, channels, samples) or (1, samples): declare it without"
                " num_updates if it has one prediction for each kernel"
            )
            raise InvalidSeries(msg)
        values = values[0].T
    size = values.shape[0] if values.ndim else 0
    if size not in {layout.output.size, items.stop}:
        msg = (
            f"output {name!r} has {size} items for an update, but"
            f" {layout.output.size} were declared (of which {items.stop} speak"
            " of data): give the model's own sizes"
        )
        raise InvalidSeries(msg)
    return values[items.start : items.stop]


def _runs(keep: Array) -> list[slice]:
    """Stretches of what is to be kept."""
    runs, begin = [], None
    for i, good in enumerate([*keep, False]):
        if good and begin is None:
            begin = i
        elif not good and begin is not None:
            runs.append(slice(begin, i))
            begin = None
    return runs


def _check_alone(workers: int) -> None:
    if workers != 1:
        msg = (
            f"workers={workers}, but predictions must be aligned in order by"
            " one: leave workers out"
        )
        raise InvalidSeries(msg)


def _sizes(
    stride_size: int | None, snapshot_size: int | None, batch_size: int
) -> tuple[int, int, int]:
    if stride_size is None or snapshot_size is None:
        msg = (
            "how kernels lie is unknown: give stream (such as client.spec), or"
            " stride_size, snapshot_size, batch_size and outputs"
        )
        raise InvalidSeries(msg)
    return stride_size, snapshot_size, batch_size


def _check_only(
    only: tuple[str, ...] | None, known: Mapping[str, Output]
) -> tuple[str, ...]:
    names = tuple(known) if only is None else tuple(only)
    if not names or not set(names) <= set(known):
        msg = (
            f"only={only!r} of the outputs {[*known]}: give names of some of"
            " them, and outputs for those that the stream does not tell"
        )
        raise InvalidSeries(msg)
    return names


def _spread(
    option: str,
    value: T | Mapping[str, T],
    known: Mapping[str, Output],
    default: T,
) -> dict[str, T]:
    """A value for each output, of one value or some by name."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(known, value)
    if not set(value) <= set(known):
        msg = (
            f"{option} is given for {[*value]}, but the outputs are"
            f" {[*known]}: give names of these"
        )
        raise InvalidSeries(msg)
    return dict.fromkeys(known, default) | dict(value)
