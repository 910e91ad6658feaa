"""A ``torch.nn.Module`` as exporters see it: arrays in order, in and out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hermes.quiver import dtypes
from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._names import name_results, unique_names
from hermes.quiver.exporters._types import Arrays

__all__ = (
    "Flat",
    "arguments_of",
    "as_array",
    "as_tensors",
    "bare",
    "check_shapes",
    "dtype_of",
    "evaluating",
    "exact",
    "run",
    "unchanged",
)

# numpy has none of its own, and torch does not know the one that we use.
_BFLOAT16 = dtypes.from_triton("TYPE_BF16")
_cudnn: Any = torch.backends.cudnn
_GPU_PRECISIONS: tuple[Any, ...] = (
    _cudnn.conv,
    _cudnn.rnn,
    torch.backends.cuda.matmul,
)


class Flat(torch.nn.Module):
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
        """The outputs, by the names that they have in the result."""
        if self.arguments is None:
            result = self.network(*tensors)
        else:
            named = dict(zip(self.arguments, tensors, strict=True))
            result = self.network(**named)
        pairs = name_results(result, _is_tensor)
        names = [name or f"output_{i}" for i, (name, _) in enumerate(pairs)]
        values = [tensor for _, tensor in pairs]
        return dict(zip(unique_names(names, ()), values, strict=True))

    def with_signature(self, names: Sequence[str]) -> Flat:
        """The same with a ``forward`` whose arguments have names."""
        parameter = inspect.Parameter
        sane = [
            name if name.isidentifier() else f"input_{i}"
            for i, name in enumerate(("self", *names), start=-1)
        ]

        def forward(self: Flat, *tensors: torch.Tensor) -> Any:
            outputs = Flat.forward(self, *tensors)
            return outputs if len(outputs) > 1 else outputs[0]

        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter(n, parameter.POSITIONAL_OR_KEYWORD) for n in sane]
        )
        named = type("Named", (Flat,), {"forward": forward})
        flat: Flat = named(self.network, self.arguments)
        return flat

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def bare(network: Any) -> torch.nn.Module:
    """The network inside of what makes it faster, or runs it on many GPUs."""
    parallel = (
        torch.nn.DataParallel,
        torch.nn.parallel.DistributedDataParallel,
    )
    if isinstance(network, parallel):
        return bare(network.module)
    compiled = getattr(network, "_orig_mod", None)
    return network if compiled is None else bare(compiled)


def arguments_of(
    network: torch.nn.Module, keywords: Sequence[str]
) -> list[str]:
    """Names of what ``forward`` takes.

    Args:
        network: The network.
        keywords: Names to pass to a ``forward`` that takes any.

    Raises:
        InvalidInput: If it has no names for its arguments.
    """
    if isinstance(network, torch.jit.ScriptModule):
        script: Any = network
        return [a.name for a in script.forward.schema.arguments[1:]]
    signature = inspect.signature(network.forward)
    kinds = {p.name: p.kind for p in signature.parameters.values()}
    various = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    named = [name for name, kind in kinds.items() if kind not in various]
    if not named and inspect.Parameter.VAR_KEYWORD in kinds.values():
        named = list(keywords)
    if not named:
        msg = (
            f"forward of {type(network).__qualname__} takes {signature}, which"
            " has no names; give input_names=[...]"
        )
        raise InvalidInput(msg)
    return named


def dtype_of(network: torch.nn.Module) -> np.dtype:
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


def check_shapes(network: torch.nn.Module) -> None:
    """Refuse a network of lazy modules that has not been run.

    Raises:
        InvalidInput: If a parameter or buffer has no shape yet.
    """
    held = (*network.named_parameters(), *network.named_buffers())
    lazy = [name for name, t in held if torch.nn.parameter.is_lazy(t)]
    if lazy:
        msg = (
            f"{type(network).__qualname__} has no shape for {lazy} yet: run it"
            " once, and train it or load its parameters, before it is exported"
        )
        raise InvalidInput(msg)


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; everything is then what it was.

    Each submodule gets its own mode back, and the generators of random
    numbers their states. Nothing is compiled on the way.
    """
    training = [m for m in network.modules() if getattr(m, "training", False)]
    cuda = {t.device.index for t in network.parameters() if t.is_cuda}
    try:
        with (
            torch.random.fork_rng(sorted(cuda)),
            torch.no_grad(),
            _not_compiled(network),
        ):
            if training:  # a frozen ScriptModule has no mode
                network.eval()
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _not_compiled(network: torch.nn.Module) -> Iterator[None]:
    """Without ``torch.compile`` inside, which recorders do not see through."""
    with _held(network):
        for module in _of_python(network):
            vars(module).pop("_compiled_call_impl", None)
            for name, child in module.named_children():
                module._modules[name] = bare(child)
        yield


@contextmanager
def unchanged(network: torch.nn.Module) -> Iterator[None]:
    """Give a network's modules back what they held, and buffers their values.

    A recorder's tensors may be what they hold of an export.
    """
    values = [
        (buffer, buffer._version, buffer.detach().clone())
        for buffer in network.buffers()
        if not (torch.nn.parameter.is_lazy(buffer) or buffer.is_inference())
    ]
    with _held(network):
        try:
            yield
        finally:
            for buffer, version, value in values:
                if buffer._version != version:
                    buffer.detach().copy_(value)


@contextmanager
def _held(network: torch.nn.Module) -> Iterator[None]:
    kept = [
        (holder, dict(holder))
        for module in _of_python(network)
        for holder in (vars(module), module._buffers, module._modules)
    ]
    try:
        yield
    finally:
        for holder, content in kept:
            for name in holder.keys() - content.keys():
                del holder[name]
            holder.update(content)


def _of_python(network: torch.nn.Module) -> list[torch.nn.Module]:
    script = torch.jit.ScriptModule
    return [m for m in network.modules() if not isinstance(m, script)]


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Let a GPU compute float32 as such for a while.

    Rounded to TensorFloat-32 it differs from other devices by more than is
    allowed. Not for exports: torch reads older settings of the same, and
    takes offence.
    """
    backends = _GPU_PRECISIONS if device.type == "cuda" else ()
    precisions = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision


def run(network: Flat, arrays: Arrays) -> dict[str, torch.Tensor]:
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
