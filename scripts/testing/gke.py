"""GKE for tests: its own messages, on loopback; no machine is started.

There is no emulator of GKE. This one is made of the client's own types, so
that what it takes and gives is what GKE's interface says: all of its methods
are there, and those that nobody here needs answer UNIMPLEMENTED.

    gke.py           `Server`: the wire, and faults by call number
    _gke_rules.py    `Project`: what GKE does with clusters and node pools
    _gke_checks.py   what it refuses;  _gke_machines.py  where clusters are
    _gke_rest.py     the same over HTTP, for gcloud
"""

from __future__ import annotations

import importlib.resources
import json
import os
import signal
import threading
import time
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import _gke_rules as rules
import grpc
import proto
from google.cloud.container_v1.services.cluster_manager.transports import (
    ClusterManagerGrpcTransport,
)
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

SERVICE = "google.container.v1.ClusterManager"
DOMAIN = "container.googleapis.com"


@dataclass(frozen=True)
class Fault:
    """What happens at a call.

    Attributes:
        code: The error that the caller gets; None for none.
        done: Whether what was asked for is done all the same.
        kill: The signal that the calling process is sent; 0 for none. After
            SIGKILL nothing is done for it that was not done before.
        text: What the error says.
        reason: The reason in its details.
    """

    code: str | None = None
    done: bool = False
    kill: int = 0
    text: str = "a fault"
    reason: str = ""


class Server:
    """A project of GKE, and its wire.

    Args:
        project: What GKE does.
        certificate: Key and certificate for TLS; none without.

    Attributes:
        port: Where it is, on loopback.
        tls_port: Where it is with TLS; 0 without a certificate.
        calls: Methods that were called, in order.
        faults: What happens at the n-th call, from 1, or at every call of a
            method.
        victim: The process to be killed.
        tokens: Credentials that callers came with.
    """

    def __init__(
        self,
        project: rules.Project,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.project = project
        self.calls: list[str] = []
        self.faults: dict[int | str, Fault] = {}
        self.victim: int | None = None
        self.tokens: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, "gke")
        self._server = grpc.server(self._pool)
        self._server.add_generic_rpc_handlers((self._route(),))
        self.port = self._server.add_insecure_port("localhost:0")
        self.tls_port = 0
        if certificate is not None:
            self.tls_port = self._server.add_secure_port(
                "localhost:0", grpc.ssl_server_credentials((certificate,))
            )
        self._server.start()

    def close(self) -> None:
        """End it."""
        self._server.stop(None).wait()
        self._pool.shutdown()

    def transport(self) -> ClusterManagerGrpcTransport:
        """Give a transport for GKE's client, without TLS."""
        channel = grpc.insecure_channel(f"localhost:{self.port}")
        return ClusterManagerGrpcTransport(channel=channel)

    def _route(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                rpc: grpc.unary_unary_rpc_method_handler(
                    self._handler(rpc, python_name),
                    request_deserializer=_reader(request),
                    response_serializer=_writer(response),
                )
                for rpc, python_name, request, response in find_methods()
            },
        )

    def _handler(self, rpc: str, name: str) -> Callable[..., Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.tokens |= {
                str(value)
                for key, value in context.invocation_metadata()
                if key == "authorization"
            }
            try:
                return self.do(rpc, name, request)
            except rules.Error as error:
                _abort(context, error)

        return handle

    def do(self, rpc: str, name: str, request: Any) -> Any:
        """Do what one call asks for, or what its fault says."""
        method = getattr(self.project, name, None)
        with self._lock:
            self.calls.append(rpc)
            number = len(self.calls)
            fault = self.faults.get(number) or self.faults.get(rpc)
            if fault and fault.kill and not fault.done:
                self._kill(fault.kill)
            if method is None:
                raise rules.Error("UNIMPLEMENTED", f"{rpc} is not here")
            answer = None
            if fault is None or fault.done or not _is_final(fault):
                answer = method(request)
            if fault and fault.kill:
                self._kill(fault.kill)
            if fault and _is_final(fault):
                raise rules.Error(
                    fault.code or "UNAVAILABLE", fault.text, fault.reason
                )
            return answer

    def _kill(self, number: int) -> None:
        if self.victim is not None:
            os.kill(self.victim, number)
            self.victim = None
            time.sleep(0.01)


def _is_final(fault: Fault) -> bool:
    return bool(fault.code) or fault.kill == signal.SIGKILL


def find_methods() -> list[tuple[str, str, Any, Any]]:
    """Give name, Python name, request and answer of all methods."""
    files = importlib.resources.files("google.cloud.container_v1")
    listed = json.loads((files / "gapic_metadata.json").read_text())
    clients = listed["services"]["ClusterManager"]["clients"]
    return [
        (rpc, found["methods"][0], *_types(found["methods"][0]))
        for rpc, found in clients["grpc"]["rpcs"].items()
    ]


def _types(name: str) -> tuple[Any, Any]:
    method = getattr(ClusterManagerGrpcTransport, name).fget
    hint = typing.get_type_hints(method)["return"]
    (request,), response = typing.get_args(hint)
    return request, response


def _reader(kind: Any) -> Callable[[bytes], Any]:
    if issubclass(kind, proto.Message):
        return kind.deserialize
    return kind.FromString


def _writer(kind: Any) -> Callable[[Any], bytes]:
    if issubclass(kind, proto.Message):
        return kind.serialize
    return lambda message: message.SerializeToString()


def _abort(context: grpc.ServicerContext, error: rules.Error) -> None:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code),
        message=error.text,
        details=[packed] if error.reason else [],
    )
    context.set_trailing_metadata(
        (("grpc-status-details-bin", status.SerializeToString()),)
    )
    context.abort(getattr(grpc.StatusCode, error.code), error.text)
