"""Triton's model configuration, by its own field names.

The only module that knows where the protobuf of Triton's ``ModelConfig``
comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format, text_format
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2

from hermes.quiver import dtypes
from hermes.quiver._scheduling import Scheduling
from hermes.quiver.errors import InvalidConfig
from hermes.quiver.platforms import Platform

__all__ = ("Dims", "ModelConfig")

Dims = Sequence[int | None]
"""A shape; ``None`` (or -1) where a dimension is variable."""


class ModelConfig(Scheduling):
    """Every field of Triton's ``ModelConfig``, readable and writable by name.

    ``config.max_batch_size = 8``, ``config.optimization.graph.level = -1``,
    ``config.parameters["key"].string_value = "value"``: what is assigned is
    kept and written with the model's next version, or by `write`. Composite
    fields take messages, or dicts and lists of them:
    ``config.dynamic_batching = {"preserve_ordering": True}``.

    Args:
        name: The model's name.
        platform: What executes the model.
    """

    __slots__ = ("_message", "_write")
    _message: Any
    _write: Callable[[], None] | None

    def __init__(self, name: str, platform: Platform) -> None:
        self._adopt(model_config_pb2.ModelConfig(name=name))
        self.execute_on(platform)

    def execute_on(self, platform: Platform) -> None:
        """Say what executes the model."""
        # Python models have a backend, and no platform.
        is_backend = platform is Platform.PYTHON
        self._message.platform = "" if is_backend else platform.value
        self._message.backend = platform.value if is_backend else ""

    def _adopt(
        self, message: Any, write: Callable[[], None] | None = None
    ) -> None:
        object.__setattr__(self, "_message", message)
        object.__setattr__(self, "_write", write)

    def bound_to(self, write: Callable[[], None]) -> ModelConfig:
        """This configuration, the same message, with a `write` of a model."""
        config = type(self).__new__(type(self))
        config._adopt(self._message, write)
        return config

    def write(self) -> None:
        """Write it to the repository that its model belongs to.

        Raises:
            InvalidConfig: If it belongs to none.
        """
        if self._write is None:
            msg = f"{self!r} belongs to no model of a repository"
            raise InvalidConfig(msg)
        self._write()

    @classmethod
    def parse(cls, text: str, *, lenient: bool = False) -> ModelConfig:
        """Read the text of a ``config.pbtxt``.

        Args:
            text: The text.
            lenient: Leave out fields that this version of Triton's
                configuration does not have.

        Raises:
            InvalidConfig: If it is not Triton's text format.
        """
        config = cls.__new__(cls)
        config._adopt(model_config_pb2.ModelConfig())
        try:
            text_format.Parse(
                text, config._message, allow_unknown_field=lenient
            )
        except text_format.ParseError as error:
            raise InvalidConfig(str(error)) from error
        except RecursionError as error:
            raise InvalidConfig("1:1 : nested without end") from error
        return config

    def copy(self) -> ModelConfig:
        """An independent copy."""
        return self.parse(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, with Triton's names."""
        fields: dict[str, Any] = json_format.MessageToDict(
            self._message, preserving_proto_field_name=True
        )
        return fields

    def __getattr__(self, field: str) -> Any:
        return getattr(self._message, field)

    def __setattr__(self, field: str, value: Any) -> None:
        _assign(self._message, field, value)

    def __dir__(self) -> list[str]:
        fields = self._message.DESCRIPTOR.fields_by_name
        return sorted({*super().__dir__(), *fields})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelConfig):
            return NotImplemented
        return bool(self._message == other._message)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __str__(self) -> str:
        """The text of a ``config.pbtxt``."""
        return str(text_format.MessageToString(self._message))

    def __repr__(self) -> str:
        return f"ModelConfig({self.name!r}, {self.platform!r})"

    def add_input(
        self, name: str, shape: Dims, dtype: npt.DTypeLike = np.float32
    ) -> Any:
        """Declare an input; returns the message, to be refined.

        Args:
            name: The tensor's name.
            shape: Its ``dims``: without the batch axis where
                ``max_batch_size`` is set. Without any, requests and answers
                carry one axis of size 1 instead.
            dtype: Its numpy dtype.
        """
        return _declare(self._message.input, name, shape, dtype)

    def add_output(
        self, name: str, shape: Dims, dtype: npt.DTypeLike = np.float32
    ) -> Any:
        """Declare an output; see `add_input`."""
        return _declare(self._message.output, name, shape, dtype)

    def add_instance_group(
        self,
        count: int = 1,
        kind: str = "auto",
        gpus: Sequence[int] = (),
        name: str | None = None,
    ) -> Any:
        """Run ``count`` copies of the model.

        Args:
            count: Copies on each GPU, or on the CPU.
            kind: ``"auto"`` (GPUs where the server has some, else the CPU),
                ``"gpu"``, ``"cpu"`` or ``"model"``.
            gpus: The GPUs to use; empty means all.
            name: Name of the group.

        Raises:
            ValueError: If there is no such kind.
        """
        group = model_config_pb2.ModelInstanceGroup
        try:
            number = group.Kind.Value(f"KIND_{kind.upper()}")
        except ValueError:
            msg = f"kind={kind!r} is none of auto, cpu, gpu, model"
            raise ValueError(msg) from None
        return self._message.instance_group.add(
            count=count, kind=number, gpus=gpus, name=name
        )

    def scale_instance_group(self, count: int) -> Any:
        """Set the number of copies in the first instance group.

        Raises:
            ValueError: If the configuration has no instance group.
        """
        if not self._message.instance_group:
            msg = (
                f"the configuration of {self.name!r} has no instance group"
                " to scale; add one with add_instance_group"
            )
            raise ValueError(msg)
        group = self._message.instance_group[0]
        group.count = count
        return group

    def add_state(
        self,
        input_name: str,
        output_name: str,
        shape: Dims,
        dtype: npt.DTypeLike = np.float32,
    ) -> Any:
        """Declare a state that Triton keeps between a sequence's requests.

        It starts as zeros: without an initial state the first request of a
        sequence would see uninitialised memory.

        Args:
            input_name: Tensor through which the model reads the state.
            output_name: Tensor through which it writes the new one.
            shape: Its ``dims``, all fixed.
            dtype: Its numpy dtype.
        """
        data_type, dims = dtypes.to_triton(dtype), _dims(shape)
        state = self._message.sequence_batching.state.add(
            input_name=input_name,
            output_name=output_name,
            data_type=data_type,
            dims=dims,
        )
        state.initial_state.add(
            name=input_name, data_type=data_type, dims=dims, zero_data=True
        )
        return state

    def state_names(self) -> set[str]:
        """Names of the tensors that carry states: no request sees them."""
        states = self._message.sequence_batching.state
        return {s.input_name for s in states} | {s.output_name for s in states}

    def state_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape (with the batch axis) and dtype of each state's input."""
        batch = (1,) if self._message.max_batch_size > 0 else ()
        return {
            state.input_name: (
                (*batch, *state.dims),
                dtypes.from_triton(
                    model_config_pb2.DataType.Name(state.data_type)
                ),
            )
            for state in self._message.sequence_batching.state
        }

    def shapes(
        self, kind: str, *, inside: bool = False
    ) -> dict[str, tuple[tuple[int | None, ...], np.dtype]]:
        """Shape (with the batch axis) and dtype of the inputs or outputs.

        Args:
            kind: ``"input"`` or ``"output"``.
            inside: As the artifact has them, where Triton reshapes.
        """
        batch = (None,) if self._message.max_batch_size > 0 else ()
        return {
            tensor.name: (
                batch
                + tuple(None if d < 0 else d for d in _sizes(tensor, inside)),
                dtypes.from_triton(
                    model_config_pb2.DataType.Name(tensor.data_type)
                ),
            )
            for tensor in getattr(self._message, kind)
        }


