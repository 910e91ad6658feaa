"""TorchScript modules.

A TorchScript file tells neither types nor shapes. They are as configured;
whether the module agrees is tried out when it is loaded.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hermes_configuration import (  # type: ignore[import-not-found]
    TensorInfo,
    count,
    declared_inputs,
    declared_outputs,
    load_framework,
    misfit,
    parameters,
)
from hermes_states import (  # type: ignore[import-not-found]
    DTYPES,
    Array,
    Arrays,
    LoadError,
    RequestError,
)

__all__ = ("TorchScript",)

# Those that Triton's own backend has: it knows no other unsigned integers.
_TYPES = tuple(
    name
    for name in DTYPES
    if name not in ("TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64")
)

_TENSOR, _TUPLE, _DICT = "TensorType", "TupleType", "DictType"


class TorchScript:
    """A TorchScript module: named arrays in, named arrays out.

    Args:
        file: The TorchScript file.
        config: The model's configuration.

    Raises:
        LoadError: If torch cannot load the file, or the module takes or gives
            something else than is configured.
    """

    def __init__(self, file: Path, config: Mapping[str, Any]) -> None:
        if not (config["input"] and config["output"]):
            raise LoadError(
                "the configuration must have input and output: a TorchScript "
                "file tells neither types nor shapes"
            )
        self.inputs = declared_inputs(config)
        self.outputs = declared_outputs(config)
        _check_types([*self.inputs, *self.outputs])
        # As for onnxruntime: threads that wait by spinning take the cores from
        # the server and its clients.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._torch = load_framework("torch")
        _set_threads(self._torch, parameters(config))
        self._module = self._load(file)
        schema = self._module.forward.schema
        arguments = _arguments(schema)
        self._takes_dict = arguments is None
        if arguments is not None:
            self._inputs = _input_order(config, arguments)
        self._outputs = _output_places(config, _num_outputs(schema))
        self._declared = {info.name: info for info in self.outputs}
        self._try_out(file)

    def run(self, outputs: Sequence[str], feeds: Arrays) -> list[Array]:
        """Run the module once.

        Raises:
            RequestError: If the arrays are not what the module takes, or it
                gives something else than is configured.
        """
        tensors = self._run(self._module, feeds)
        results = []
        for name in outputs:
            tensor = tensors[self._outputs[name]]
            if wrong := _misfit(self._declared[name], tensor):
                raise RequestError(wrong)
            results.append(tensor.numpy(force=True))
        return results

    def _load(self, file: Path) -> Any:
        try:
            with warnings.catch_warnings():
                # of TorchScript's future
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                module = self._torch.jit.load(str(file), map_location="cpu")
        except Exception as error:
            raise LoadError(f"torch cannot load {file}: {error}") from error
        return module.eval()

    def _run(self, module: Any, feeds: Arrays) -> tuple[Any, ...]:
        tensors = {
            name: self._torch.from_numpy(
                np.require(array, requirements=["C", "W"])
            )
            for name, array in feeds.items()
        }
        try:
            with self._torch.inference_mode():
                result = (
                    module(tensors)
                    if self._takes_dict
                    else module(*(tensors[name] for name in self._inputs))
                )
        except Exception as error:
            raise RequestError(f"torch: {error}") from error
        return result if isinstance(result, tuple) else (result,)

    def _try_out(self, file: Path) -> None:
        """Run another copy once: a module may remember what it has seen."""
        zeros = {
            info.name: np.zeros(
                [max(size, 1) for size in info.dims], DTYPES[info.data_type]
            )
            for info in self.inputs
        }
        try:
            tensors = self._run(self._load(file), zeros)
        except RequestError:
            return  # zeros may be nothing that it takes
        # where an input may have any size, 1 may be an odd choice
        is_loose = any(-1 in info.dims[1:] for info in self.inputs)
        for name, place in self._outputs.items():
            info = self._declared[name]
            if is_loose:
                info = replace(info, dims=(-1,) * len(info.dims))
            if wrong := _misfit(info, tensors[place]):
                raise LoadError(wrong)


def _input_order(
    config: Mapping[str, Any], arguments: Sequence[str]
) -> list[str]:
    """Return the inputs of a configuration in the order of the arguments.

    As in Triton's own backend, names are those of the arguments of
    ``forward``, or end with ``__`` and a number that counts them from 0. If
    they are neither, inputs are in the order of the configuration.

    Args:
        config: The model's configuration.
        arguments: Names of the arguments of ``forward``.

    Raises:
        LoadError: If they are not exactly the arguments.
    """
    names = [entry["name"] for entry in config["input"]]
    if all(name in arguments for name in names):
        places = {name: arguments.index(name) for name in names}
    else:
        places = _indexed_or_ordered(names)
    batching = config.get("sequence_batching") or {}
    hidden = [state["input_name"] for state in batching.get("state", ())]
    hidden += [entry["name"] for entry in batching.get("control_input", ())]
    places |= {name: _index(name) for name in hidden}
    if sorted(places.values()) != [*range(len(arguments))]:
        raise LoadError(
            f"the module takes {_listed(arguments)}, but the configuration "
            f"has {_listed([*places])}; name the inputs like its arguments, "
            f"or {_example(names, len(arguments))}"
        )
    return sorted(places, key=places.__getitem__)


def _output_places(config: Mapping[str, Any], number: int) -> dict[str, int]:
    """Return which result every output of a configuration is.

    As in Triton's own backend, names end with ``__`` and a number that counts
    the results from 0, or outputs are in the order of the configuration.

    Args:
        config: The model's configuration.
        number: How many results there are.

    Raises:
        LoadError: If one is not there.
    """
    names = [entry["name"] for entry in config["output"]]
    batching = config.get("sequence_batching") or {}
    hidden = [state["output_name"] for state in batching.get("state", ())]
    places = _indexed_or_ordered(names)
    places |= {name: _index(name) for name in hidden}
    if max(places.values()) >= number:
        raise LoadError(
            f"the module gives {number} tensor(s), but the configuration has "
            f"{_listed([*places])}; call them {_example(names, number)}"
        )
    return places


def _indexed_or_ordered(names: Sequence[str]) -> dict[str, int]:
    if all(_is_indexed(name) for name in names):
        return {name: _index(name) for name in names}
    return {name: place for place, name in enumerate(names)}


def _is_indexed(name: str) -> bool:
    return name.partition("__")[2].isdecimal()


def _index(name: str) -> int:
    if not _is_indexed(name):
        raise LoadError(
            f"'{name}' must end with __ and a number: Triton's pytorch "
            "backend tells states and control inputs by it"
        )
    return int(name.partition("__")[2])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _example(names: Sequence[str], number: int) -> str:
    stem = (names[0] if names else "x").partition("__")[0]
    return _listed([f"{stem}__{index}" for index in range(number)])


def _check_types(tensors: Sequence[TensorInfo]) -> None:
    for info in tensors:
        if info.data_type not in _TYPES:
            raise LoadError(
                f"tensor '{info.name}' is {info.data_type}: the local runtime "
                f"serves TorchScript with {', '.join(_TYPES)}"
            )


def _arguments(schema: Any) -> list[str] | None:
    """Return the names of what is given; None if it is given as a dict."""
    arguments = schema.arguments[1:]
    kinds = [argument.type.kind() for argument in arguments]
    if kinds == [_DICT]:
        return None
    for argument, kind in zip(arguments, kinds, strict=True):
        if kind != _TENSOR:
            raise LoadError(
                f"argument '{argument.name}' of the module is "
                f"{argument.type.annotation_str}: Triton gives Tensors, or "
                "one Dict[str, Tensor]"
            )
    return [argument.name for argument in arguments]


def _num_outputs(schema: Any) -> int:
    """Return how many tensors come out."""
    (given,) = schema.returns
    kind = given.type.kind()
    if kind == _TENSOR:
        return 1
    kinds = [part.kind() for part in getattr(given.type, "elements", list)()]
    if kind != _TUPLE or {*kinds} - {_TENSOR}:
        raise LoadError(
            f"the module gives {given.type.annotation_str}: Triton takes a "
            "Tensor, or a tuple of Tensors"
        )
    return len(kinds)


def _misfit(info: TensorInfo, tensor: Any) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    found: str = misfit(info, dtype, tuple(tensor.shape))
    return found


def _set_threads(torch: Any, given: Mapping[str, str]) -> None:
    if number := count(given, "INTRA_OP_THREAD_COUNT"):
        torch.set_num_threads(number)
    if number := count(given, "INTER_OP_THREAD_COUNT"):
        torch.set_num_interop_threads(number)
