"""The state of one connection: what each frame that arrives does.

Pure and not thread-safe: whoever owns it holds a lock, sends what is in the
outbox, and calls back with the events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hermes.aeriel._channel import OK, Message, Status
from hermes.aeriel._http2 import _frames as frames
from hermes.aeriel._http2._frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    ErrorCode,
    Frame,
    FrameReader,
    FrameType,
    ProtocolError,
    Setting,
    error_name,
)
from hermes.aeriel._http2._headers import (
    HeaderReader,
    Headers,
    status_of_reset,
    status_of_response,
    status_of_trailers,
)
from hermes.aeriel._http2._messages import BadMessage, MessageReader
from hermes.aeriel._http2._outbox import Outbox, OutgoingStream

__all__ = ("Session", "Stream")

_WINDOW = 64 << 20
_FRAME_SIZE = 4 << 20
_MAX_BLOCK_SIZE = 1 << 20
_MAX_STREAM = 2**31 - 1
_NO_LIMIT = 2**32
_DEFAULT_WINDOW = 65_535


class Stream(OutgoingStream):
    """One call.

    Args:
        block: The header block that begins it.
        on_message: Called by whoever handles the session's events.
        on_end: Called so, too.

    Attributes:
        failure: The status it ends with whatever the server says; no more
            messages are handed on.
    """

    def __init__(
        self,
        block: bytes,
        on_message: Callable[[Message], None],
        on_end: Callable[[Status], None],
    ) -> None:
        super().__init__()
        self.block = block
        self.on_message = on_message
        self.on_end = on_end
        self.failure: Status | None = None
        self.is_over = False
        self.is_answered = False
        self.messages = MessageReader()
        self.unreturned = 0  # bytes received since the last WINDOW_UPDATE


class Session:
    """One connection's calls.

    Args:
        window: Bytes that the server may send ahead.

    Attributes:
        outbox: What to send.
        events: Messages for streams, and the statuses that end them.
        is_ready: Whether the server has shown that it speaks HTTP/2.
        is_leaving: Whether it takes no more calls.
    """

    def __init__(self, window: int = _WINDOW) -> None:
        self.outbox = Outbox()
        self.events: deque[tuple[Stream, Message | Status]] = deque()
        self.is_ready = False
        self.is_leaving = False
        self._window = window
        self._streams: dict[int, Stream] = {}
        self._waiting: deque[Stream] = deque()
        self._next_number = 1
        self._max_streams = _NO_LIMIT
        self._unreturned = 0
        self._reader = FrameReader(_FRAME_SIZE)
        self._header_reader = HeaderReader()
        # the HEADERS frame that waits for its CONTINUATION, and its block
        self._begun: Frame | None = None
        self._block = b""
        self._handlers: dict[int, Callable[[Frame], None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_unexpected,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_unexpected,
        }
        self._greet()

    @property
    def is_left(self) -> bool:
        """Whether it takes no more calls, and those it took have ended."""
        return self.is_leaving and not self._streams

    def open(self, stream: Stream) -> None:
        """Begin a call, as soon as the server takes it."""
        self._waiting.append(stream)
        self._open_waiting()

    def end(self, stream: Stream, status: Status) -> None:
        """End a call from this side, unless its end has been told."""
        stream.failure = status
        if not stream.is_over:
            self._end(stream, status)

    def end_all(self, status: Status) -> None:
        """End all calls: the connection has ended."""
        self._leave(status)
        for stream in [*self._streams.values()]:
            self._end(stream, status)

    def receive(self, data: memoryview | bytes) -> None:
        """Take what has arrived.

        Raises:
            ProtocolError: If the connection has to end.
        """
        for frame in self._reader.feed(data):
            if self._begun is not None:
                self._on_continuation(self._begun, frame)
                continue
            if not self.is_ready and frame.type != FrameType.SETTINGS:
                raise ProtocolError("the first frame is not SETTINGS")
            handler = self._handlers.get(frame.type)
            if handler is not None:
                handler(frame)

    def _greet(self) -> None:
        values = {
            # The server's headers leave no state that could go wrong.
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: self._window,
            Setting.MAX_FRAME_SIZE: _FRAME_SIZE,
        }
        self.outbox.control(frames.PREFACE + frames.settings(values))
        if self._window > _DEFAULT_WINDOW:
            self.outbox.control(
                frames.window_update(0, self._window - _DEFAULT_WINDOW)
            )

    def _open_waiting(self) -> None:
        while (
            self._waiting
            and self.is_ready
            and len(self._streams) < self._max_streams
        ):
            stream = self._waiting.popleft()
            self._streams[self._next_number] = stream
            self.outbox.begin(stream, self._next_number, stream.block)
            self._next_number += 2
            if self._next_number > _MAX_STREAM:
                msg = "the connection has had all the calls it can have"
                self._leave(Status("UNAVAILABLE", msg))

    def _leave(self, status: Status) -> None:
        """Take no more calls, and end those that have not begun."""
        self.is_leaving = True
        while self._waiting:
            self._end(self._waiting[0], status)

    def _end(
        self, stream: Stream, status: Status, *, tell: bool = True
    ) -> None:
        """End a call, and tell the server if it may not know."""
        stream.is_over = True
        if not stream.id:
            self._waiting.remove(stream)
        else:
            del self._streams[stream.id]
            if tell and (stream.failure or not stream.is_ended):
                self.outbox.control(frames.reset(stream.id, ErrorCode.CANCEL))
        stream.drop()
        self.events.append((stream, status))
        self._open_waiting()

    def _return_credit(self, number: int, size: int) -> int:
        """Let the server send as much again, from time to time."""
        if 2 * size <= self._window:
            return size
        self.outbox.control(frames.window_update(number, size))
        return 0

    def _on_data(self, frame: Frame) -> None:
        self._unreturned = self._return_credit(
            0, self._unreturned + frame.size
        )
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        try:
            for message in stream.messages.feed(frame.payload):
                self.events.append((stream, message))
        except BadMessage as error:
            self.end(stream, error.status)
            return
        if frame.flags & END_STREAM:
            self._end(stream, status_of_trailers({}))
            return
        stream.unreturned = self._return_credit(
            stream.id, stream.unreturned + frame.size
        )

    def _on_headers(self, frame: Frame) -> None:
        if not frame.flags & END_HEADERS:
            self._begun, self._block = frame, bytes(frame.payload)
            return
        # Read even if nobody waits for it: the next block may refer to it.
        found = self._header_reader.read(bytes(frame.payload))
        stream = self._streams.get(frame.stream)
        if stream is not None:
            self._answer(stream, found, frame.flags & END_STREAM != 0)

    def _on_continuation(self, begun: Frame, frame: Frame) -> None:
        is_next = frame.type == FrameType.CONTINUATION
        if not is_next or frame.stream != begun.stream:
            raise ProtocolError("headers that do not end")
        self._block += frame.payload
        if len(self._block) > _MAX_BLOCK_SIZE:
            msg = f"headers of more than {_MAX_BLOCK_SIZE} bytes"
            raise ProtocolError(msg, ErrorCode.ENHANCE_YOUR_CALM)
        if frame.flags & END_HEADERS:
            self._begun = None
            flags = begun.flags | END_HEADERS
            self._on_headers(begun._replace(flags=flags, payload=self._block))

    def _answer(self, stream: Stream, found: Headers, is_last: bool) -> None:
        """Take a call's headers or trailers."""
        if found.get(":status", "").startswith("1"):
            return  # more headers follow
        is_grpc = "grpc-status" in found or stream.is_answered
        status = None if is_grpc else status_of_response(found)
        stream.is_answered = True
        if status is not None:
            stream.failure = status
        elif is_last:
            status = status_of_trailers(found)
            if status == OK and not stream.messages.is_between:
                status = Status("INTERNAL", "the server ended in a message")
        if status is not None:
            self._end(stream, status)

    def _on_reset(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        code = frames.read_number(frame.payload)
        if stream is not None:
            self._end(stream, status_of_reset(code), tell=False)

    def _on_settings(self, frame: Frame) -> None:
        if frame.flags & ACK:
            return
        found = frames.read_settings(frame.payload)
        self.outbox.apply(found, self._streams.values())
        self._max_streams = found.get(
            Setting.MAX_CONCURRENT_STREAMS, self._max_streams
        )
        self.outbox.control(frames.frame(FrameType.SETTINGS, ACK, 0))
        self.is_ready = True
        self._open_waiting()

    def _on_ping(self, frame: Frame) -> None:
        if not frame.flags & ACK:
            answer = bytes(frame.payload)
            self.outbox.control(frames.frame(FrameType.PING, ACK, 0, answer))

    def _on_goaway(self, frame: Frame) -> None:
        last, code, text = frames.read_goaway(frame.payload)
        reason = f"the server takes no more calls ({error_name(code)}) {text}"
        status = Status("UNAVAILABLE", reason.rstrip())
        self._leave(status)
        for stream in [*self._streams.values()]:
            if stream.id > last:
                self._end(stream, status, tell=False)

    def _on_window_update(self, frame: Frame) -> None:
        increment = frames.read_number(frame.payload)
        stream = self._streams.get(frame.stream)
        if stream is not None or not frame.stream:
            self.outbox.credit(stream, increment)

    def _on_unexpected(self, frame: Frame) -> None:
        name = FrameType(frame.type).name
        raise ProtocolError(f"a {name} frame where none may be")
