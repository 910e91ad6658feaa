"""A ``torch.nn.Module`` as exporters see it: arrays in order, in and out."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hermes.quiver import dtypes
from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._inputs import Described, describe_inputs
from hermes.quiver.exporters._types import Arrays, Request, TensorInfo

__all__ = (
    "Prepared",
    "as_array",
    "as_tensors",
    "evaluating",
    "prepare",
)

# numpy has none of its own, and torch does not know the one that we use.
_BFLOAT16 = dtypes.from_triton("TYPE_BF16")


class _Flat(torch.nn.Module):
    """Takes tensors in order, and gives a tuple of them.

    With ``arguments`` it passes them on by name, so that others in between
    keep their defaults.
    """

    def __init__(
        self, network: torch.nn.Module, arguments: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.network = network
        self.arguments = arguments
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.outputs(*tensors).values())

    def outputs(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name."""
        if self.arguments is None:
            result = self.network(*tensors)
        else:
            named = dict(zip(self.arguments, tensors, strict=True))
            result = self.network(**named)
        return _flatten(result)

    def with_signature(self, names: Sequence[str]) -> _Flat:
        """The same with a ``forward`` whose arguments have names."""
        parameter = inspect.Parameter
        sane = [
            name if name.isidentifier() else f"input_{i}"
            for i, name in enumerate(("self", *names), start=-1)
        ]

        def forward(self: _Flat, *tensors: torch.Tensor) -> Any:
            outputs = _Flat.forward(self, *tensors)
            return outputs if len(outputs) > 1 else outputs[0]

        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter(n, parameter.POSITIONAL_OR_KEYWORD) for n in sane]
        )
        named = type("Named", (_Flat,), {"forward": forward})
        flat: _Flat = named(self.network, self.arguments)
        return flat

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")


def _flatten(result: Any) -> dict[str, torch.Tensor]:
    """Tensors in dicts, sequences and dataclasses, named by their paths."""
    if isinstance(result, torch.Tensor):
        return {"output_0": result}
    pairs: list[tuple[str, torch.Tensor]] = []
    for path, tensor in _leaves(result, ()):
        # Triton's names have no place for a path that begins with a number.
        prefix = ("output",) if path[0].isdigit() else ()
        pairs.append(("_".join((*prefix, *path)), tensor))
    names = [name for name, _ in pairs]
    if len({*names}) != len(names):
        msg = f"the network's outputs have the same names: {names}"
        raise InvalidInput(msg)
    return dict(pairs)


def _leaves(
    result: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if result is None:
        return
    if isinstance(result, torch.Tensor):
        yield path, result
        return
    for key, item in _items(result, path):
        yield from _leaves(item, (*path, str(key)))


def _items(result: Any, path: tuple[str, ...]) -> list[tuple[Any, Any]]:
    if isinstance(result, Mapping):
        return list(result.items())
    if hasattr(result, "_fields"):  # a named tuple
        return list(zip(result._fields, result, strict=True))
    if isinstance(result, tuple | list):
        return list(enumerate(result))
    if dataclasses.is_dataclass(result):
        return [
            (f.name, getattr(result, f.name))
            for f in dataclasses.fields(result)
        ]
    where = f" as {'.'.join(path)}" if path else ""
    msg = (
        f"the network returns a {type(result).__qualname__}{where}; wrap it in"
        " a module that returns tensors, or tuples, lists, dicts or"
        " dataclasses of them"
    )
    raise InvalidInput(msg)


def _bare(network: Any) -> torch.nn.Module:
    """The network inside of what makes it faster, or runs it on many GPUs."""
    parallel = (
        torch.nn.DataParallel,
        torch.nn.parallel.DistributedDataParallel,
    )
    if isinstance(network, parallel):
        return _bare(network.module)
    compiled = getattr(network, "_orig_mod", None)
    return network if compiled is None else _bare(compiled)


def _arguments_of(network: torch.nn.Module) -> list[str]:
    """Names of what ``forward`` takes.

    Raises:
        InvalidInput: If it has no names for its arguments.
    """
    if isinstance(network, torch.jit.ScriptModule):
        return [a.name for a in network.forward.schema.arguments[1:]]
    parameters = inspect.signature(network.forward).parameters.values()
    named = [
        p.name
        for p in parameters
        if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}
    ]
    if not named:
        msg = (
            f"forward of {type(network).__qualname__} takes"
            f" {inspect.signature(network.forward)}, which has no names; give"
            " input_names=[...]"
        )
        raise InvalidInput(msg)
    return named


