"""Triton's gRPC service: what the engine decides, with the faults put in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

import grpc
from tritonclient.grpc import service_pb2

from hermes.aeriel.testing._engine import Engine, Received, Refused
from hermes.aeriel.testing._faults import (
    CloseStream,
    Drop,
    Duplicate,
    Expire,
    Fail,
    Fault,
    Freeze,
    Garble,
    Kill,
    Lose,
    Restart,
    Slow,
    Swap,
)
from hermes.aeriel.testing._messages import (
    config_message,
    error_message,
    metadata_message,
    response_message,
    stream_message,
    to_request,
    to_version,
)

__all__ = ("Host", "handler")

_SERVICE = "inference.GRPCInferenceService"


class Host(Protocol):
    """What can be done to a fake server while it answers."""

    def arrive(self, model: str) -> tuple[int, list[Fault]]:
        """Count a request: its number, and what hits it."""

    def record(self, request: Received) -> None:
        """Remember a request."""

    def pass_gate(self) -> None:
        """Wait while the server is frozen."""

    def sleep(self, seconds: float) -> None:
        """Wait, at most until the server is closed."""

    def freeze_here(self, seconds: float | None) -> None:
        """Freeze the server, and return when it thaws."""

    def drop(self) -> None:
        """Reset all connections."""

    def expire(self, sequence_id: int | None) -> None:
        """Forget sequences."""

    def kill(self) -> None:
        """Be gone."""

    def restart(self) -> None:
        """Be another server."""


class _Ended(Exception):
    """There is nobody left to answer, or nobody shall be answered."""


@dataclass(frozen=True)
class _Outcome:
    """What became of one request."""

    request_id: str
    answer: Any = None
    refused: Refused | None = None
    num_copies: int = 1
    is_last: bool = False

    def on_stream(self) -> list[Any]:
        """The messages to send."""
        if self.refused is None:
            return [stream_message(self.answer)] * self.num_copies
        message = error_message(self.request_id, self.refused.message)
        return [message] * self.num_copies


class _Service:
    """The methods, named as Triton names them."""

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host

    def server_live(self, _: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def server_ready(self, _: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def server_metadata(self, _: Any) -> Any:
        return service_pb2.ServerMetadataResponse(
            name="fake", version="2.51.0", extensions=["sequence"]
        )

    def model_ready(self, message: Any) -> Any:
        version = to_version(message.version)
        ready = self._engine.is_ready(message.name, version)
        return service_pb2.ModelReadyResponse(ready=ready)

    def model_config(self, message: Any) -> Any:
        model = self._engine.model(message.name, to_version(message.version))
        return service_pb2.ModelConfigResponse(config=config_message(model))

    def model_metadata(self, message: Any) -> Any:
        model = self._engine.model(message.name, to_version(message.version))
        return metadata_message(model)

    def index(self, message: Any) -> Any:
        response = service_pb2.RepositoryIndexResponse()
        for name, is_ready in self._engine.index(ready=message.ready).items():
            # Triton says nothing of a model that was never loaded.
            facts = {"version": "1", "state": "READY"} if is_ready else {}
            response.models.add(name=name, **facts)
        return response

    def load(self, message: Any) -> Any:
        self._engine.load(message.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    def unload(self, message: Any) -> Any:
        self._engine.unload(message.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    def infer(self, message: Any, context: grpc.ServicerContext) -> Any:
        try:
            outcome = self._serve(message, context)
        except _Ended:
            context.abort(grpc.StatusCode.CANCELLED, "closed by the fake")
        if not outcome.num_copies:
            _wait_for_end(context)
        if outcome.refused is not None:
            _abort(context, outcome.refused)
        return outcome.answer

    def stream_infer(
        self, messages: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        late: list[Any] = []
        for message in messages:
            try:
                outcome = self._serve(message, context)
            except _Ended:
                return
            if outcome.is_last:
                late += outcome.on_stream()
                continue
            yield from outcome.on_stream()
            yield from late
            late.clear()
        yield from late

    def _serve(self, message: Any, context: grpc.ServicerContext) -> _Outcome:
        self._host.pass_gate()
        number, faults = self._host.arrive(message.model_name)
        answer, refused = None, None
        try:
            headers = [*context.invocation_metadata()]
            request = to_request(message, number, headers)
            self._host.record(request)
            self._suffer(faults)
            if not context.is_active():
                raise _Ended
            answer = self._answer(request, faults)
        except Refused as error:
            refused = error
        unnamed = any(isinstance(f, Fail) and not f.with_id for f in faults)
        lost = any(isinstance(fault, Lose) for fault in faults)
        twice = any(isinstance(fault, Duplicate) for fault in faults)
        return _Outcome(
            request_id="" if unnamed else message.id,
            answer=answer,
            refused=refused,
            num_copies=0 if lost else 1 + twice,
            is_last=any(isinstance(fault, Swap) for fault in faults),
        )

    def _suffer(self, faults: list[Fault]) -> None:
        """What happens to the server before the model sees the request."""
        for fault in faults:
            match fault:
                case Slow(seconds=seconds):
                    self._host.sleep(seconds)
                case Freeze(seconds=limit):
                    self._host.freeze_here(limit)
                case Expire(sequence_id=sequence_id):
                    self._host.expire(sequence_id)
                case Fail(message=text):
                    raise Refused("INTERNAL", text)
                case Drop() | Kill() | Restart() | CloseStream():
                    self._end(fault)
                    raise _Ended

    def _end(self, fault: Fault) -> None:
        match fault:
            case Drop():
                self._host.drop()
            case Kill():
                self._host.kill()
            case Restart():
                self._host.restart()

    def _answer(self, request: Received, faults: list[Fault]) -> Any:
        outputs = self._engine.infer(request)
        garbled = [fault for fault in faults if isinstance(fault, Garble)]
        others = [f.outputs for f in garbled if f.outputs is not None]
        return response_message(
            request,
            others[0] if others else outputs,
            cut=bool(garbled) and not others,
        )


def handler(engine: Engine, host: Host) -> grpc.GenericRpcHandler:
    """The service, to be added to a gRPC server."""
    service = _Service(engine, host)
    simple = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ServerMetadata": service.server_metadata,
        "ModelReady": service.model_ready,
        "ModelConfig": service.model_config,
        "ModelMetadata": service.model_metadata,
        "RepositoryIndex": service.index,
        "RepositoryModelLoad": service.load,
        "RepositoryModelUnload": service.unload,
    }
    methods = {
        name: _unary(name, _guarded(method, host))
        for name, method in simple.items()
    }
    methods["ModelInfer"] = _unary("ModelInfer", service.infer)
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        service.stream_infer,
        service_pb2.ModelInferRequest.FromString,
        service_pb2.ModelStreamInferResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(_SERVICE, methods)


def _guarded(
    method: Callable[[Any], Any], host: Host
) -> Callable[[Any, grpc.ServicerContext], Any]:
    def call(message: Any, context: grpc.ServicerContext) -> Any:
        host.pass_gate()
        try:
            return method(message)
        except Refused as refused:
            _abort(context, refused)

    return call


def _unary(
    name: str, method: Callable[[Any, grpc.ServicerContext], Any]
) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        method,
        getattr(service_pb2, f"{name}Request").FromString,
        getattr(service_pb2, f"{name}Response").SerializeToString,
    )


def _abort(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    context.abort(grpc.StatusCode[refused.code], refused.message)
    raise refused  # abort() has raised


def _wait_for_end(context: grpc.ServicerContext) -> None:
    """Wait until the caller gives up, or the server is closed."""
    over = threading.Event()
    if cast("Any", context).add_callback(over.set):
        over.wait()
