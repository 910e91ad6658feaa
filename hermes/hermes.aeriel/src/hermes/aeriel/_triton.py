"""Triton's protocol: requests and responses as protobuf, over a `Channel`.

The only importer of tritonclient. Its generated messages are used, not its
client: that one's stream loses requests without a word when a callback raises
or the server ends it, and has no deadlines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from hermes.aeriel import dtypes
from hermes.aeriel._channel import (
    OK,
    Call,
    CallFailed,
    Channel,
    ChannelOptions,
    Message,
    Status,
)
from hermes.aeriel._http2 import Http2Channel
from hermes.aeriel._protobuf import before_bytes, take_out
from hermes.aeriel._transport import Parameter, Request, Response
from hermes.aeriel.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerUnavailable,
    StreamBroken,
)

__all__ = ("TritonTransport",)

_SERVICE = "/inference.GRPCInferenceService/"
_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
_CLOSE_TIMEOUT = 0.2
# fields of messages that hold tensors
_INFER_RESPONSE = 2
_RAW_INPUT_CONTENTS = 7
_RAW_OUTPUT_CONTENTS = 6
# bytes of a message from which it is worth while to spare protobuf the tensors
_LARGE = 1 << 15
_LIVE_TIMEOUT = 2.0
# models that an error lists at most
_MAX_NAMES = 20
# how a question ends that the server has not answered
_UNANSWERED = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})
_ACCESS = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})


class TritonTransport:
    """A `Transport` over gRPC.

    Args:
        address: ``"host:port"``.
        ssl: Whether to speak TLS.
        root_certificates: File of the certificates to trust (PEM); the
            system's by default.
        private_key: File of the client's key (PEM).
        certificate_chain: File of the certificates that go with it (PEM).
        headers: Sent with everything, by their lower-case names.
        channel: Used in place of one made of the above.

    Raises:
        InvalidRequest: If one of them cannot be used.
    """

    def __init__(
        self,
        address: str,
        *,
        ssl: bool = False,
        root_certificates: str | None = None,
        private_key: str | None = None,
        certificate_chain: str | None = None,
        headers: Mapping[str, str] | None = None,
        channel: Channel | None = None,
    ) -> None:
        self._address = address
        self._channel = channel or _open(
            ChannelOptions(
                address,
                ssl,
                root_certificates,
                private_key,
                certificate_chain,
                headers or {},
            )
        )

    def model_config(
        self, name: str, version: int | None, timeout: float
    ) -> Mapping[str, Any]:
        """See `Transport.model_config`."""
        request = service_pb2.ModelConfigRequest(
            name=name, version=_version(version)
        )
        try:
            answer = self._ask("ModelConfig", request, timeout)
        except CallFailed as error:
            raise self._explain(error.status) from error
        found = service_pb2.ModelConfigResponse.FromString(answer)
        config: Mapping[str, Any] = json_format.MessageToDict(
            found.config, preserving_proto_field_name=True
        )
        return config

    def load_model(self, name: str, timeout: float) -> None:
        """See `Transport.load_model`."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        try:
            self._ask("RepositoryModelLoad", request, timeout)
        except CallFailed as error:
            status = error.status
            if status.code in _UNANSWERED and not self._is_refusal(status):
                raise _translate(status, self._address) from error
            msg = f"the server at {self._address} does not load it: {status}"
            raise ModelNotFound(msg, server_message=status.details) from error

    def connect(
        self,
        on_response: Callable[[Response], None],
        on_end: Callable[[ClientError | None], None],
    ) -> TritonConnection:
        """See `Transport.connect`."""
        return TritonConnection(
            self._channel, self._address, on_response, on_end
        )

    def close(self) -> None:
        """See `Transport.close`."""
        self._channel.close()

    def _ask(self, method: str, request: Any, timeout: float) -> Message:
        return self._channel.unary(
            _SERVICE + method, request.SerializeToString(), timeout
        )

    def _explain(self, status: Status) -> ClientError:
        """The error for a question about a model."""
        if self._is_refusal(status):
            msg = (
                f"server at {self._address}: {status.details};"
                f" {self._what_is_ready()}"
            )
            return ModelNotFound(msg, server_message=status.details)
        found = _translate(status, self._address)
        if isinstance(found, StreamBroken):
            # there is no stream yet: something else listens there
            return ServerUnavailable(
                str(found), server_message=found.server_message
            )
        return found

    def _what_is_ready(self) -> str:
        request = service_pb2.RepositoryIndexRequest(ready=True)
        try:
            answer = self._ask("RepositoryIndex", request, _LIVE_TIMEOUT)
        except CallFailed as error:
            return f"it does not say which models it has ({error.status})"
        found = service_pb2.RepositoryIndexResponse.FromString(answer)
        names = sorted({repr(model.name) for model in found.models})
        if not names:
            return "no model is ready there"
        more = ", ..." if len(names) > _MAX_NAMES else ""
        return f"ready are: {', '.join(names[:_MAX_NAMES])}{more}"

    def _is_refusal(self, status: Status) -> bool:
        """Whether a Triton said that it has no such model available.

        To Triton that may be UNAVAILABLE, as is a server that is not there.
        """
        if status.code != "UNAVAILABLE":
            return status.code == "NOT_FOUND"
        request = service_pb2.ServerLiveRequest()
        try:
            self._ask("ServerLive", request, _LIVE_TIMEOUT)
        except CallFailed:
            return False
        return True


