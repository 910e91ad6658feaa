"""A `Channel` over grpcio: for TLS, and the measure of our own."""

from __future__ import annotations

import ipaddress
import os
import queue
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc

from hermes.aeriel._channel import (
    OK,
    CallFailed,
    ChannelOptions,
    Message,
    Status,
)
from hermes.aeriel.errors import ClientForked

__all__ = ("GrpcioChannel",)

_OPTIONS = (
    # tensors have no natural limit; the deadline is the limit
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Otherwise channels to one address share a connection: a client would
    # find another one's broken.
    ("grpc.use_local_subchannel_pool", 1),
)
_NO_PROXY = ("grpc.enable_http_proxy", 0)
_CLOSE_TIMEOUT = 0.3
# OpenSSL's name for an answer that is not TLS.
_NO_TLS = "WRONG_VERSION_NUMBER"


class GrpcioChannel:
    """See `Channel`.

    A proxy that the environment names is used, but not to this machine.

    Args:
        options: What it is made of.
    """

    def __init__(self, options: ChannelOptions) -> None:
        self._pid = os.getpid()
        self._metadata = tuple(options.headers.items())
        self._channel = _open(options)
        self._address = options.address
        self._calls: set[_GrpcioCall] = set()
        self._lock = threading.Lock()
        self._closed = False

    def unary(self, method: str, message: bytes, timeout: float) -> bytes:
        """See `Channel.unary`."""
        self._check()
        call: Any = self._channel.unary_unary(method)
        try:
            answer: bytes = call(
                message, timeout=timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise CallFailed(_status(error)) from error
        except ValueError as error:  # closed since then
            raise CallFailed(_CLOSED) from error
        return answer

    def stream(
        self,
        method: str,
        on_message: Callable[[Message], None],
        on_end: Callable[[Status], None],
    ) -> _GrpcioCall:
        """See `Channel.stream`."""
        self._check()
        with self._lock:
            if self._closed:
                raise CallFailed(_CLOSED)
            call = _GrpcioCall(
                self._address, on_message, on_end, self._calls.discard
            )
            self._calls.add(call)
            call.begin(self._channel.stream_stream(method), self._metadata)
        return call

    def close(self) -> None:
        """See `Channel.close`."""
        if os.getpid() != self._pid:
            return  # grpc's threads are the parent's
        with self._lock:
            self._closed = True
            calls = [*self._calls]
        self._channel.close()
        deadline = monotonic() + _CLOSE_TIMEOUT
        for call in calls:
            call.join(deadline)

    def _check(self) -> None:
        _refuse_fork(self._pid)
        if self._closed:
            raise CallFailed(_CLOSED)


class _GrpcioCall:
    """See `Call`: a thread that reads, and one of grpc's that writes."""

    def __init__(
        self,
        address: str,
        on_message: Callable[[Message], None],
        on_end: Callable[[Status], None],
        forget: Callable[[_GrpcioCall], None],
    ) -> None:
        self._pid = os.getpid()
        self._on_message = on_message
        self._on_end = on_end
        self._forget = forget
        # grpc's own thread takes messages from the queue; None ends them.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: Any = None
        self._reader = threading.Thread(
            target=self._read, name=f"hermes-io-{address}", daemon=True
        )

    def begin(
        self, method: Any, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._call = method(iter(self._queue.get, None), metadata=metadata)
        self._reader.start()

    def write(self, *parts: bytes) -> None:
        """See `Call.write`."""
        _refuse_fork(self._pid)
        self._queue.put(b"".join(parts))

    def half_close(self) -> None:
        """See `Call.half_close`."""
        if os.getpid() == self._pid:
            self._queue.put(None)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        if os.getpid() == self._pid:
            self._call.cancel()

    def join(self, deadline: float) -> None:
        if threading.current_thread() is not self._reader:
            self._reader.join(max(0.0, deadline - monotonic()))

    def _read(self) -> None:
        try:
            status = self._take_messages()
        finally:
            # Lets grpc's thread go, which waits for messages.
            self._queue.put(None)
            self._forget(self)
        self._on_end(status)

    def _take_messages(self) -> Status:
        try:
            for message in self._call:
                try:
                    self._on_message(message)
                except Exception as error:  # noqa: BLE001  # the callback's
                    self._call.cancel()
                    return Status("INTERNAL", f"the callback raised {error!r}")
        except grpc.RpcError as error:
            return _status(error)
        return OK


_CLOSED = Status("CANCELLED", "the channel is closed")


def _refuse_fork(pid: int) -> None:
    if os.getpid() != pid:
        msg = "the channel was made before a fork: make another one"
        raise ClientForked(msg)


def _open(options: ChannelOptions) -> grpc.Channel:
    arguments = (
        [*_OPTIONS, _NO_PROXY] if _is_loopback(options.host) else _OPTIONS
    )
    if not options.ssl:
        return grpc.insecure_channel(options.address, options=arguments)
    credentials = grpc.ssl_channel_credentials(**options.certificates())
    return grpc.secure_channel(options.address, credentials, options=arguments)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _status(error: grpc.RpcError) -> Status:
    details = error.details() or ""
    if _NO_TLS in details:
        details = "it does not speak TLS: leave ssl=True out"
    return Status(error.code().name, details)
