"""TCP connections that any thread can end, also while they are made."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ("Dialer",)


class Dialer:
    """Makes one connection after the other, until it is told to stop.

    Args:
        silence: Seconds without a sign of the other side after which a
            connection is taken for lost, where the system can do that.

    Attributes:
        is_closed: Whether it makes no more.
    """

    def __init__(self, silence: float) -> None:
        self.is_closed = False
        self._silence = silence
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """Connect.

        Args:
            address: A name, or an address of either kind.
            port: Where somebody listens.
            timeout: Seconds for all addresses of a name together.

        Raises:
            OSError: If nobody answers, or it was told to stop.
            UnicodeError: If that is no name.
        """
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        trouble = OSError("it has no address")
        for family, kind, protocol, _, where in found:
            link = socket.socket(family, kind, protocol)
            try:
                self._claim(link)
                link.settimeout(timeout / len(found))
                link.connect(where)
            except OSError as error:
                link.close()
                trouble = error
            else:
                return link
        raise trouble

    def cut(self) -> None:
        """Wake up whoever waits for the other side: nothing comes any more."""
        with self._lock:
            link = self._socket
        if link is not None:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut the connection, and make no more."""
        with self._lock:
            self.is_closed = True
        self.cut()

    def _claim(self, link: socket.socket) -> None:
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(self._silence * 1000)
            link.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds
            )
        with self._lock:
            if self.is_closed:
                raise ConnectionAbortedError("it was closed")
            self._socket = link