class TritonConnection:
    """A `Connection`: one bidirectional stream.

    Made by `TritonTransport.connect`.
    """

    def __init__(
        self,
        channel: Channel,
        address: str,
        on_response: Callable[[Response], None],
        on_end: Callable[[ClientError | None], None],
    ) -> None:
        self._address = address
        self._on_response = on_response
        self._on_end = on_end
        self._is_finishing = False
        self._is_cancelled = False
        self._reader: int | None = None  # the thread that calls back
        self._has_ended = False
        self._ended = threading.Event()
        self._call: Call = channel.stream(
            _SERVICE + "ModelStreamInfer", self._take, self._end
        )

    def send(self, request: Request) -> None:
        """See `Connection.send`."""
        parts = _to_parts(request)
        if self._has_ended or self._is_finishing:
            msg = f"the stream to {self._address} has ended"
            raise StreamBroken(msg)
        # If it ends just now the message is dropped, and on_end tells.
        self._call.write(*parts)

    def finish(self) -> None:
        """See `Connection.finish`."""
        self._is_finishing = True
        self._call.half_close()

    def close(self, timeout: float) -> None:
        """See `Connection.close`."""
        self.finish()
        if threading.get_ident() != self._reader:
            self._ended.wait(timeout)
        if self._ended.is_set():
            return
        self._is_cancelled = True
        self._call.cancel()
        if threading.get_ident() != self._reader:
            self._ended.wait(_CLOSE_TIMEOUT)

    def _take(self, message: Message) -> None:
        self._reader = threading.get_ident()
        self._on_response(_to_response(message))

    def _end(self, status: Status) -> None:
        self._reader = threading.get_ident()
        self._has_ended = True
        try:
            self._on_end(self._reason(status))
        finally:
            self._ended.set()

    def _reason(self, status: Status) -> ClientError | None:
        if status != OK:
            is_ours = self._is_cancelled
            return None if is_ours else _translate(status, self._address)
        if self._is_finishing:
            return None
        return StreamBroken(f"the server at {self._address} ended the stream")


def _open(options: ChannelOptions) -> Channel:
    if not options.ssl:
        return Http2Channel(options)
    # It takes a third of a second to import, and few need it.
    from hermes.aeriel._grpcio import GrpcioChannel  # noqa: PLC0415

    return GrpcioChannel(options)


def _version(version: int | None) -> str:
    return "" if version is None else str(version)


