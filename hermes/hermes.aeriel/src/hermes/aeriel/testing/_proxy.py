"""A TCP proxy whose network can be made worse.

One asyncio loop in one thread moves all bytes. Public methods may be called
from any thread and have taken effect when they return.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from hermes.aeriel.endpoint import Endpoint, EndpointLike
from hermes.aeriel.testing._errors import InvalidFake
from hermes.aeriel.testing._links import Link, Weather, readable

__all__ = ("FaultyProxy", "bound_socket")

_FLUSH_SECONDS = 1.0

T = TypeVar("T")


class FaultyProxy:
    """A TCP proxy, in this process, in front of a server.

    Args:
        target: ``"host:port"`` to forward to, or an object with it as
            ``grpc`` (such as ``server.endpoint``).

    Attributes:
        address: ``"host:port"`` that the proxy listens at, on loopback.

    Raises:
        InvalidFake: If the target is no address.

    A context manager; leaving it resets all connections. Nobody needs to
    listen at the target before a connection is made.
    """

    def __init__(self, target: str | EndpointLike) -> None:
        self._target = target
        self._forward_to = _parse(target)
        # Keeps the port while nobody may connect.
        self._reserved = bound_socket()
        host, port = self._reserved.getsockname()
        self.address = f"{host}:{port}"
        self._listener: socket.socket | None = None
        self._links: set[Link] = set()
        self._weather = Weather()
        self._loop = asyncio.new_event_loop()
        self._acceptor: asyncio.Task[None] | None = None
        self._thread = threading.Thread(
            target=self._loop.run_forever,
            name=f"hermes-proxy-{self.address}",
            daemon=True,
        )
        self._closed = False
        self._thread.start()
        self.refuse(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"FaultyProxy({self.address!r}, to={_text(self._forward_to)!r},"
            f" {len(self._links)} connections)"
        )

    @property
    def endpoint(self) -> Endpoint:
        """The target's endpoint, with the proxy in place of its gRPC.

        Where the target is only an address, all three are the proxy's.
        """
        if isinstance(self._target, str):
            return Endpoint(self.address, self.address, self.address)
        target = self._target
        return Endpoint(self.address, target.http, target.metrics)

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._links)

    def stall(self) -> None:
        """Move no byte and accept no connection until `resume`.

        The other end sees what it sees of a host that has stopped: it can
        connect, and send until buffers are full.
        """
        self._call(self._weather.stall)

    def resume(self) -> None:
        """Move bytes again, those first that had to wait."""
        self._call(self._weather.resume)

    def delay(self, seconds: float) -> None:
        """Let each byte arrive that much later, in each direction.

        Order and bandwidth stay as they are: bytes travel together.

        Raises:
            InvalidFake: If it is negative.
        """
        if seconds < 0:
            raise InvalidFake(f"delay({seconds}) is not a time to wait")
        self._call(setattr, self._weather, "delay", seconds)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Limit what each connection moves in each direction; None: do not.

        Raises:
            InvalidFake: If nothing could be moved.
        """
        if bytes_per_second is not None and bytes_per_second <= 0:
            msg = f"throttle({bytes_per_second}) moves nothing: use stall()"
            raise InvalidFake(msg)
        self._call(setattr, self._weather, "rate", bytes_per_second)

    def drop(self, *, flush: bool = False) -> None:
        """Reset all connections, at both ends.

        Args:
            flush: Whether what the server has written goes out before.
        """
        if flush:
            self.flush()
        self._call(self._reset_all)

    def flush(self) -> None:
        """Wait, a second at most, until what the server wrote is out."""
        self._check_open()
        self._run(self._flush_all())

    def refuse(self, refusing: bool = True) -> None:
        """Refuse new connections, or accept them again at the same port."""
        self._call(self._close_listener if refusing else self._listen)

    def close(self) -> None:
        """Reset all connections and give the port back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    def redirect(self, target: str) -> None:
        """Forward connections made from now on to another address."""
        self._forward_to = _parse(target)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        async def call() -> T:
            return function(*arguments)

        self._check_open()
        return self._run(call())

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidFake(f"{self!r} is closed; make another one")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # What follows runs in the loop's thread.

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = bound_socket(self._reserved.getsockname())
            self._listener.setblocking(False)
            self._listener.listen(512)
            self._acceptor = self._loop.create_task(
                self._accept(self._listener)
            )

    def _close_listener(self) -> None:
        if self._listener is not None and self._acceptor is not None:
            self._acceptor.cancel()
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await readable(listener)
            await self._weather.calm()
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                link = Link(client, self._weather, self._links.discard)
                self._links.add(link)
                link.start(self._forward_to)

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _flush_all(self) -> None:
        deadline = self._loop.time() + _FLUSH_SECONDS
        while (  # noqa: ASYNC110 - a socket has no event for "empty"
            not self._weather.is_stalled
            and any(link.has_answers for link in self._links)
            and self._loop.time() < deadline
        ):
            await asyncio.sleep(0.001)

    async def _shut_down(self) -> None:
        self._close_listener()
        self._reset_all()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)


def bound_socket(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A socket with a port that nobody else is given; it does not listen."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound


def _parse(target: str | EndpointLike) -> tuple[str, int]:
    address = target if isinstance(target, str) else target.grpc
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidFake(f"{target!r} is no 'host:port' to forward to")
    return host.strip("[]"), int(port)


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
