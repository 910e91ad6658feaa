"""Sockets: where to connect to, and waking who waits for one."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ("Poller", "sockets_to")

# Seconds in which what was sent must have been acknowledged, or the
# connection is lost. A frozen server's machine still acknowledges, until its
# buffers are full.
_USER_TIMEOUT = 60
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def sockets_to(host: str, port: int) -> Iterator[tuple[socket.socket, Any]]:
    """A socket, not connected yet, for each of the host's addresses.

    Raises:
        OSError: If the host's name is unknown.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in found:
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        _set_options(opened)
        yield opened, address


def _set_options(opened: socket.socket) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for name, value in _KEEPALIVE.items():
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        opened.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT * 1000
        )


class Poller:
    """Waits for one socket, or until another thread wakes it."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._inside, select.POLLIN)
        self._lock = threading.Lock()
        self._watched: tuple[int, int] | None = None

    def wake(self) -> None:
        """Let `wait` return; from any thread, also before it is called."""
        # A full buffer wakes just as well, and nobody waits once it is closed.
        with self._lock, contextlib.suppress(OSError):
            self._outside.send(b"\0")

    def wait(
        self, opened: socket.socket, events: int, timeout: float | None
    ) -> int:
        """Wait for the socket.

        Args:
            opened: The socket.
            events: ``select.POLLIN``, ``select.POLLOUT`` or both.
            timeout: Seconds; None for ever.

        Returns:
            What the socket is ready for; 0 if woken, or not in time.
        """
        self._watch(opened.fileno(), events)
        milliseconds = None if timeout is None else max(0, timeout * 1000)
        result = 0
        for descriptor, found in self._poll.poll(milliseconds):
            if descriptor == self._inside.fileno():
                self._drain()
            else:
                result = found
        return result

    def forget(self) -> None:
        """Stop watching the socket, before it is closed."""
        if self._watched is not None:
            self._poll.unregister(self._watched[0])
            self._watched = None

    def close(self) -> None:
        """Release what it holds."""
        # Not while `wake` writes: the number may be another file's at once.
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """Release what it holds, in a fork: the lock may be held for ever."""
        self._inside.close()
        self._outside.close()

    def _watch(self, descriptor: int, events: int) -> None:
        if self._watched != (descriptor, events):
            self._poll.register(descriptor, events)
            self._watched = (descriptor, events)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._inside.recv(4096):
                pass
