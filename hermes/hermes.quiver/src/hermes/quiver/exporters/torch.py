"""A ``torch.nn.Module`` -> ONNX, through torch's dynamo-based exporter."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxscript  # noqa: F401  # torch.onnx needs it: fail here, named
import torch

from hermes.quiver._examples import example
from hermes.quiver.config import Dims
from hermes.quiver.errors import ExportFailed, InvalidInput
from hermes.quiver.exporters._types import Arrays, Artifact, Request
from hermes.quiver.exporters.onnx import describe

__all__ = ("to_onnx",)

_OPTIONS = {"opset_version"}
# Dynamo takes an axis of size 0 or 1 for a constant, so that an example of a
# variable batch must have at least two rows.
_EXAMPLE_BATCH = 2


class _Positional(torch.nn.Module):
    """Takes the tensors in order, whatever the network calls them.

    With ``arguments`` it passes them on by name, so that others in between
    keep their defaults.
    """

    def __init__(
        self, network: torch.nn.Module, arguments: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.network = network
        self.arguments = arguments

    def forward(self, *tensors: torch.Tensor) -> Any:
        if self.arguments is None:
            return self.network(*tensors)
        return self.network(**dict(zip(self.arguments, tensors, strict=True)))


def to_onnx(network: torch.nn.Module, request: Request) -> Artifact:
    """Export a module in evaluation mode; it is left as it was.

    Raises:
        ExportFailed: If torch cannot export it.
        InvalidInput: If the request does not fit the module's ``forward``.
    """
    unknown = set(request.options) - _OPTIONS
    if unknown:
        msg = f"unknown option {sorted(unknown)}; torch takes {_OPTIONS}"
        raise InvalidInput(msg)
    shapes, samples = _inputs(network, request)
    device = _device(network)
    arguments = None if request.input_names else list(samples)
    with _evaluating(network):
        positional = _Positional(network, arguments)
        outputs = _run(positional, samples, device)
        names = _output_names(request.output_names, len(outputs))
        proto = _graph_of(positional, samples, shapes, names, device, request)
    artifact = describe(proto)
    return dataclasses.replace(
        artifact,
        samples=samples,
        reference=lambda arrays: _evaluate(positional, arrays, device),
    )


def _graph_of(
    positional: _Positional,
    samples: Arrays,
    shapes: Mapping[str, tuple[int | None, ...]],
    output_names: Sequence[str],
    device: torch.device,
    request: Request,
) -> onnx.ModelProto:
    name = type(positional.network).__qualname__
    try:
        with _quiet():
            program = torch.onnx.export(
                positional,
                args=_tensors(samples, device),
                dynamo=True,
                verbose=False,
                input_names=list(samples),
                output_names=list(output_names),
                dynamic_shapes={"tensors": _dynamic_shapes(shapes)},
                opset_version=request.options.get("opset_version"),
                external_data=False,
            )
    except Exception as error:
        msg = f"torch cannot export {name} to ONNX: {error}"
        raise ExportFailed(msg) from error
    if program is None:  # torch's annotation allows it
        msg = f"torch exported nothing for {name}"
        raise ExportFailed(msg)
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own deprecations, and what else it did not find."""
    # Below this logger torch says which other packages are not installed.
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _dynamic_shapes(
    shapes: Mapping[str, tuple[int | None, ...]],
) -> tuple[dict[int, Any], ...]:
    # One symbol for the batch axis of every input: they vary together.
    batch = torch.export.Dim("batch", min=1)
    return tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim.DYNAMIC
            for axis, size in enumerate(shape)
            if size is None
        }
        for shape in shapes.values()
    )