def _translate(status: Status, address: str) -> ClientError:
    """One of our errors for a status of gRPC's."""
    said = status.details
    if status.code == "DEADLINE_EXCEEDED":
        msg = f"the server at {address} did not answer in time"
        return DeadlineExceeded(msg, server_message=said)
    if status.code == "NOT_FOUND":
        msg = f"server at {address}: {said}"
        return ModelNotFound(msg, server_message=said)
    if status.code == "UNAVAILABLE":
        msg = f"no Triton server answers at {address}: {status}"
        return ServerUnavailable(msg, server_message=said)
    if status.code in _ACCESS:
        msg = (
            f"the server at {address} refuses access: {status}; check the"
            " headers and the certificate that are sent"
        )
        return ServerUnavailable(msg, server_message=said)
    msg = f"server at {address}: {status}"
    return StreamBroken(msg, server_message=said)


def _to_parts(request: Request) -> list[bytes]:
    """The request's message, in pieces so that tensors are copied once."""
    parts = [_to_message(request).SerializeToString()]
    for array in request.inputs.values():
        content = dtypes.encode(array)
        parts += before_bytes(_RAW_INPUT_CONTENTS, len(content)), content
    return parts


def _to_message(request: Request) -> Any:
    """All but the contents of the tensors."""
    message = service_pb2.ModelInferRequest(
        model_name=request.model_name,
        model_version=_version(request.model_version),
        id=request.id,
    )
    for name, array in request.inputs.items():
        message.inputs.add(
            name=name,
            datatype=dtypes.to_wire(array.dtype),
            shape=array.shape,
        )
    for name in request.outputs:
        message.outputs.add(name=name)
    parameters = message.parameters
    for name, value in request.parameters.items():
        setattr(parameters[name], _parameter_field(name, value), value)
    if request.sequence_id:
        parameters["sequence_id"].int64_param = _signed(request.sequence_id)
        parameters["sequence_start"].bool_param = request.sequence_start
        parameters["sequence_end"].bool_param = request.sequence_end
    return message


def _signed(number: int) -> int:
    """The signed number with the same 64 bits: Triton takes no other."""
    return number - 2**64 if number >= 2**63 else number


def _parameter_field(name: str, value: Parameter) -> str:
    match value:
        case bool():  # an int, too
            return "bool_param"
        # Triton reads its own parameter "priority" as unsigned only.
        case int() if value in _INT64 and name != "priority":
            return "int64_param"
        case int() if value in _UINT64:
            return "uint64_param"
        case float():
            return "double_param"
        case str():
            return "string_param"
    msg = (
        f"parameter {name!r} must be a bool, an int of 64 bits, a float or a"
        f" str, got {value!r}"
    )
    raise InvalidRequest(msg)


def _to_response(data: Message) -> Response:
    message, contents = _parse(data)
    answer = message.infer_response
    if message.error_message:
        return Response(answer.id, error=message.error_message)
    return Response(answer.id, dict(_outputs(answer.outputs, contents)))


def _parse(data: Message) -> tuple[Any, Sequence[bytes | memoryview]]:
    """The message, and the contents of its tensors."""
    if len(data) < _LARGE:
        message = service_pb2.ModelStreamInferResponse.FromString(data)
        return message, message.infer_response.raw_output_contents
    rest, answers = take_out(memoryview(data), _INFER_RESPONSE)
    message = service_pb2.ModelStreamInferResponse.FromString(rest)
    contents: list[memoryview] = []
    for answer in answers:
        rest, found = take_out(answer, _RAW_OUTPUT_CONTENTS)
        message.infer_response.MergeFromString(rest)
        contents += found
    return message, contents


def _outputs(
    outputs: Any, contents: Sequence[bytes | memoryview]
) -> Iterator[tuple[str, Any]]:
    for output, content in zip(outputs, contents, strict=True):
        shape = tuple(output.shape)
        yield output.name, dtypes.decode(content, output.datatype, shape)
