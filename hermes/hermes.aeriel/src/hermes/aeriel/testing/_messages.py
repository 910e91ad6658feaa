"""Between Triton's protobuf messages and requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from hermes.aeriel.testing import _tensors
from hermes.aeriel.testing._engine import Received, Refused, log_prefix
from hermes.aeriel.testing._errors import InvalidFake
from hermes.aeriel.testing._models import FakeModel

__all__ = (
    "config_message",
    "error_message",
    "metadata_message",
    "response_message",
    "stream_message",
    "to_request",
    "to_version",
)

_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")


def config_message(model: FakeModel) -> Any:
    """A model's configuration.

    Raises:
        InvalidFake: If Triton's ``ModelConfig`` has no such fields.
    """
    try:
        return json_format.ParseDict(
            dict(model.config), model_config_pb2.ModelConfig()
        )
    except json_format.ParseError as error:
        msg = f"model {model.name!r} is no ModelConfig of Triton's: {error}"
        raise InvalidFake(msg) from error


def metadata_message(model: FakeModel) -> Any:
    """A model's metadata."""
    message = service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=["1"],
        platform=model.config.get("platform", "")
        or model.config.get("backend", ""),
    )
    for kind, field in ("input", message.inputs), ("output", message.outputs):
        for name, (wire, shape) in model.tensors(kind).items():
            field.add(name=name, datatype=wire, shape=shape)
    return message


def to_version(text: str) -> int | None:
    """The version that a message asks for; None is the latest.

    Raises:
        Refused: If it is no number.
    """
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        msg = (
            "failed to get model version from specified version string"
            f" '{text}' (details: stol), version should be an integral value"
            " > 0"
        )
        raise Refused("INVALID_ARGUMENT", msg) from None


def to_request(
    message: Any, number: int, headers: Iterable[tuple[str, str | bytes]]
) -> Received:
    """What a ``ModelInferRequest`` asks for.

    Raises:
        Refused: If its bytes do not fill its tensors.
    """
    parameters = {
        name: _value(parameter)
        for name, parameter in message.parameters.items()
    }
    sequence_id, start, end = (parameters.pop(n, 0) for n in _SEQUENCE)
    return Received(
        model_name=message.model_name,
        model_version=to_version(message.model_version),
        id=message.id,
        inputs=_inputs(message),
        sequence_id=sequence_id,
        sequence_start=bool(start),
        sequence_end=bool(end),
        outputs=tuple(output.name for output in message.outputs),
        parameters=parameters,
        number=number,
        headers={k: v for k, v in headers if isinstance(v, str)},
    )


def response_message(
    request: Received, outputs: Mapping[str, npt.NDArray[Any]], *, cut: bool
) -> Any:
    """The answer to a request.

    Args:
        request: The request.
        outputs: Arrays by name.
        cut: Whether half of their bytes are left out.
    """
    message = service_pb2.ModelInferResponse(
        model_name=request.model_name, model_version="1", id=request.id
    )
    for name, array in outputs.items():
        message.outputs.add(
            name=name,
            datatype=_tensors.to_wire(array.dtype),
            shape=array.shape,
        )
        content = _tensors.encode(array)
        message.raw_output_contents.append(
            content[: len(content) // 2] if cut else content
        )
    return message


def stream_message(answer: Any) -> Any:
    """The answer to a request on a stream."""
    answer.parameters["triton_final_response"].bool_param = True
    return service_pb2.ModelStreamInferResponse(infer_response=answer)


def error_message(request_id: str, message: str) -> Any:
    """An error on a stream; with no request if the id is empty."""
    answer = service_pb2.ModelStreamInferResponse(error_message=message)
    answer.infer_response.id = request_id
    return answer


def _inputs(message: Any) -> dict[str, npt.NDArray[Any]]:
    contents = message.raw_input_contents
    if len(contents) != len(message.inputs):
        msg = "the fake takes tensors as raw_input_contents only"
        raise Refused("UNIMPLEMENTED", msg)
    arrays = {}
    for tensor, content in zip(message.inputs, contents, strict=True):
        shape = tuple(tensor.shape)
        expected = _tensors.size(tensor.datatype, shape)
        if expected not in {None, len(content)}:
            msg = (
                f"{log_prefix(message.id)}input byte size mismatch for input"
                f" '{tensor.name}' for model '{message.model_name}'."
                f" Expected {expected}, got {len(content)}"
            )
            raise Refused("INVALID_ARGUMENT", msg)
        arrays[tensor.name] = _tensors.decode(content, tensor.datatype, shape)
    return arrays


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, chosen) if chosen else None
