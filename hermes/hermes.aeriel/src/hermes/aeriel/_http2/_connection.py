"""One connection: a socket, the thread that serves it, and the calls on it."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
from contextlib import ExitStack
from time import monotonic
from typing import Any

from hermes.aeriel._channel import ChannelOptions, Message, Status
from hermes.aeriel._fork import num_forks
from hermes.aeriel._http2 import _frames as frames
from hermes.aeriel._http2._frames import ProtocolError
from hermes.aeriel._http2._session import Session, Stream
from hermes.aeriel._http2._socket import Poller, sockets_to
from hermes.aeriel.errors import ClientForked

__all__ = ("CLOSED", "Connection", "Http2Call", "refuse_fork")

# Seconds for each of the host's addresses, and for the server to show that it
# speaks HTTP/2. A busy one needs a while for that.
_CONNECT_TIMEOUT = 5.0
_GREETING_TIMEOUT = 20.0
_LAST_WORDS = 0.1
_READ_SIZE = 256 << 10
_TLS = b"\x15\x03"  # an alert

CLOSED = Status("CANCELLED", "the channel is closed")
_CANCELLED = Status("CANCELLED", "cancelled by this end")


class _Closed(Exception):
    """The connection's owner closed it."""


class Connection:
    """A connection that lives until one of its ends has had enough of it.

    Its thread connects, reads, calls back, and writes what could not be
    written at once. Other threads write as far as the socket takes it.

    Args:
        options: Where to.
        first: The call that it is made for.
    """

    def __init__(self, options: ChannelOptions, first: Stream) -> None:
        self._options = options
        self._num_forks = num_forks()
        self._session = Session()
        self._session.open(first)
        # of the session, and of the socket as far as writing is concerned
        self._lock = threading.Lock()
        self._poller = Poller()
        self._socket: socket.socket | None = None
        self._is_blocked = False
        self._write_error: OSError | None = None
        self._is_closing = False
        self._start: bytes = b""  # what the server said first
        self._thread = threading.Thread(
            target=self._run, name=f"hermes-io-{options.address}", daemon=True
        )
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def add(self, stream: Stream) -> bool:
        """Begin a call; False if the connection takes no more of them."""
        with self._lock:
            if self._session.is_leaving:
                return False
            self._session.open(stream)
            self._flush_soon()
        return True

    def write(self, stream: Stream, parts: tuple[bytes, ...]) -> None:
        """Send a message."""
        refuse_fork(self._num_forks)
        with self._lock:
            if not stream.is_over:
                self._session.outbox.message(stream, parts)
                self._flush_soon()

    def half_close(self, stream: Stream) -> None:
        """Send that no more messages follow."""
        if num_forks() != self._num_forks:
            return
        with self._lock:
            if not stream.is_over:
                self._session.outbox.end(stream)
                self._flush_soon()

    def cancel(self, stream: Stream) -> None:
        """End a call."""
        if num_forks() != self._num_forks:
            return
        with self._lock:
            self._session.end(stream, _CANCELLED)
            self._flush_soon()
        self._poller.wake()

    def close(self) -> None:
        """Let the thread end everything, soon."""
        self._is_closing = True
        self._poller.wake()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Close our copies of what is a parent process's."""
        self._poller.abandon()
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        # what is said if the thread fails by a fault of its own
        status = Status("INTERNAL", "the connection's thread failed")
        try:
            self._serve(self._connect())
            status = CLOSED
        except _Closed:
            status = CLOSED
        except ProtocolError as error:
            status = Status("UNAVAILABLE", self._explain(error))
            self._session.outbox.control(frames.goaway(0, error.code))
        except OSError as error:
            status = Status("UNAVAILABLE", error.strerror or str(error))
        finally:
            self._finish(status)

    def _connect(self) -> socket.socket:
        """A socket to the first of the host's addresses that answers."""
        reason = "it has no address"
        where = self._options.host, self._options.port
        for opened, address in sockets_to(*where):
            with ExitStack() as undo:
                undo.callback(opened.close)
                undo.callback(self._poller.forget)
                error = self._try(opened, address)
                if not error:
                    undo.pop_all()
                    return opened
                reason = os.strerror(error)
        raise ConnectionError(f"cannot connect: {reason}")

    def _try(self, opened: socket.socket, address: Any) -> int:
        """Connect a socket; returns the error's number."""
        error = opened.connect_ex(address)
        if error != errno.EINPROGRESS:
            return error
        deadline = monotonic() + _CONNECT_TIMEOUT
        while not self._poller.wait(
            opened, select.POLLOUT, deadline - monotonic()
        ):
            self._deliver()
            if self._is_closing:
                raise _Closed
            if monotonic() >= deadline:
                return errno.ETIMEDOUT
        return opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _serve(self, opened: socket.socket) -> None:
        self._socket = opened
        buffer = memoryview(bytearray(_READ_SIZE))
        deadline = monotonic() + _GREETING_TIMEOUT
        while not self._session.is_left:
            self._deliver()
            with self._lock:
                self._flush()
            if self._is_closing:
                raise _Closed
            events = select.POLLIN
            if self._is_blocked:
                events |= select.POLLOUT
            ready = self._poller.wait(opened, events, self._patience(deadline))
            if not ready and self._write_error is not None:
                raise self._write_error
            if ready & select.POLLOUT:
                self._is_blocked = False
            if ready & ~select.POLLOUT:
                self._read(opened, buffer)

    def _patience(self, deadline: float) -> float | None:
        """Seconds to wait for the server; None for ever."""
        if self._write_error is not None:
            # What it sent before that is read, and then the error.
            return _LAST_WORDS
        if self._session.is_ready:
            return None
        left = deadline - monotonic()
        if left < 0:
            raise ConnectionError("it does not answer")
        return left

    def _read(self, opened: socket.socket, buffer: memoryview) -> None:
        try:
            size = opened.recv_into(buffer)
        except BlockingIOError:
            return
        if not size and not self._session.is_ready:
            raise ProtocolError("it closes the connection")
        if not size:
            raise ConnectionError("the server closed the connection")
        if not self._start:
            self._start = bytes(buffer[: min(size, 5)])
        with self._lock:
            self._session.receive(buffer[:size])

    def _explain(self, error: ProtocolError) -> str:
        if self._session.is_ready:
            return f"the server broke the HTTP/2 protocol: {error}"
        if self._start.startswith(b"HTTP/"):
            return (
                "it answers in HTTP/1, not in gRPC: is this the port for"
                " gRPC (Triton's default is 8001)?"
            )
        if self._start.startswith(_TLS):
            return "it answers in TLS: give ssl=True"
        return (
            f"it does not speak gRPC: {error}; give the port for gRPC"
            " (Triton's default is 8001)"
        )

    def _deliver(self) -> None:
        """Call back with what has happened; without the lock."""
        events = self._session.events
        while events:
            stream, event = events.popleft()
            if isinstance(event, Status):
                self._tell_end(stream, stream.failure or event)
            elif stream.failure is None:
                self._tell_message(stream, event)

    def _tell_message(self, stream: Stream, message: Message) -> None:
        try:
            stream.on_message(message)
        except Exception as error:  # noqa: BLE001  # the callback's
            status = Status("INTERNAL", f"the callback raised {error!r}")
            with self._lock:
                self._session.end(stream, status)

    def _tell_end(self, stream: Stream, status: Status) -> None:
        try:
            stream.on_end(status)
        except Exception:  # noqa: BLE001  # there is nobody else to tell
            found = [*sys.exc_info(), threading.current_thread()]
            threading.excepthook(threading.ExceptHookArgs(found))

    def _flush_soon(self) -> None:
        """Send what may be sent; the lock is held."""
        is_ours = threading.get_ident() == self._thread.ident
        if self._is_blocked or (is_ours and self._session.events):
            # It goes out with what the callbacks yet to come write.
            return
        if not self._flush():
            self._poller.wake()

    def _flush(self) -> bool:
        """Send what may be sent; False if some could not, for now."""
        outbox = self._session.outbox
        if self._socket is None or self._write_error is not None:
            return True
        try:
            while not self._is_blocked and (buffers := outbox.next()):
                # sendmsg() takes twice the time of send()
                outbox.sent(
                    self._socket.send(buffers[0])
                    if len(buffers) == 1
                    else self._socket.sendmsg(buffers)
                )
        except BlockingIOError:
            self._is_blocked = True
        except OSError as error:
            self._write_error = error
        else:
            return True
        return False

    def _finish(self, status: Status) -> None:
        with self._lock:
            self._flush()
            self._session.end_all(status)
            if self._socket is not None:
                self._poller.forget()
                self._socket.close()
                self._socket = None
        self._deliver()
        self._poller.close()


class Http2Call:
    """See `Call`."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    def write(self, *parts: bytes) -> None:
        """See `Call.write`."""
        self._connection.write(self._stream, parts)

    def half_close(self) -> None:
        """See `Call.half_close`."""
        self._connection.half_close(self._stream)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._connection.cancel(self._stream)


def refuse_fork(before: int) -> None:
    """Raise if there was a fork since `num_forks` was asked.

    Raises:
        ClientForked: If there was.
    """
    if num_forks() != before:
        msg = "the channel was made before a fork: make another one"
        raise ClientForked(msg)
