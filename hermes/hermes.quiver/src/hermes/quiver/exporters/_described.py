"""Pure: what a network is known to take, and what is asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._inputs import (
    Described,
    as_shape,
    asked_shapes,
    by_name,
    fits,
    is_one,
)
from hermes.quiver.exporters._names import as_declared
from hermes.quiver.exporters._types import Request

__all__ = (
    "Call",
    "Known",
    "Source",
    "arguments",
    "describe_inputs",
)

Shape = tuple[int | None, ...]
# Arguments that have no name of their own.
_REST = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


@dataclass(frozen=True)
class Known:
    """What a network tells of an input.

    Attributes:
        name: Its name there.
        shape: The shape that it takes; None if it does not say.
        dtype: The dtype that it takes; None if it does not say.
        is_binding: Whether it takes no other shape; else it is a default.
        is_invented: Whether nobody chose the name.
    """

    name: str
    shape: Shape | None = None
    dtype: np.dtype | None = None
    is_binding: bool = True
    is_invented: bool = False


@dataclass(frozen=True)
class Source:
    """A network, made ready for what takes functions of tensors.

    Attributes:
        name: What errors call it.
        inputs: What it takes.
        form: How errors say that it takes them.
        call: Gives the result of a sequence of tensors, in inference mode.
        output_names: Names of its outputs, where the result has none.
        invented: Those of them that nobody chose.
        owner: Owns its variables.
        unchanged: Leaves the network's state as it was.
    """

    name: str
    inputs: Described
    call: Callable[[Sequence[Any]], Any]
    output_names: Sequence[str] = ()
    invented: Collection[str] = ()
    form: str = ""
    owner: Any = None
    unchanged: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Call:
    """How a function takes its tensors.

    Attributes:
        names: Of the tensors, in their order.
        form: ``list`` or ``dict`` where one argument takes them all.
        options: Passed beside them.
        keywords: Names of the arguments that take them; None is by position.
        argument: The one that takes them all, if it has a name.
    """

    names: tuple[str, ...]
    form: type | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    keywords: tuple[str, ...] | None = None
    argument: str = ""

    @property
    def form_in_words(self) -> str:
        """How tensors are given that share an argument."""
        kind = self.form and self.form.__name__
        return f" in one {kind}, its {self.argument!r}" if kind else ""

    def __call__(
        self, function: Callable[..., Any], tensors: Sequence[Any]
    ) -> Any:
        """Call the function."""
        if self.form is dict:
            named = dict(zip(self.names, tensors, strict=True))
            return function(named, **self.options)
        if self.form is list:
            return function(list(tensors), **self.options)
        if self.keywords is None:
            return function(*tensors, **self.options)
        named = dict(zip(self.keywords, tensors, strict=True))
        return function(**named, **self.options)


def arguments(function: Callable[..., Any], request: Request) -> Call:
    """Find out how a function takes the tensors that a request describes.

    Raises:
        InvalidInput: If it does not take that many, or none of those names.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [
        p for p in parameters if p.kind not in _REST and p.name != "training"
    ]
    in_order = [p for p in named if _is_in_order(p)]
    names = [p.name for p in in_order]
    needed = [p.name for p in in_order if p.default is p.empty]
    options = {p.name: False for p in parameters if p.name == "training"}
    given = _given(request, len(needed))
    own = tuple(given) if isinstance(given, Mapping) else None
    if not given and not needed:
        msg = "nothing says what the network takes; give sample_inputs"
        raise InvalidInput(msg)
    if given is None:
        return Call(tuple(needed), options=options)
    if own is not None and {*own} <= {p.name for p in named}:
        chosen = tuple(p.name for p in named if p.name in own)
        return Call(chosen, options=options, keywords=chosen)
    if own is None and len(given) <= len(names):
        return Call(tuple(names[: len(given)]), options=options)
    return _in_one(names, needed, given, options)


def _is_in_order(parameter: inspect.Parameter) -> bool:
    """Whether a tensor is meant for it that comes without a name."""
    is_keras_mask = (
        parameter.name == "mask" and parameter.default is not parameter.empty
    )
    return parameter.kind is not parameter.KEYWORD_ONLY and not is_keras_mask


