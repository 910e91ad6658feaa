"""Pure: what a network takes, examples of it, and what users say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver._examples import example
from hermes.quiver.config import Dims
from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Arrays, Request

__all__ = (
    "Described",
    "as_shape",
    "asked_shapes",
    "by_name",
    "check_entries",
    "fits",
    "is_one",
    "map_entries",
    "refuse_unknown",
)

# Frameworks take an axis of size 0 or 1 for a constant, so that an example of
# a variable batch must have at least two rows.
_BATCH = 2
# Tried one after another for other variable axes: networks have a smallest
# input, and some a largest.
_SIZES = (64, 16, 256, 1024, 8192)
_CONFIGURATION = "the configuration"


@dataclass(frozen=True)
class Described:
    """The inputs of a network, in the order of its arguments.

    Attributes:
        shapes: Their shapes; None is variable.
        dtypes: Their dtypes.
        given: Examples of them, as far as the user gave any.
    """

    shapes: Mapping[str, tuple[int | None, ...]]
    dtypes: Mapping[str, np.dtype]
    given: Arrays

    @property
    def guessed(self) -> list[str]:
        """Inputs with sizes that nobody knows but the network."""
        return [
            name
            for name, shape in self.shapes.items()
            if name not in self.given and None in shape[1:]
        ]

    def examples(self) -> Iterator[Arrays]:
        """Examples of all inputs: the first on which it runs is to be used."""
        for size in _SIZES if self.guessed else _SIZES[:1]:
            rng = np.random.default_rng(0)
            yield {
                name: self._example(name, size, rng) for name in self.shapes
            }

    def _example(
        self, name: str, size: int, rng: np.random.Generator
    ) -> npt.NDArray[Any]:
        shape = self.shapes[name]
        if name not in self.given:
            sizes = [
                d if d is not None else size if axis else self._batch
                for axis, d in enumerate(shape)
            ]
            return example(rng, sizes, self.dtypes[name])
        given = self.given[name]
        if shape[:1] == (None,) and len(given) == 1:
            return np.repeat(given, self._batch, axis=0)
        return given

    @property
    def _batch(self) -> int:
        """Rows of the examples whose batch is variable: alike for all."""
        rows = [
            len(array)
            for name, array in self.given.items()
            if self.shapes[name][:1] == (None,)
        ]
        return max([_BATCH, *rows])

    def resized(self, arrays: Arrays) -> Iterator[Arrays]:
        """The same with other sizes of the variable axes but the batch.

        First twice as long, then half as long: what a size has to be a
        multiple of, these mostly are too. Nothing where no axis is variable.
        """
        axes = {
            name: [axis for axis, d in enumerate(shape) if axis and d is None]
            for name, shape in self.shapes.items()
        }
        if not any(axes.values()):
            return
        for change in (_double, _halve):
            yield {n: change(array, axes[n]) for n, array in arrays.items()}


def _double(array: npt.NDArray[Any], axes: Sequence[int]) -> npt.NDArray[Any]:
    for axis in axes:
        array = np.concatenate([array, array], axis)
    return array


def _halve(array: npt.NDArray[Any], axes: Sequence[int]) -> npt.NDArray[Any]:
    for axis in axes:
        array = np.take(array, range(max(1, array.shape[axis] // 2)), axis)
    return array


def asked_shapes(request: Request, has_samples: bool) -> tuple[str, Any]:
    """Shapes that are asked for, and what errors call whoever asks."""
    if request.shapes is not None:
        return "input_shapes", request.shapes
    return _CONFIGURATION, None if has_samples else request.declared or None


def is_one(values: object) -> bool:
    """Whether these are one sample or shape, not one for each input."""
    return hasattr(values, "shape") or (
        isinstance(values, Sequence)
        and any(value is None or isinstance(value, int) for value in values)
    )


def check_entries(request: Request) -> None:
    """Refuse descriptions of inputs that describe nothing.

    Raises:
        InvalidInput: If there are any.
    """
    for what, values in (
        ("input_shapes", request.shapes),
        ("sample_inputs", request.samples),
    ):
        if not (
            values is None
            or isinstance(values, (Mapping, Sequence))
            or is_one(values)
        ):
            msg = (
                f"{what}={values!r}: give a list with an entry for each"
                " input, or a dict of them by name"
            )
            raise InvalidInput(msg)
    map_entries(_check_sample, request.samples)


def map_entries(call: Callable[[Any], Any], values: Any) -> Any:
    """Call for each entry of what users describe inputs by.

    Returns:
        The results in its form: by name, in order, or the only one.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: call(value) for name, value in values.items()}
    if is_one(values):
        return call(values)
    return [call(value) for value in values]


