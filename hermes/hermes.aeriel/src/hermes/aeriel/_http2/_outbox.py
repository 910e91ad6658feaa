"""What may be sent when: messages cut into frames as flow control allows.

Pure and not thread-safe: whoever owns it holds a lock, and sends what it says
comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice

from hermes.aeriel._http2 import _frames as frames
from hermes.aeriel._http2._frames import (
    END_STREAM,
    ErrorCode,
    FrameType,
    ProtocolError,
    Setting,
)
from hermes.aeriel._http2._messages import PREFIX_SIZE, prefix

__all__ = ("Outbox", "OutgoingStream")

_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME_SIZE = 16_384
_MAX_WINDOW = 2**31 - 1
# Frames are cut when they are about to be sent, so that a large message does
# not keep the small ones of other streams waiting.
_ENOUGH = 1 << 20
# what one system call takes is limited (1,024 on Linux)
_MAX_BUFFERS = 512

_Buffer = memoryview | bytes


class OutgoingStream:
    """What one stream has to send.

    Attributes:
        id: The stream's number; 0 until it is opened.
        is_ended: Whether the other end knows, or will, that no more follows.
    """

    def __init__(self) -> None:
        self.id = 0
        self.is_ended = False
        self.window = 0
        self.size = 0  # bytes pending
        self.is_ending = False
        self.is_queued = False
        self._pending: deque[_Buffer] = deque()

    @property
    def is_due(self) -> bool:
        """Whether a frame could be sent, if the connection's window allows."""
        if not self.id or self.is_ended:
            return False
        return self.window > 0 if self.size else self.is_ending

    def add(self, parts: tuple[bytes, ...]) -> None:
        """Take a message and its prefix."""
        self._pending += [part for part in parts if part]
        self.size += sum(map(len, parts))

    def take(self, size: int) -> list[_Buffer]:
        """The first ``size`` of the bytes pending."""
        self.size -= size
        taken: list[_Buffer] = []
        while size:
            buffer = self._pending.popleft()
            if len(buffer) > size:
                whole = memoryview(buffer)
                self._pending.appendleft(whole[size:])
                buffer = whole[:size]
            taken.append(buffer)
            size -= len(buffer)
        return taken

    def drop(self) -> None:
        """Forget what is pending; nothing more is sent."""
        self._pending.clear()
        self.size = 0
        self.is_ended = True


class Outbox:
    """The bytes to send next, of all streams of a connection.

    Streams with much to send take turns.
    """

    def __init__(self) -> None:
        self._buffers: deque[_Buffer] = deque()
        self._size = 0  # bytes in the buffers
        self._ready: deque[OutgoingStream] = deque()
        self._window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._frame_size = _DEFAULT_FRAME_SIZE

    def control(self, frame: bytes) -> None:
        """Send a frame that is under no flow control."""
        self._buffers.append(frame)
        self._size += len(frame)

    def begin(self, stream: OutgoingStream, number: int, block: bytes) -> None:
        """Open a stream with its header block."""
        stream.id = number
        stream.window = self._initial_window
        self.control(frames.headers(number, block, self._frame_size))
        self._queue(stream)

    def message(
        self, stream: OutgoingStream, parts: tuple[bytes, ...]
    ) -> None:
        """Send a message, once the stream is open."""
        length = sum(map(len, parts))
        size = PREFIX_SIZE + length
        start = prefix(length)
        if stream.id and not stream.size and self._may_send(stream, size):
            frame = frames.header(size, FrameType.DATA, 0, stream.id)
            self.control(b"".join((frame, start, *parts)))
            stream.window -= size
            self._window -= size
            return
        stream.add((start, *parts))
        self._queue(stream)

    def end(self, stream: OutgoingStream) -> None:
        """End a stream's messages, after those pending."""
        stream.is_ending = True
        self._queue(stream)

    def credit(self, stream: OutgoingStream | None, increment: int) -> None:
        """Apply a WINDOW_UPDATE; None is the connection's.

        Raises:
            ProtocolError: If it is not allowed.
        """
        if not 0 < increment <= _MAX_WINDOW:
            raise ProtocolError(f"a WINDOW_UPDATE of {increment}")
        if stream is None:
            self._window = _enlarged(self._window, increment)
        else:
            stream.window = _enlarged(stream.window, increment)
            self._queue(stream)

    def apply(
        self, settings: Mapping[int, int], streams: Iterable[OutgoingStream]
    ) -> None:
        """Apply the other end's SETTINGS to the streams that are open.

        Raises:
            ProtocolError: If they would overflow a window.
        """
        self._frame_size = settings.get(
            Setting.MAX_FRAME_SIZE, self._frame_size
        )
        before = self._initial_window
        self._initial_window = settings.get(
            Setting.INITIAL_WINDOW_SIZE, before
        )
        for stream in streams:
            stream.window = _enlarged(
                stream.window, self._initial_window - before
            )
            self._queue(stream)

    def next(self) -> list[_Buffer]:
        """What to send next; empty if there is nothing that may be sent."""
        while self._ready and self._size < _ENOUGH:
            stream = self._ready[0]
            if stream.size and self._window <= 0:
                break
            self._ready.popleft()
            stream.is_queued = False
            if stream.is_due:
                self._cut(stream)
                self._queue(stream)
        return list(islice(self._buffers, _MAX_BUFFERS))

    def sent(self, size: int) -> None:
        """Forget so many bytes of what `next` returned: they are sent."""
        self._size -= size
        while size:
            buffer = self._buffers[0]
            if len(buffer) > size:
                self._buffers[0] = memoryview(buffer)[size:]
                return
            self._buffers.popleft()
            size -= len(buffer)

    def _queue(self, stream: OutgoingStream) -> None:
        if not stream.is_queued and stream.is_due:
            stream.is_queued = True
            self._ready.append(stream)

    def _may_send(self, stream: OutgoingStream, size: int) -> bool:
        """Whether a message of that size may go at once, in one frame."""
        return (
            size <= self._frame_size
            and size <= stream.window
            and size <= self._window
            and self._size < _ENOUGH
            and not self._ready
        )

    def _cut(self, stream: OutgoingStream) -> None:
        """Cut the stream's next frame."""
        size = min(stream.size, self._frame_size, stream.window, self._window)
        size = max(size, 0)
        stream.is_ended = stream.is_ending and size == stream.size
        flags = END_STREAM if stream.is_ended else 0
        stream.window -= size
        self._window -= size
        self.control(frames.header(size, FrameType.DATA, flags, stream.id))
        for buffer in stream.take(size):
            self._buffers.append(buffer)
        self._size += size


def _enlarged(window: int, increment: int) -> int:
    window += increment
    if window > _MAX_WINDOW:
        msg = f"a window of {window}"
        raise ProtocolError(msg, ErrorCode.FLOW_CONTROL_ERROR)
    return window
