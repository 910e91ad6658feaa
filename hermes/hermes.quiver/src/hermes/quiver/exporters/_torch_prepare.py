"""A ``torch.nn.Module`` that ran on examples of what it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._described import Known, describe_inputs
from hermes.quiver.exporters._inputs import (
    Described,
    asked_shapes,
    by_name,
    map_entries,
)
from hermes.quiver.exporters._names import name_outputs
from hermes.quiver.exporters._torch_network import (
    Flat,
    arguments_of,
    as_array,
    as_tensors,
    bare,
    dtype_of,
    evaluating,
    exact,
    run,
)
from hermes.quiver.exporters._types import Arrays, Request, TensorInfo

__all__ = ("Prepared", "prepare")


@dataclass(frozen=True)
class Prepared:
    """A network that ran on examples.

    Attributes:
        network: The network.
        described: What it takes.
        samples: The examples.
        outputs: What it gave, by the names that outputs are to have.
        others: Examples of other sizes.
    """

    network: Flat
    described: Described
    samples: Arrays
    outputs: Mapping[str, torch.Tensor]
    others: tuple[Arrays, ...]

    @property
    def name(self) -> str:
        """What the network is called in errors."""
        return type(self.network.network).__qualname__

    @property
    def shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """Shapes of its inputs."""
        return self.described.shapes

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The examples."""
        return as_tensors(self.samples, self.network.device)

    def reference(self, arrays: Arrays) -> list[npt.NDArray[Any]]:
        """What the network gives, in order; it is left as it was."""
        with evaluating(self.network), exact(self.network.device):
            return [as_array(output) for output in self._run(arrays)]

    def _run(self, arrays: Arrays) -> list[torch.Tensor]:
        outputs = list(run(self.network, arrays).values())
        if len(outputs) != len(self.outputs):
            sizes = {name: array.shape for name, array in arrays.items()}
            msg = (
                f"{self.name} gives {len(outputs)} outputs for inputs of"
                f" {sizes}, and {len(self.outputs)} for its example; let it"
                " give tensors whose number does not depend on sizes"
            )
            raise InvalidInput(msg)
        return outputs

    def negated(self) -> list[Arrays]:
        """The examples with the other sign, if it runs on them."""
        arrays = {
            name: -array if array.dtype.kind == "f" else array
            for name, array in self.samples.items()
        }
        return list(_runnable(self.network, [arrays]))

    def output_infos(self) -> tuple[TensorInfo, ...]:
        """Its outputs, with the axes variable that are seen to vary."""
        results = [
            self._run(arrays) for arrays in (*self.others, *self._one_more())
        ]
        return tuple(
            TensorInfo(
                name, _common_shape(tensors), as_array(tensors[0]).dtype
            )
            for name, *tensors in zip(
                self.outputs, self.outputs.values(), *results, strict=True
            )
        )

    def _one_more(self) -> list[Arrays]:
        if not any(shape[:1] == (None,) for shape in self.shapes.values()):
            return []
        return [
            {
                name: np.concatenate([array, array[:1]])
                if self.shapes[name][:1] == (None,)
                else array
                for name, array in self.samples.items()
            }
        ]


def _common_shape(tensors: Sequence[torch.Tensor]) -> tuple[int | None, ...]:
    return tuple(
        sizes[0] if len({*sizes}) == 1 else None
        for sizes in zip(*(t.shape for t in tensors), strict=True)
    )


def prepare(network: torch.nn.Module, request: Request) -> Prepared:
    """Find examples on which a network runs, and what it gives.

    Raises:
        InvalidInput: If there are none, or the request does not fit.
    """
    network = bare(network)
    samples = map_entries(as_array, request.samples)
    request = dataclasses.replace(request, samples=samples)
    names = request.input_names or _asked(network, request)
    known = [Known(name) for name in names]
    described = describe_inputs(request, known, dtype_of(network))
    named = None if request.input_names else list(described.shapes)
    flat = Flat(network, named)
    examples, outputs = _first_that_runs(flat, described)
    output_names = name_outputs(request, list(outputs), list(examples))
    return Prepared(
        flat,
        described,
        examples,
        dict(zip(output_names, outputs.values(), strict=True)),
        tuple(_runnable(flat, described.resized(examples)))[:1],
    )


def _asked(network: torch.nn.Module, request: Request) -> list[str]:
    """The arguments that are described; others keep their defaults."""
    arguments = arguments_of(network, _keywords(request))
    samples = by_name("sample_inputs", request.samples, arguments)
    shapes = by_name(*asked_shapes(request, bool(samples)), arguments)
    asked = [name for name in arguments if name in shapes or name in samples]
    return asked or list(arguments[:1])  # which is then asked for


def _keywords(request: Request) -> list[str]:
    given = [request.declared, request.shapes, request.samples]
    return list(
        dict.fromkeys(k for d in given if isinstance(d, Mapping) for k in d)
    )


def _first_that_runs(
    network: Flat, described: Described
) -> tuple[Arrays, dict[str, torch.Tensor]]:
    errors = []
    for arrays in described.examples():
        try:
            return arrays, run(network, arrays)
        except InvalidInput as error:
            errors.append(error)
    ran = errors[0].__cause__ is None  # but gave what cannot be exported
    if ran or {*described.given} == {*described.shapes}:
        raise errors[0]
    msg = f"{errors[0]}; what it takes can be shown in sample_inputs"
    raise InvalidInput(msg) from errors[0]


def _runnable(network: Flat, examples: Iterable[Arrays]) -> Iterator[Arrays]:
    for arrays in examples:
        with suppress(InvalidInput):
            run(network, arrays)
            yield arrays