def _dtype_of(network: torch.nn.Module) -> np.dtype:
    """The dtype of most inputs: that of the network's own numbers."""
    kinds = [p.dtype for p in network.parameters() if p.is_floating_point()]
    return as_array(torch.empty(0, dtype=(*kinds, torch.float32)[0])).dtype


def as_array(value: Any) -> npt.NDArray[Any]:
    """A tensor, wherever it is, as an array; anything else as numpy does."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def as_tensors(
    arrays: Arrays, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Tensors of their own memory."""
    return tuple(_tensor(array).to(device) for array in arrays.values())


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    # ascontiguousarray would make a vector of a scalar
    array = np.array(array, order="C")
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; everything is then what it was.

    Each submodule gets its own mode back, and the generators of random
    numbers their states.
    """
    training = [m for m in network.modules() if getattr(m, "training", False)]
    cuda = {t.device.index for t in network.parameters() if t.is_cuda}
    try:
        with torch.random.fork_rng(sorted(cuda)), torch.no_grad():
            if training:  # a frozen ScriptModule has no mode
                network.eval()
            yield
    finally:
        for module in training:
            module.training = True


def _run(network: _Flat, arrays: Arrays) -> dict[str, torch.Tensor]:
    """The network's outputs by name.

    Raises:
        InvalidInput: If it does not run on such inputs.
    """
    try:
        outputs = network.outputs(*as_tensors(arrays, network.device))
    except InvalidInput:
        raise
    except Exception as error:
        shapes = {
            name: f"{array.dtype}{list(array.shape)}"
            for name, array in arrays.items()
        }
        msg = f"the network does not run on inputs of {shapes}: {error}"
        raise InvalidInput(msg) from error
    for name, tensor in outputs.items():
        if tensor.is_complex():
            msg = (
                f"output {name!r} is {tensor.dtype}, which Triton has not;"
                " return torch.view_as_real(...) of it"
            )
            raise InvalidInput(msg)
    return outputs


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

    network: _Flat
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
        with evaluating(self.network):
            outputs = _run(self.network, arrays)
        return [as_array(output) for output in outputs.values()]

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
            _run(self.network, arrays).values()
            for arrays in (*self.others, *self._one_more())
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
    network = _bare(network)
    arguments = list(request.input_names or _arguments_of(network))
    samples = request.samples
    if isinstance(samples, Mapping):
        samples = {name: as_array(s) for name, s in samples.items()}
    elif samples is not None:
        samples = [as_array(sample) for sample in samples]
    request = dataclasses.replace(request, samples=samples)
    described = describe_inputs(request, arguments, _dtype_of(network))
    named = None if request.input_names else list(described.shapes)
    flat = _Flat(network, named)
    examples, outputs = _first_that_runs(flat, described)
    names = _output_names(request, list(outputs), list(examples))
    return Prepared(
        flat,
        described,
        examples,
        dict(zip(names, outputs.values(), strict=True)),
        tuple(_runnable(flat, described.resized(examples)))[:1],
    )


def _first_that_runs(
    network: _Flat, described: Described
) -> tuple[Arrays, dict[str, torch.Tensor]]:
    errors = []
    for arrays in described.examples():
        try:
            return arrays, _run(network, arrays)
        except InvalidInput as error:
            errors.append(error)
    if {*described.given} == {*described.shapes}:
        raise errors[0]
    msg = f"{errors[0]}; what it takes can be shown in sample_inputs"
    raise InvalidInput(msg) from errors[0]


def _runnable(network: _Flat, examples: Iterable[Arrays]) -> Iterator[Arrays]:
    for arrays in examples:
        with suppress(InvalidInput):
            _run(network, arrays)
            yield arrays


def _output_names(
    request: Request, natural: Sequence[str], inputs: Sequence[str]
) -> list[str]:
    names = request.output_names
    if names is None:
        declared = [tensor.name for tensor in request.outputs]
        fits = len(declared) == len(natural)
        names = declared if fits and {*declared} != {*natural} else natural
    if isinstance(names, str) or len(names) != len(natural):
        msg = (
            f"output_names={names!r}, but the network gives {len(natural)}"
            f" ({', '.join(natural)})"
        )
        raise InvalidInput(msg)
    taken = [n for i, n in enumerate(names) if n in {*inputs, *names[:i]}]
    if taken:
        msg = (
            f"outputs {list(names)}: {taken} would be the names of two tensors"
            " (inputs count too); give others in output_names"
        )
        raise InvalidInput(msg)
    return list(names)
