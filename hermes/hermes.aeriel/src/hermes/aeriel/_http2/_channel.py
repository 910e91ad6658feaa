"""The channel: one connection at a time, made when it is needed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from time import monotonic

from hermes.aeriel._channel import (
    OK,
    CallFailed,
    ChannelOptions,
    Message,
    Status,
)
from hermes.aeriel._fork import num_forks
from hermes.aeriel._http2._connection import (
    CLOSED,
    Connection,
    Http2Call,
    refuse_fork,
)
from hermes.aeriel._http2._headers import request_block
from hermes.aeriel._http2._session import Stream
from hermes.aeriel.errors import InvalidRequest

__all__ = ("Http2Channel",)

_CLOSE_TIMEOUT = 0.3


class Http2Channel:
    """See `Channel`.

    No proxy is used, whatever the environment says. Callbacks come from one
    thread, which also reads: one that takes long holds up all calls.

    Args:
        options: What it is made of.

    Raises:
        InvalidRequest: If that includes TLS.
    """

    def __init__(self, options: ChannelOptions) -> None:
        if options.ssl:
            raise InvalidRequest("this channel has no TLS: use grpcio's")
        self._options = options
        self._num_forks = num_forks()
        self._lock = threading.Lock()
        self._closed = False
        # The last one takes new calls; those before it end with theirs.
        self._connections: list[Connection] = []
        self._block = functools.cache(
            lambda method: request_block(
                method, options.address, options.headers
            )
        )

    def unary(self, method: str, message: bytes, timeout: float) -> Message:
        """See `Channel.unary`."""
        answers: list[Message] = []
        ends: list[Status] = []
        ended = threading.Event()

        def end(status: Status) -> None:
            ends.append(status)
            ended.set()

        call = self.stream(method, answers.append, end)
        call.write(message)
        call.half_close()
        if not ended.wait(timeout):
            call.cancel()
            msg = f"no answer within {timeout:g} s"
            raise CallFailed(Status("DEADLINE_EXCEEDED", msg))
        if ends[0] != OK:
            raise CallFailed(ends[0])
        if len(answers) != 1:
            msg = f"{len(answers)} answers to one request"
            raise CallFailed(Status("INTERNAL", msg))
        return answers[0]

    def stream(
        self,
        method: str,
        on_message: Callable[[Message], None],
        on_end: Callable[[Status], None],
    ) -> Http2Call:
        """See `Channel.stream`."""
        refuse_fork(self._num_forks)
        stream = Stream(self._block(method), on_message, on_end)
        with self._lock:
            if self._closed:
                raise CallFailed(CLOSED)
            if not self._connections or not self._connections[-1].add(stream):
                self._connect(stream)
            return Http2Call(self._connections[-1], stream)

    def close(self) -> None:
        """See `Channel.close`."""
        if num_forks() != self._num_forks:
            # The lock may be held for ever by a thread of the parent's.
            for connection in self._connections:
                connection.abandon()
            return
        with self._lock:
            self._closed = True
            connections = self._connections
        for connection in connections:
            connection.close()
        deadline = monotonic() + _CLOSE_TIMEOUT
        for connection in connections:
            connection.join(max(0.0, deadline - monotonic()))

    def _connect(self, stream: Stream) -> None:
        self._connections = [
            connection
            for connection in self._connections
            if connection.is_alive
        ]
        self._connections.append(Connection(self._options, stream))
