"""Ports of this machine that lead to ports of a pod."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from hermes.cloudbreak._kubernetes import WebSocket
from hermes.cloudbreak.errors import CloudError, Refused

__all__ = ("Forwarder",)

_log = logging.getLogger(__name__)

# Seconds of silence after which we show that we are there: what lies between
# drops connections that say nothing.
_SILENCE = 30.0
# Seconds until a connection that cannot be accepted is tried again.
_PAUSE = 0.2
_PIECE = 1 << 16
_DATA = 0
# Kinds of messages: the end, and ping and pong.
_CLOSE = 0x8
_CONTROL = (0x9, 0xA)


class Forwarder:
    """Listens on loopback, and carries each connection to the pod.

    A pod that is replaced under the same name is reached by the next
    connection. Use it as a context manager, or close it.

    Args:
        connect: Connects to a port of the pod.
        ports: Its ports, by name.
        silence: Seconds without a byte after which a connection is shown to
            be in use.

    Attributes:
        addresses: ``"host:port"`` of each port, by name.
        refused: Why the last connection was refused for good, such as for a
            lack of rights; None if it was not.
    """

    def __init__(
        self,
        connect: Callable[[int], WebSocket],
        ports: Mapping[str, int],
        silence: float = _SILENCE,
    ) -> None:
        self._connect = connect
        self._silence = silence
        self.refused: Refused | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._woken, self._wake = socket.socketpair()
        self._listeners = {
            name: socket.create_server(("127.0.0.1", 0)) for name in ports
        }
        self.addresses = {
            name: "{}:{}".format(*each.getsockname())
            for name, each in self._listeners.items()
        }
        self._targets = {
            each: ports[name] for name, each in self._listeners.items()
        }
        self._thread = threading.Thread(
            target=self._accept, name="hermes-forward", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Forwarder {self.addresses}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ports, and what goes through them."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._wake.close()
        self._thread.join()

    def _accept(self) -> None:
        poll = select.poll()
        by_number = {each.fileno(): each for each in self._targets}
        for number in (self._woken.fileno(), *by_number):
            poll.register(number, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll()}
            if self._woken.fileno() in ready:
                break
            for number in ready:
                listener = by_number[number]
                try:
                    self._start(listener)
                except (OSError, RuntimeError) as error:
                    # No file or no thread is left for now; who connects waits.
                    _log.warning("not forwarded yet: %s", error)
                    self._closing.wait(_PAUSE)
        for each in (self._woken, *self._targets):
            each.close()

    def _start(self, listener: socket.socket) -> None:
        local, _ = listener.accept()
        try:
            threading.Thread(
                target=self._carry,
                args=(local, self._targets[listener]),
                name="hermes-forward",
                daemon=True,
            ).start()
        except RuntimeError:
            local.close()
            raise

    def _carry(self, local: socket.socket, port: int) -> None:
        with self._lock:
            if self._closing.is_set():
                local.close()
                return
            self._open.add(local)
        try:
            with local:
                remote = self._reach(port)
                with contextlib.closing(remote):
                    _pump(local, remote, self._silence)
        except CloudError as error:
            _log.info("not forwarded: %s", error)
        except Exception as error:  # noqa: BLE001 - both ends are closed, and
            # that is what the client sees; the library has many errors.
            _log.debug("a forwarded connection ended: %s", error)
        finally:
            with self._lock:
                self._open.discard(local)

    def _reach(self, port: int) -> WebSocket:
        try:
            remote = self._connect(port)
        except Refused as error:
            self.refused = error  # before the client sees the end
            raise
        self.refused = None
        return remote


def _pump(local: socket.socket, remote: WebSocket, silence: float) -> None:
    """Carry bytes both ways, in one thread, until one side ends."""
    is_known: set[int] = set()  # channels whose first message has come
    while (wire := remote.sock) is not None:
        ready = _wait(local, wire, silence)
        if not ready:
            remote.ping()
        if local in ready:
            piece = local.recv(_PIECE)
            if not piece:
                return
            remote.send_binary(bytes([_DATA]) + piece)
        if wire in ready and not _receive(local, remote, is_known):
            return


def _receive(
    local: socket.socket, remote: WebSocket, is_known: set[int]
) -> bool:
    """Carry one message; tell whether there may be more."""
    # Pongs, too: else it would wait for what comes after them, and nothing
    # would be sent meanwhile.
    kind, frame = remote.recv_data_frame(control_frame=True)
    if kind in _CONTROL:
        return True
    message = frame.data
    if kind == _CLOSE or not message:
        return False
    channel = message[0]
    if channel not in is_known:
        is_known.add(channel)  # it only repeats the port
    elif channel == _DATA:
        local.sendall(message[1:])
    else:
        _log.warning("forwarding: %s", message[1:].decode(errors="replace"))
        return False
    return True


def _wait(local: socket.socket, wire: Any, silence: float) -> list[Any]:
    # What TLS has decrypted already does not show on the socket.
    if getattr(wire, "pending", int)():
        return [wire]
    poll = select.poll()
    for each in (local, wire):
        poll.register(each, select.POLLIN)
    ready = {number for number, _ in poll.poll(silence * 1000)}
    return [each for each in (local, wire) if each.fileno() in ready]
