"""Connections through a proxy. All of it runs in the proxy's loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable

__all__ = ("Link", "Weather", "readable")

_CHUNK = 65536
# What may be under way in one direction where time, not the receiver, is what
# it waits for.
_MAX_UNDER_WAY = 64 * 1024 * 1024
_RESET = struct.pack("ii", 1, 0)


class Weather:
    """What the connections of one proxy have to bear."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.rate: float | None = None
        self._moving = asyncio.Event()
        self._moving.set()

    def stall(self) -> None:
        self._moving.clear()

    def resume(self) -> None:
        self._moving.set()

    async def calm(self) -> None:
        """Wait while it is stalled."""
        await self._moving.wait()

    @property
    def is_stalled(self) -> bool:
        """Whether nothing moves."""
        return not self._moving.is_set()

    @property
    def max_under_way(self) -> int:
        """Bytes that may wait between one end and the other."""
        return _MAX_UNDER_WAY if self.delay else _CHUNK


class Link:
    """One connection through the proxy: two sockets, two directions."""

    def __init__(
        self,
        client: socket.socket,
        weather: Weather,
        on_end: Callable[[Link], None],
    ) -> None:
        self._server = socket.socket()
        self._sockets = (client, self._server)
        for one in self._sockets:
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = _Pipe(self._server, client, weather)
        self._questions = _Pipe(client, self._server, weather)
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    def start(self, address: tuple[str, int]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(address))

    @property
    def has_answers(self) -> bool:
        return self._answers.is_busy

    def reset(self) -> None:
        """Make both ends see a reset."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close()
        if self._task is not None:
            self._task.cancel()

    async def _run(self, address: tuple[str, int]) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(self._server, address)
            async with asyncio.TaskGroup() as group:
                for pipe in (self._questions, self._answers):
                    group.create_task(pipe.fill())
                    group.create_task(pipe.empty())
            self._close()
        except* OSError:
            self.reset()
        finally:
            self._on_end(self)

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            if one.fileno() >= 0:
                loop.remove_reader(one)
                loop.remove_writer(one)
                one.close()
        self._on_end(self)


class _Pipe:
    """One direction of a connection."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, weather: Weather
    ) -> None:
        self._source = source
        self._sink = sink
        self._weather = weather
        # (when it may arrive, what); the empty one is the end
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether bytes are in it, or ready to enter it."""
        if self._size:
            return True
        try:
            return bool(self._source.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def fill(self) -> None:
        now = asyncio.get_running_loop().time
        data = b"more"
        while data:
            await self._until(lambda: self._size < self._weather.max_under_way)
            await readable(self._source)
            await self._weather.calm()
            data = self._source.recv(_CHUNK)
            self._under_way.append((now() + self._weather.delay, data))
            self._size += len(data)
            self._changed.set()

    async def empty(self) -> None:
        loop = asyncio.get_running_loop()
        free_at = 0.0
        while True:
            await self._until(lambda: bool(self._under_way))
            due, data = self._under_way[0]
            await _sleep_until(max(due, free_at))
            await self._weather.calm()
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            rate = self._weather.rate
            # a fiftieth of a second at a time
            share = data if rate is None else data[: max(1, int(rate / 50))]
            await loop.sock_sendall(self._sink, share)
            free_at = 0.0 if rate is None else loop.time() + len(share) / rate
            self._take(due, data[len(share) :], len(share))

    def _take(self, due: float, rest: bytes, size: int) -> None:
        self._under_way.popleft()
        if rest:
            self._under_way.appendleft((due, rest))
        self._size -= size
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def readable(source: socket.socket) -> Awaitable[None]:
    """Wait for bytes, and leave them where they are."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(source, _wake, loop, source, ready)
    return ready


def _wake(
    loop: asyncio.AbstractEventLoop,
    source: socket.socket,
    ready: asyncio.Future[None],
) -> None:
    loop.remove_reader(source)
    if not ready.done():
        ready.set_result(None)


async def _sleep_until(when: float) -> None:
    left = when - asyncio.get_running_loop().time()
    if left > 0:
        await asyncio.sleep(left)