def _check_sample(sample: Any) -> None:
    try:
        shape = np.shape(sample)
    except ValueError as error:
        msg = f"sample_inputs has an example that is no array: {error}"
        raise InvalidInput(msg) from error
    if 0 in shape:
        msg = (
            f"sample_inputs has an example of shape {tuple(shape)}: without a"
            " value it shows nothing"
        )
        raise InvalidInput(msg)


def as_shape(name: str, shape: Any) -> tuple[int | None, ...]:
    """A shape of an input, as it was given, with None where it is variable.

    Raises:
        InvalidInput: If it is none.
    """
    plain = shape.tolist() if isinstance(shape, np.ndarray) else shape
    sizes = list(plain) if isinstance(plain, Sequence) else [0]
    for size in sizes:
        if size is not None and (
            not hasattr(size, "__index__") or size < -1 or size == 0
        ):
            msg = (
                f"input_shapes: {shape!r} is no shape of {name!r}; give one"
                " for each input, of whole numbers from 1 and None (or -1)"
                " where it is variable, e.g. [(None, 2, 8192)]"
            )
            raise InvalidInput(msg)
    return tuple(None if d is None or d < 0 else int(d) for d in sizes)


def by_name(
    what: str, values: Any, arguments: Sequence[str]
) -> dict[str, Any]:
    """Give what the user gave by name or in order, by name and in order.

    Args:
        what: What errors call it.
        values: One for each input, or the only one.
        arguments: Names of what the network takes.

    Raises:
        InvalidInput: If the network has no such arguments.
    """
    if values is None:
        return {}
    takes = f"the network takes {[*arguments]}"
    if isinstance(values, Mapping):
        unknown = [name for name in values if name not in arguments]
        if unknown:
            msg = f"{what} names {unknown}, but {takes}{_hint(what)}"
            raise InvalidInput(msg)
        return {name: values[name] for name in arguments if name in values}
    if is_one(values):
        values = [values]
        if len(arguments) > 1:
            msg = (
                f"{what} has an entry for each input: give them in a list, or"
                f" by name as {{{arguments[0]!r}: ...}}; {takes}"
            )
            raise InvalidInput(msg)
    if len(values) > len(arguments):
        msg = f"{what} has {len(values)} entries, but {takes}"
        raise InvalidInput(msg)
    return dict(zip(arguments, values, strict=False))


def _hint(what: str) -> str:
    """What to do where an earlier version had other names."""
    return "; give input_names" if what == _CONFIGURATION else ""


def fits(shape: Dims, wanted: Dims | None) -> bool:
    """Whether a shape is one of those that are wanted."""
    return wanted is None or (
        len(shape) == len(wanted)
        and all(
            limit in {None, size}
            for size, limit in zip(shape, wanted, strict=True)
        )
    )


def refuse_unknown(
    options: Mapping[str, Any], known: Sequence[str], where: str
) -> None:
    """Refuse options that an exporter does not have.

    Raises:
        InvalidInput: If there are any.
    """
    unknown = sorted({*options} - {*known})
    if unknown:
        takes = ", ".join(sorted(known)) or "none"
        msg = f"unknown option {unknown}; {where} takes: {takes}"
        raise InvalidInput(msg)