def _in_one(
    names: Sequence[str],
    needed: Sequence[str],
    given: Any,
    options: Mapping[str, Any],
) -> Call:
    """One argument takes them all, or any number of them."""
    own = tuple(given) if isinstance(given, Mapping) else None
    first = needed[0] if needed else "input"
    numbered = tuple(f"{first}_{i}" for i in range(len(given)))
    if not names:
        return Call(own or numbered, options=options)
    if len(needed) == 1:
        form = list if own is None else dict
        return Call(own or numbered, form, options, argument=first)
    msg = (
        f"the network takes {[*names]}, but described are"
        f" {len(given) if own is None else [*own]}"
    )
    raise InvalidInput(msg)


def _given(request: Request, count: int) -> Any:
    """What says which tensors there are."""
    for values in (request.input_names, request.samples, request.shapes):
        if values is not None:
            return [values] if is_one(values) else values
    declared = request.declared
    return [*declared.values()] if len(declared) == count else declared or None


def describe_inputs(
    request: Request,
    known: Sequence[Known],
    default: npt.DTypeLike = np.float32,
) -> Described:
    """Settle names, shapes and dtypes of a network's inputs.

    Args:
        request: What the user says of them.
        known: What the network tells of them.
        default: Dtype of those of which nothing else says it.

    Raises:
        InvalidInput: If the request does not fit the network.
    """
    names = _names(request, known)
    samples = by_name("sample_inputs", request.samples, names)
    shapes = by_name(*asked_shapes(request, bool(samples)), names)
    declared = {tensor.name: tensor.dtype for tensor in request.inputs}
    described, dtypes, given = {}, {}, {}
    for name, one in zip(names, known, strict=True):
        if name in samples:
            given[name] = _array(name, samples[name], one)
        sample = given.get(name)
        described[name] = _shape(name, shapes.get(name), sample, one)
        dtype = declared.get(name) if sample is None else sample.dtype
        dtypes[name] = one.dtype or dtype or np.dtype(default)
    return Described(described, dtypes, given)


def _names(request: Request, known: Sequence[Known]) -> list[str]:
    own = [one.name for one in known]
    if request.input_names is not None:
        names = list(request.input_names)
        if len(names) != len(own) or len({*names}) != len(names):
            msg = (
                f"input_names={names}, but the network takes {len(own)}"
                f" inputs, each with a name of its own: {own}"
            )
            raise InvalidInput(msg)
        return names
    invented = {one.name for one in known if one.is_invented}
    return as_declared(own, invented, list(request.declared))


def _array(name: str, sample: Any, known: Known) -> npt.NDArray[Any]:
    array = np.asarray(sample)
    if known.dtype is None or array.dtype == known.dtype:
        return array
    if not np.can_cast(array.dtype, known.dtype, "same_kind"):
        msg = (
            f"sample_inputs[{name!r}] is {array.dtype}, but the network takes"
            f" {known.dtype}"
        )
        raise InvalidInput(msg)
    return array.astype(known.dtype)


def _shape(
    name: str,
    given: Sequence[int | None] | None,
    sample: npt.NDArray[Any] | None,
    known: Known,
) -> Shape:
    shape = _shape_of(name, given, sample, known)
    if sample is not None and not fits(sample.shape, shape):
        msg = (
            f"sample_inputs[{name!r}] has shape {sample.shape}, which does"
            f" not fit {shape}"
        )
        raise InvalidInput(msg)
    return shape


def _shape_of(
    name: str,
    given: Sequence[int | None] | None,
    sample: npt.NDArray[Any] | None,
    known: Known,
) -> Shape:
    if given is not None:
        shape = as_shape(name, given)
        if known.is_binding and not fits(shape, known.shape):
            msg = (
                f"input_shapes[{name!r}] is {shape}, but the network takes"
                f" {known.shape}"
            )
            raise InvalidInput(msg)
        return shape
    if sample is not None and not (known.is_binding and known.shape):
        return (None, *sample.shape[1:]) if sample.ndim else ()
    if known.shape is None:
        msg = (
            "give input_shapes (or sample_inputs), e.g."
            f" input_shapes={{{name!r}: (None, 2, 8192)}}; the network does"
            " not know its own"
        )
        raise InvalidInput(msg)
    return known.shape