def _dims(shape: Dims) -> list[int]:
    sizes: list[Any] = [-1 if size is None else size for size in shape]
    for size in sizes:
        if not hasattr(size, "__index__") or size < -1 or size == 0:
            msg = (
                f"shape {shape}: {size!r} is no size; give whole numbers from"
                " 1, and None (or -1) where a dimension is variable"
            )
            raise InvalidConfig(msg)
    return [int(size) for size in sizes]


def _sizes(tensor: Any, inside: bool) -> Sequence[int]:
    is_other = inside and tensor.HasField("reshape")
    sizes: Sequence[int] = tensor.reshape.shape if is_other else tensor.dims
    return sizes


def _declare(
    tensors: Any, name: str, shape: Dims, dtype: npt.DTypeLike
) -> Any:
    dims = _dims(shape)
    tensor = tensors.add(
        name=name, data_type=dtypes.to_triton(dtype), dims=dims or [1]
    )
    if not dims:  # Triton's tensors have one axis at least
        tensor.reshape.SetInParent()
    return tensor


def _assign(message: Message, field: str, value: Any) -> None:
    """Assign as one would expect: protobuf itself refuses composite fields."""
    descriptor = message.DESCRIPTOR.fields_by_name.get(field)
    if descriptor is None:
        msg = (
            f"{message.DESCRIPTOR.name} has no field {field!r}; it has"
            f" {', '.join(sorted(message.DESCRIPTOR.fields_by_name))}"
        )
        raise AttributeError(msg)
    # Into a message of its own first: what is refused must change nothing.
    scratch = type(message)()
    try:
        _fill(scratch, field, value)
    except (TypeError, ValueError, json_format.Error) as error:
        msg = f"{field} cannot be {value!r}: {error}"
        raise InvalidConfig(msg) from error
    message.ClearField(field)
    message.MergeFrom(scratch)


def _fill(message: Message, field: str, value: Any) -> None:
    current = getattr(message, field)
    if isinstance(current, Message):
        _copy(current, value)
        current.SetInParent()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Message | Mapping):
                _copy(current[key], item)
            else:
                current[key] = item
    elif hasattr(current, "add"):
        for item in value:
            _copy(current.add(), item)
    elif hasattr(current, "extend"):
        current.extend(value)
    else:
        setattr(message, field, value)


def _copy(message: Message, value: Any) -> None:
    if isinstance(value, Mapping):
        json_format.ParseDict(dict(value), message)
    else:
        message.CopyFrom(value)
