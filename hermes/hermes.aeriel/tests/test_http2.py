"""Our HTTP/2 channel against servers that grpcio's cannot be made to be."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import hpack
import pytest

from hermes.aeriel._channel import OK, CallFailed, ChannelOptions, Status
from hermes.aeriel._http2 import Http2Channel
from hermes.aeriel._http2 import _frames as frames
from hermes.aeriel._http2._frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    ErrorCode,
    Frame,
    FrameReader,
    FrameType,
    Setting,
)
from hermes.aeriel._http2._messages import prefix

RESPONSE = {":status": "200", "content-type": "application/grpc"}


def block(headers: dict[str, str]) -> bytes:
    return hpack.Encoder().encode(headers.items())


def framed(message: bytes) -> bytes:
    return prefix(len(message)) + message


class Peer:
    """The server's end of one connection."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.socket.settimeout(5)
        self.reader = FrameReader(2**24 - 1)
        self.frames: list[Frame] = []

    def greet(self, values: dict[Setting, int] | None = None) -> None:
        assert self.receive(len(PREFACE)) == PREFACE
        self.send(frames.settings(values or {}))

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, "the client closed the connection"
            data += piece
        return data

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def next(self, *kinds: FrameType) -> Frame:
        """The next frame of one of these types; others are skipped."""
        while True:
            while not self.frames:
                data = self.socket.recv(65536)
                assert data, "the client closed the connection"
                self.frames += self.reader.feed(data)
            frame = self.frames.pop(0)
            if frame.type in kinds and not frame.flags & ACK * (
                frame.type in {FrameType.SETTINGS, FrameType.PING}
            ):
                return frame

    def call(self) -> int:
        """The number of the next call that the client begins."""
        return self.next(FrameType.HEADERS).stream

    def message(self) -> bytes:
        """What the next DATA frame holds, without gRPC's prefix."""
        return bytes(self.next(FrameType.DATA).payload[5:])

    def headers(
        self, stream: int, headers: dict[str, str], flags: int = 0
    ) -> None:
        self.send(
            frames.frame(
                FrameType.HEADERS,
                flags | END_HEADERS,
                stream,
                block(headers),
            )
        )

    def data(self, stream: int, data: bytes, flags: int = 0) -> None:
        self.send(frames.frame(FrameType.DATA, flags, stream, data))

    def end(self, stream: int, status: int = 0, text: str = "") -> None:
        found = {"grpc-status": str(status), "grpc-message": text}
        self.headers(stream, found, END_STREAM)

    def wait_closed(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass


Script = Callable[[Peer], None]


class Server:
    """Runs a script on each connection, one after the other."""

    def __init__(self, *scripts: Script) -> None:
        self.errors: list[BaseException] = []
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(5)
        self._sockets: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for script in self._scripts:
            try:
                opened, _ = self._listener.accept()
                self._sockets.append(opened)
                script(Peer(opened))
            except Exception as error:  # noqa: BLE001  # told by stop()
                self.errors.append(error)
                return

    def stop(self) -> None:
        self._thread.join(10)
        self._listener.close()
        for opened in self._sockets:
            opened.close()
        assert not self.errors, self.errors


class Recorder:
    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[Status] = queue.SimpleQueue()

    def take(self) -> bytes:
        return self.messages.get(timeout=5)

    def end(self) -> Status:
        status = self.ends.get(timeout=5)
        assert self.ends.empty()
        return status


Serve = Callable[..., Http2Channel]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A channel to a server that follows scripts."""
    with contextlib.ExitStack() as undo:

        def start(*scripts: Script) -> Http2Channel:
            server = Server(*scripts)
            channel = Http2Channel(ChannelOptions(server.address))
            undo.callback(server.stop)
            undo.callback(channel.close)
            return channel

        yield start
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("hermes-io-")]


def begin(channel: Http2Channel) -> tuple[Recorder, object]:
    recorder = Recorder()
    call = channel.stream(
        "/test/echo",
        lambda message: recorder.messages.put(bytes(message)),
        recorder.ends.put,
    )
    return recorder, call


def status_of(channel: Http2Channel) -> Status:
    with pytest.raises(CallFailed) as caught:
        channel.unary("/test/unary", b"x", 5)
    return caught.value.status


def answer(peer: Peer, message: bytes = b"fine") -> None:
    """Answer one unary call."""
    stream = peer.call()
    peer.headers(stream, RESPONSE)
    peer.data(stream, framed(message))
    peer.end(stream)


def greet_and_answer(peer: Peer) -> None:
    peer.greet()
    answer(peer)
    peer.wait_closed()


def test_what_the_client_says_first(serve) -> None:
    found = {}

    def script(peer: Peer) -> None:
        peer.greet()
        settings = peer.next(FrameType.SETTINGS)
        found.update(frames.read_settings(settings.payload))
        window = peer.next(FrameType.WINDOW_UPDATE)
        found["window"] = frames.read_number(window.payload)
        headers = peer.next(FrameType.HEADERS)
        found.update(dict(hpack.Decoder().decode(bytes(headers.payload))))
        peer.end(headers.stream)

    channel = serve(script)
    recorder, _ = begin(channel)
    assert recorder.end() == OK
    assert found[Setting.ENABLE_PUSH] == 0
    assert found[Setting.HEADER_TABLE_SIZE] == 0
    assert found[Setting.INITIAL_WINDOW_SIZE] >= 2**24
    assert found["window"] + 65_535 >= 2**24
    assert found[":method"] == "POST"
    assert found[":path"] == "/test/echo"
    assert found["te"] == "trailers"
    assert found["content-type"] == "application/grpc"


HTTP1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (HTTP1, "HTTP/1"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", "ssl=True"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak gRPC"),
        (frames.frame(FrameType.PING, 0, 0, bytes(8)), "first frame"),
        (b"", "not speak gRPC: it closes"),
        (b"", "give the port for gRPC"),
        (b"\0\0", "not speak gRPC: it closes"),
    ],
)
def test_something_else_at_the_address_is_named(serve, said, match) -> None:
    def script(peer: Peer) -> None:
        peer.receive(len(PREFACE))
        peer.send(said)
        peer.socket.shutdown(socket.SHUT_WR)
        peer.wait_closed()

    status = status_of(serve(script))
    assert status.code == "UNAVAILABLE"
    assert match in status.details


def test_silence_ends_in_the_deadline(serve) -> None:
    channel = serve(Peer.wait_closed)
    begin = time.monotonic()
    with pytest.raises(CallFailed, match="DEADLINE_EXCEEDED"):
        channel.unary("/test/unary", b"x", 0.2)
    assert time.monotonic() - begin < 1


def test_a_connection_that_never_says_settings_is_given_up(
    serve, monkeypatch
) -> None:
    monkeypatch.setattr(
        "hermes.aeriel._http2._connection._GREETING_TIMEOUT", 0.2
    )
    status = status_of(serve(Peer.wait_closed))
    assert status == Status("UNAVAILABLE", "it does not answer")


@pytest.mark.parametrize(
    "garbage",
    [
        frames.header(2**24 - 1, FrameType.DATA, 0, 1),
        frames.frame(FrameType.CONTINUATION, END_HEADERS, 1),
        frames.frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, bytes(5)),
        frames.frame(FrameType.HEADERS, END_HEADERS, 1, b"\xff" * 9),
        frames.frame(FrameType.HEADERS, 0, 1) + frames.window_update(0, 1),
        frames.frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(4)),
        frames.frame(FrameType.WINDOW_UPDATE, 0, 0, b"x"),
        frames.frame(FrameType.SETTINGS, 0, 0, b"x"),
        frames.frame(FrameType.DATA, 8, 1, b"\x09"),
        frames.frame(FrameType.HEADERS, 0, 1)
        + frames.frame(FrameType.CONTINUATION, 0, 1, bytes(2**20 + 1)),
    ],
)
def test_a_broken_protocol_ends_the_connection(serve, garbage) -> None:
    said = queue.SimpleQueue()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.call()
        peer.send(garbage)
        said.put(peer.next(FrameType.GOAWAY))

    channel = serve(script, greet_and_answer)
    recorder, _ = begin(channel)
    status = recorder.end()
    assert status.code == "UNAVAILABLE"
    assert "broke the HTTP/2 protocol" in status.details
    said.get(timeout=5)
    assert channel.unary("/test/unary", b"x", 5) == b"fine"


@pytest.mark.parametrize("how", ["close", "reset", "half a frame"])
def test_a_lost_connection_ends_its_calls_and_is_made_anew(serve, how) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(3):
            peer.call()
        if how == "half a frame":
            peer.send(frames.header(50, FrameType.DATA, 0, 1) + b"abc")
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.socket.close()

    channel = serve(script, greet_and_answer)
    recorders = [begin(channel)[0] for _ in range(3)]
    for recorder in recorders:
        assert recorder.end().code == "UNAVAILABLE"
    assert channel.unary("/test/unary", b"x", 5) == b"fine"


def test_a_goaway_ends_later_calls_and_lets_earlier_ones_finish(
    serve,
) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        first = peer.call()
        peer.call()
        peer.send(frames.goaway(first, ErrorCode.NO_ERROR, b"so long"))
        peer.headers(first, RESPONSE)
        peer.data(first, framed(peer.message()))
        peer.end(first)
        peer.wait_closed()  # by the client: nothing is left to do

    channel = serve(script)
    first, call = begin(channel)
    second, _ = begin(channel)
    status = second.end()
    assert status.code == "UNAVAILABLE"
    assert "so long" in status.details
    call.write(b"last words")
    assert first.take() == b"last words"
    assert first.end() == OK
    connection = channel._connections[0]
    connection.join(5)
    assert not connection.is_alive


def test_after_a_goaway_calls_go_to_a_new_connection(serve) -> None:
    left, finish = threading.Event(), threading.Event()

    def old(peer: Peer) -> None:
        peer.greet()
        stream = peer.call()
        peer.headers(stream, RESPONSE)
        peer.send(frames.goaway(stream, ErrorCode.NO_ERROR))
        peer.data(stream, framed(b"going"))
        left.set()
        threading.Thread(target=finish_later, args=[peer, stream]).start()

    def finish_later(peer: Peer, stream: int) -> None:
        assert finish.wait(5)
        peer.end(stream)

    channel = serve(old, greet_and_answer)
    recorder, _ = begin(channel)
    assert recorder.take() == b"going"
    assert channel.unary("/test/unary", b"x", 5) == b"fine"
    finish.set()
    assert recorder.end() == OK


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.REFUSED_STREAM, "UNAVAILABLE"),
        (ErrorCode.CANCEL, "CANCELLED"),
        (ErrorCode.INTERNAL_ERROR, "INTERNAL"),
    ],
)
def test_a_reset_ends_one_call_only(serve, code, expected) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(frames.reset(peer.call(), code))
        answer(peer)
        peer.wait_closed()

    channel = serve(script)
    recorder, _ = begin(channel)
    assert recorder.end().code == expected
    assert channel.unary("/test/unary", b"x", 5) == b"fine"


def test_a_ping_is_answered_and_what_is_unknown_ignored(serve) -> None:
    found = queue.SimpleQueue()

    def script(peer: Peer) -> None:
        peer.greet({77: 1})
        stream = peer.call()
        peer.send(
            frames.frame(77, 0, 0, b"of the future"),
            frames.frame(FrameType.PRIORITY, 0, stream, bytes(5)),
            frames.frame(FrameType.PING, ACK, 0, b"not-mine"),
            frames.frame(FrameType.PING, 0, 0, b"12345678"),
            frames.window_update(99, 5),
            frames.reset(99, ErrorCode.NO_ERROR),
            frames.frame(FrameType.DATA, 0, 99, b"of no call"),
        )
        while not peer.frames or peer.frames[0].type != FrameType.PING:
            peer.frames = peer.frames[1:] or [
                *peer.reader.feed(peer.socket.recv(1000))
            ]
        found.put(peer.frames[0])
        peer.end(stream)

    recorder, _ = begin(serve(script))
    assert recorder.end() == OK
    ping = found.get(timeout=5)
    assert (ping.flags, bytes(ping.payload)) == (ACK, b"12345678")


def test_answers_arrive_however_they_are_framed(serve) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        stream = peer.call()
        whole = block(RESPONSE)
        peer.send(
            frames.frame(FrameType.HEADERS, 0, stream, whole[:3]),
            frames.frame(FrameType.CONTINUATION, 0, stream, whole[3:5]),
            frames.frame(
                FrameType.CONTINUATION, END_HEADERS, stream, whole[5:]
            ),
        )
        data = b"".join(map(framed, [b"one", b"", b"two", b"three"]))
        peer.data(stream, data[:4])
        peer.data(stream, data[4:20])
        peer.data(stream, b"\x03" + data[20:] + bytes(3), 8)  # padded
        peer.data(stream, b"")
        large = framed(b"x" * 100_000)
        for byte in frames.frame(FrameType.DATA, 0, stream, large[:20]):
            peer.send(bytes([byte]))
            time.sleep(0.001)
        peer.data(stream, large[20:])
        peer.end(stream)

    recorder, _ = begin(serve(script))
    found = [recorder.take() for _ in range(5)]
    assert found == [b"one", b"", b"two", b"three", b"x" * 100_000]
    assert recorder.end() == OK


@pytest.mark.parametrize(
    ("say", "status", "match"),
    [
        (
            lambda peer, stream: peer.headers(
                stream, {":status": "503"}, END_STREAM
            ),
            "UNAVAILABLE",
            "503",
        ),
        (
            lambda peer, stream: peer.headers(
                stream, {":status": "200", "content-type": "text/html"}
            ),
            "UNKNOWN",
            "text/html",
        ),
        (
            lambda peer, stream: (
                peer.headers(stream, {":status": "100"}),
                peer.headers(
                    stream,
                    {**RESPONSE, "grpc-status": "5", "grpc-message": "gone"},
                    END_STREAM,
                ),
            ),
            "NOT_FOUND",
            "gone",
        ),
        (
            lambda peer, stream: (
                peer.headers(stream, RESPONSE),
                peer.headers(stream, {"x": "y"}, END_STREAM),
            ),
            "UNKNOWN",
            "without a status",
        ),
        (
            lambda peer, stream: (
                peer.headers(stream, RESPONSE),
                peer.data(stream, framed(b"x"), END_STREAM),
            ),
            "UNKNOWN",
            "without a status",
        ),
        (
            lambda peer, stream: (
                peer.headers(stream, RESPONSE),
                peer.data(stream, b"\1\0\0\0\1x"),
            ),
            "INTERNAL",
            "compressed",
        ),
        (
            lambda peer, stream: (
                peer.headers(stream, RESPONSE),
                peer.data(stream, b"\0\0\0\0\5half"),
                peer.end(stream),
            ),
            "INTERNAL",
            "ended in a message",
        ),
        (
            lambda peer, stream: (
                peer.headers(stream, RESPONSE),
                peer.end(stream, 13, "50%25"),
            ),
            "INTERNAL",
            "50%",
        ),
    ],
)
def test_an_answer_that_is_none_says_so(serve, say, status, match) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        say(peer, peer.call())
        answer(peer)  # the connection goes on
        peer.wait_closed()

    channel = serve(script)
    recorder, _ = begin(channel)
    found = recorder.end()
    assert found.code == status
    assert match in found.details
    assert channel.unary("/test/unary", b"x", 5) == b"fine"


def test_a_unary_call_without_an_answer_is_an_error(serve) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        stream = peer.call()
        peer.headers(stream, RESPONSE)
        peer.end(stream)
        peer.wait_closed()

    assert status_of(serve(script)) == Status(
        "INTERNAL", "0 answers to one request"
    )


def test_writing_never_waits_for_a_server_that_does_not_read(serve) -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
        peer.send(frames.window_update(0, 2**31 - 1 - 65_535))
        stream = peer.call()
        peer.headers(stream, RESPONSE)
        peer.data(stream, framed(b"go"))
        stop.wait(10)

    channel = serve(script)
    recorder, call = begin(channel)
    assert recorder.take() == b"go"
    message = bytes(1_000_000)
    begun = time.monotonic()
    for _ in range(100):
        call.write(message)
    assert time.monotonic() - begun < 2
    begun = time.monotonic()
    channel.close()
    assert time.monotonic() - begun < 0.5
    stop.set()


def test_what_could_not_be_written_at_once_arrives_in_order(serve) -> None:
    found = []
    slow = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
        peer.send(frames.window_update(0, 2**31 - 1 - 65_535))
        stream = peer.call()
        slow.wait(5)
        data = bytearray()
        while True:
            frame = peer.next(FrameType.DATA)
            data += frame.payload
            if frame.flags & END_STREAM:
                break
        found.append(bytes(data))
        peer.end(stream)

    recorder, call = begin(serve(script))
    sent = [bytes([i]) * 300_000 for i in range(100)]
    for message in sent:
        call.write(message)
    call.half_close()
    slow.set()
    assert recorder.end() == OK
    assert found[0] == b"".join(map(framed, sent))


def test_tiny_windows_are_kept_to_and_may_change(serve) -> None:
    found = bytearray()
    message = bytes(range(256)) * 4

    def script(peer: Peer) -> None:
        peer.greet({Setting.INITIAL_WINDOW_SIZE: 10})
        stream = peer.call()
        allowed, size = 10, len(framed(message))

        def take(until: int) -> None:
            while len(found) < until:
                found.extend(peer.next(FrameType.DATA).payload)

        take(allowed)
        assert len(found) == allowed
        for _ in range(20):
            peer.send(frames.window_update(stream, 7))
            allowed += 7
            take(allowed)
            assert len(found) == allowed
        # less than what has been used: the window is negative now
        peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
        peer.send(frames.window_update(stream, 5))
        peer.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.next(FrameType.DATA)
        peer.socket.settimeout(5)
        peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100_000}))
        take(size)
        peer.end(stream)

    recorder, call = begin(serve(script))
    call.write(message)
    assert recorder.end() == OK
    assert bytes(found) == framed(message)


def test_only_so_many_calls_at_a_time_as_the_server_wants(serve) -> None:
    def script(peer: Peer) -> None:
        peer.greet({Setting.MAX_CONCURRENT_STREAMS: 2})
        first, second = peer.call(), peer.call()
        peer.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.call()
        peer.socket.settimeout(5)
        peer.end(second)
        third = peer.call()
        assert peer.message() == b"third"
        peer.end(first)
        peer.end(third)
        fourth = peer.call()
        peer.end(fourth)

    channel = serve(script)
    recorders = []
    for name in (b"", b"", b"third", b""):
        recorder, call = begin(channel)
        recorders.append(recorder)
        if name:
            call.write(name)
    for recorder in recorders:
        assert recorder.end() == OK


def test_a_call_that_waits_to_begin_can_be_cancelled(serve) -> None:
    cancelled = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet({Setting.MAX_CONCURRENT_STREAMS: 1})
        first = peer.call()
        assert cancelled.wait(5)
        peer.end(first)
        peer.end(peer.call(), 5, "third")

    channel = serve(script)
    first, _ = begin(channel)
    second, call = begin(channel)
    third, _ = begin(channel)
    call.write(b"x")
    call.cancel()
    assert second.end().code == "CANCELLED"
    cancelled.set()
    assert first.end() == OK
    assert third.end() == Status("NOT_FOUND", "third")


def test_a_cancelled_call_is_reset_and_its_answers_dropped(serve) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        stream = peer.call()
        peer.headers(stream, RESPONSE)
        peer.data(stream, framed(b"first"))
        reset = peer.next(FrameType.RST_STREAM)
        assert (reset.stream, bytes(reset.payload)) == (stream, b"\0\0\0\x08")
        peer.data(stream, framed(b"late"))
        peer.end(stream)
        answer(peer)
        peer.wait_closed()

    channel = serve(script)
    recorder, call = begin(channel)
    assert recorder.take() == b"first"
    call.cancel()
    assert recorder.end().code == "CANCELLED"
    assert channel.unary("/test/unary", b"x", 5) == b"fine"
    assert recorder.messages.empty()


def test_what_is_read_is_credited_to_the_server(serve) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.next(FrameType.WINDOW_UPDATE)  # the first, of the connection
        stream = peer.call()
        peer.headers(stream, RESPONSE)
        size, count = 2**22, 20  # more than the window
        credit = {0: 0, stream: 0}
        for _ in range(count):
            peer.data(stream, framed(bytes(size - 5)))
        while min(credit.values()) < size * count // 2:
            update = peer.next(FrameType.WINDOW_UPDATE)
            credit[update.stream] += frames.read_number(update.payload)
        peer.end(stream)

    recorder, _ = begin(serve(script))
    for _ in range(20):
        assert len(recorder.take()) == 2**22 - 5
    assert recorder.end() == OK


def test_a_host_with_several_addresses_is_tried_in_turn(
    serve, monkeypatch
) -> None:
    channel = serve(greet_and_answer)
    port = channel._options.port
    with socket.socket() as unused:
        unused.bind(("127.0.0.2", 0))
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert channel.unary("/test/unary", b"x", 5) == b"fine"


def test_an_on_end_that_raises_does_not_end_the_others(
    serve, monkeypatch
) -> None:
    raised = []
    monkeypatch.setattr(
        threading, "excepthook", lambda found: raised.append(found.exc_value)
    )

    def script(peer: Peer) -> None:
        peer.greet()
        peer.end(peer.call())
        answer(peer)
        peer.wait_closed()

    channel = serve(script)

    def on_end(_: Status) -> None:
        raise KeyError("mine")

    channel.stream("/test/echo", print, on_end)
    assert channel.unary("/test/unary", b"x", 5) == b"fine"
    assert [repr(error) for error in raised] == ["KeyError('mine')"]


def test_closing_does_not_wait_for_a_connection_being_made() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        # The backlog is full: further connections are not answered.
        fillers = [Http2Channel(ChannelOptions(address)) for _ in range(4)]
        recorders = [begin(channel)[0] for channel in fillers]
        time.sleep(0.1)
        begun = time.monotonic()
        for channel in fillers:
            channel.close()
        assert time.monotonic() - begun < 1
        for recorder in recorders:
            assert recorder.end().code == "CANCELLED"


def test_a_cancelled_call_ends_while_connecting(serve) -> None:
    channel = serve(Peer.wait_closed)
    recorder, call = begin(channel)
    call.cancel()
    assert recorder.end().code == "CANCELLED"


def test_nothing_is_left_open(serve) -> None:
    channel = serve(greet_and_answer)
    assert channel.unary("/test/unary", b"x", 5) == b"fine"
    connection = channel._connections[0]
    channel.close()
    assert not connection.is_alive
    assert connection._socket is None


def test_a_large_message_goes_both_ways(serve) -> None:
    size = 50_000_000

    def script(peer: Peer) -> None:
        peer.greet({Setting.MAX_FRAME_SIZE: 2**20})
        peer.send(frames.window_update(0, 2**30))
        stream = peer.call()
        peer.send(frames.window_update(stream, 2**30))
        data = bytearray()
        while len(data) < size + 5:
            data += peer.next(FrameType.DATA).payload
        peer.headers(stream, RESPONSE)
        for start in range(0, len(data), 2**22):
            peer.data(stream, data[start : start + 2**22])
        peer.end(stream)

    channel = serve(script)
    message = bytes(range(250)) * (size // 250)
    assert channel.unary("/test/unary", message, 30) == message