def _inputs(
    network: torch.nn.Module, request: Request
) -> tuple[dict[str, tuple[int | None, ...]], Arrays]:
    """The shape and an example of each input, in ``forward``'s order."""
    arguments = list(request.input_names or _arguments(network))
    given = _by_name("sample_inputs", request.samples, arguments)
    wanted = request.shapes or (None if given else request.declared)
    shapes = _by_name("input_shapes", wanted, arguments)
    arrays = {name: np.asarray(sample) for name, sample in given.items()}
    if not shapes and not arrays:
        msg = (
            "give input_shapes (or sample_inputs), e.g."
            f" input_shapes={{{arguments[0]!r}: (None, 2, 8192)}}"
        )
        raise InvalidInput(msg)
    described = {
        name: tuple(None if d is None or d < 0 else int(d) for d in shape)
        for name, shape in shapes.items()
    } or {name: (None, *array.shape[1:]) for name, array in arrays.items()}
    rng = np.random.default_rng(0)
    samples = {
        name: _sample(name, shape, arrays.get(name), rng)
        for name, shape in described.items()
    }
    return described, samples


def _arguments(network: torch.nn.Module) -> list[str]:
    parameters = inspect.signature(network.forward).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
    ]


def _by_name(
    what: str, values: Any, arguments: Sequence[str]
) -> dict[str, Any]:
    if values is None:
        return {}
    if isinstance(values, Mapping):
        unknown = [name for name in values if name not in arguments]
        if unknown:
            msg = (
                f"{what} names {unknown}, but the network's forward takes"
                f" {list(arguments)}"
            )
            raise InvalidInput(msg)
        return {name: values[name] for name in arguments if name in values}
    if len(values) > len(arguments):
        msg = (
            f"{what} has {len(values)} entries, but the network's forward"
            f" takes {list(arguments)}"
        )
        raise InvalidInput(msg)
    return dict(zip(arguments, values, strict=False))


def _sample(
    name: str,
    shape: Dims,
    given: npt.NDArray[Any] | None,
    rng: np.random.Generator,
) -> npt.NDArray[Any]:
    if given is None:
        if None in shape[1:]:
            msg = (
                f"input {name!r} has a variable axis besides the batch"
                f" ({shape}); give an example of it in sample_inputs"
            )
            raise InvalidInput(msg)
        size = [_EXAMPLE_BATCH if d is None else d for d in shape]
        return example(rng, size, np.float32)
    if not _fits(given.shape, shape):
        msg = (
            f"sample_inputs[{name!r}] has shape {given.shape}, which does not"
            f" fit input_shapes {tuple(shape)}"
        )
        raise InvalidInput(msg)
    if shape and shape[0] is None and len(given) < _EXAMPLE_BATCH:
        return np.repeat(given, _EXAMPLE_BATCH, axis=0)
    return given


def _fits(actual: Sequence[int], shape: Dims) -> bool:
    return len(actual) == len(shape) and all(
        wanted in {None, size}
        for size, wanted in zip(actual, shape, strict=True)
    )


def _output_names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [f"output_{i}" for i in range(count)]
    if len(names) != count:
        msg = f"output_names={list(names)}, but the network gives {count}"
        raise InvalidInput(msg)
    return list(names)


@contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule gets its own mode back."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _device(network: torch.nn.Module) -> torch.device:
    tensors = [*network.parameters(), *network.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _tensors(arrays: Arrays, device: torch.device) -> tuple[torch.Tensor, ...]:
    # ascontiguousarray would make a vector of a scalar
    return tuple(
        torch.from_numpy(np.array(array, order="C")).to(device)
        for array in arrays.values()
    )


def _run(
    network: torch.nn.Module, arrays: Arrays, device: torch.device
) -> list[torch.Tensor]:
    try:
        result = network(*_tensors(arrays, device))
    except Exception as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        msg = f"the network does not run on inputs of {shapes}: {error}"
        raise InvalidInput(msg) from error
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple | list) and all(
        isinstance(item, torch.Tensor) for item in result
    ):
        return list(result)
    msg = (
        f"the network returns a {type(result).__qualname__}; exported are"
        " networks that return a tensor, or a tuple or list of tensors"
    )
    raise InvalidInput(msg)


def _evaluate(
    network: torch.nn.Module, arrays: Arrays, device: torch.device
) -> list[npt.NDArray[Any]]:
    with _evaluating(network):
        outputs = _run(network, arrays, device)
    return [output.cpu().numpy() for output in outputs]
