"""HTTP/2's bytes without a socket: frames, messages, headers, flow control."""

from __future__ import annotations

import itertools

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel._channel import OK, Status
from hermes.aeriel._http2 import _frames as frames
from hermes.aeriel._http2._frames import (
    END_HEADERS,
    END_STREAM,
    ErrorCode,
    Frame,
    FrameReader,
    FrameType,
    ProtocolError,
    Setting,
)
from hermes.aeriel._http2._headers import (
    HeaderReader,
    request_block,
    status_of_reset,
    status_of_response,
    status_of_trailers,
)
from hermes.aeriel._http2._messages import BadMessage, MessageReader, prefix
from hermes.aeriel._http2._outbox import Outbox, OutgoingStream

SIZES = st.integers(0, 40)
PADDED = 8
PRIORITY = 32


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def joined(found: list[Frame]) -> list[tuple[int, int, int, bytes]]:
    """Frames as values; the parts of a DATA frame put together again."""
    result: list[tuple[int, int, int, bytes]] = []
    open_data = False
    for kind, flags, stream, payload, _ in found:
        if open_data and kind == FrameType.DATA:
            _, _, _, before = result.pop()
            result.append((kind, flags, stream, before + bytes(payload)))
        else:
            result.append((kind, flags, stream, bytes(payload)))
        open_data = kind == FrameType.DATA and flags == 0
    return result


@given(
    sent=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 3, 4, 6, 7, 8, 9, 77]),
            # each DATA frame has the flag, so that its end is seen
            st.just(END_STREAM),
            st.integers(0, 2**31 - 1),
            st.binary(max_size=60),
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 400)),
)
def test_frames_are_read_however_they_arrive(sent, cuts) -> None:
    data = b"".join(frames.frame(*item) for item in sent)
    reader = FrameReader(100)
    found = [
        frame._replace(payload=bytes(frame.payload))
        for piece in pieces(data, cuts)
        for frame in reader.feed(memoryview(piece))
    ]
    assert joined(found) == sent
    assert sum(frame.size for frame in found) == sum(
        len(payload) for *_, payload in sent
    )


@given(payload=st.binary(max_size=50), padding=SIZES, cuts=st.lists(SIZES))
def test_padding_and_priority_are_taken_off(payload, padding, cuts) -> None:
    for kind, flags, extra in (
        (FrameType.DATA, PADDED, b""),
        (FrameType.HEADERS, PADDED | PRIORITY, b"\1\2\3\4\5"),
    ):
        padded = bytes([padding]) + extra + payload + bytes(padding)
        data = frames.frame(kind, flags, 1, padded)
        reader = FrameReader(1000)
        (found,) = (
            frame
            for piece in pieces(data, cuts)
            for frame in reader.feed(piece)
        )
        assert bytes(found.payload) == payload
        assert found.size == len(padded)


@pytest.mark.parametrize("payload", [b"", b"\x05abcd"])
def test_padding_that_is_none_is_refused(payload) -> None:
    data = frames.frame(FrameType.DATA, PADDED, 1, payload)
    with pytest.raises(ProtocolError, match="padd"):
        list(FrameReader(100).feed(data))


def test_a_frame_longer_than_allowed_is_refused() -> None:
    with pytest.raises(ProtocolError, match="101 bytes") as caught:
        list(FrameReader(100).feed(frames.header(101, 0, 0, 1)))
    assert caught.value.code == ErrorCode.FRAME_SIZE_ERROR


@given(block=st.binary(min_size=1, max_size=300), limit=st.integers(1, 100))
def test_headers_go_on_in_continuations(block, limit) -> None:
    found = list(FrameReader(limit).feed(frames.headers(5, block, limit)))
    assert b"".join(bytes(frame.payload) for frame in found) == block
    assert found[0].type == FrameType.HEADERS
    assert {f.type for f in found[1:]} <= {FrameType.CONTINUATION}
    assert [f.flags for f in found] == [0] * (len(found) - 1) + [END_HEADERS]


def payload_of(data: bytes) -> bytes:
    return data[frames.HEADER_SIZE :]


@given(
    st.dictionaries(
        st.sampled_from([1, 2, 3]), st.integers(0, 2**32 - 1), max_size=3
    )
)
def test_settings_survive(values) -> None:
    assert frames.read_settings(payload_of(frames.settings(values))) == values


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"12345", "5 bytes"),
        (
            payload_of(frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31})),
            "too large",
        ),
        (
            payload_of(frames.settings({Setting.MAX_FRAME_SIZE: 2**14 - 1})),
            "range",
        ),
        (
            payload_of(frames.settings({Setting.MAX_FRAME_SIZE: 2**24})),
            "range",
        ),
    ],
)
def test_settings_that_may_not_be_are_refused(payload, match) -> None:
    with pytest.raises(ProtocolError, match=match):
        frames.read_settings(payload)


def test_numbers_and_farewells_survive() -> None:
    assert frames.read_number(payload_of(frames.window_update(1, 77))) == 77
    reset = frames.reset(1, ErrorCode.CANCEL)
    assert frames.read_number(payload_of(reset)) == ErrorCode.CANCEL
    farewell = frames.goaway(7, ErrorCode.ENHANCE_YOUR_CALM, b"too_many")
    assert frames.read_goaway(payload_of(farewell)) == (7, 11, "too_many")
    with pytest.raises(ProtocolError, match="3 bytes"):
        frames.read_number(b"123")
    with pytest.raises(ProtocolError, match="7 bytes"):
        frames.read_goaway(b"1234567")
    assert frames.error_name(11) == "ENHANCE_YOUR_CALM"
    assert frames.error_name(99) == "error 99"


@given(
    sent=st.lists(st.binary(max_size=50), max_size=8),
    cuts=st.lists(st.integers(0, 400)),
)
def test_messages_are_read_however_they_arrive(sent, cuts) -> None:
    data = b"".join(prefix(len(message)) + message for message in sent)
    reader = MessageReader()
    found = []
    for piece in pieces(data, cuts):
        found += reader.feed(memoryview(piece))
    assert found == sent
    assert reader.is_between


def test_a_message_that_is_compressed_or_endless_is_refused() -> None:
    for data, match in (
        (b"\1\0\0\0\1x", "compressed"),
        (b"\0\xff\xff\xff\xffx", "4294967295 bytes"),
    ):
        for cut in (6, 3):
            reader = MessageReader()
            with pytest.raises(BadMessage, match=match):
                [*reader.feed(data[:cut]), *reader.feed(data[cut:])]


def test_half_a_message_is_noticed() -> None:
    reader = MessageReader()
    assert list(reader.feed(b"\0\0")) == []
    assert not reader.is_between


def test_a_request_block_leaves_no_trace_in_a_decoder() -> None:
    block = request_block("/a/b", "host:1", {"authorization": "secret"})
    decoder = hpack.Decoder()
    for _ in range(2):
        found = dict(decoder.decode(block))
        assert found[":path"] == "/a/b"
        assert found[":authority"] == "host:1"
        assert found["authorization"] == "secret"
        assert found["te"] == "trailers"
    assert not decoder.header_table.dynamic_entries


def test_headers_that_are_none_are_refused() -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        HeaderReader().read(b"\xff\xff\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("headers", "code", "match"),
    [
        ({":status": "404"}, "UNIMPLEMENTED", "404"),
        ({":status": "503"}, "UNAVAILABLE", "503"),
        ({":status": "500"}, "UNKNOWN", "500"),
        ({}, "UNKNOWN", "''"),
        (
            {":status": "200", "content-type": "text/html"},
            "UNKNOWN",
            "text/html",
        ),
        (
            {":status": "200", "content-type": "application/grpc-web"},
            "UNKNOWN",
            "grpc-web",
        ),
    ],
)
def test_a_response_that_is_not_grpc_says_what_it_is(
    headers, code, match
) -> None:
    status = status_of_response(headers)
    assert status is not None
    assert status.code == code
    assert match in status.details


@pytest.mark.parametrize("kind", ["", "+proto", ";charset=x"])
def test_a_grpc_response_has_no_status_yet(kind) -> None:
    headers = {":status": "200", "content-type": f"application/grpc{kind}"}
    assert status_of_response(headers) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"grpc-status": "0", "grpc-message": "ignored"}, OK),
        (
            {
                "grpc-status": "5",
                "grpc-message": "na%C3%AFve %E2%9C%93 100%25",
            },
            Status("NOT_FOUND", "naïve ✓ 100%"),
        ),
        (
            {"grpc-status": "14", "grpc-message": "50% %zz"},
            Status("UNAVAILABLE", "50% %zz"),
        ),
        ({"grpc-status": "16"}, Status("UNAUTHENTICATED")),
        ({"grpc-status": "99"}, Status("UNKNOWN")),
        (
            {"grpc-status": "x"},
            Status("UNKNOWN", "the server ended the call without a status"),
        ),
    ],
)
def test_trailers_say_how_a_call_ended(headers, status) -> None:
    assert status_of_trailers(headers) == status


def test_a_reset_says_why() -> None:
    assert status_of_reset(ErrorCode.REFUSED_STREAM).code == "UNAVAILABLE"
    assert "PROTOCOL_ERROR" in status_of_reset(1).details
    assert status_of_reset(77).code == "INTERNAL"


class Wire:
    """Takes what an outbox sends, a few bytes at a time, and checks it."""

    def __init__(self, outbox: Outbox, initial: int) -> None:
        self.outbox = outbox
        self.reader = FrameReader(2**24 - 1)
        self.windows: dict[int, int] = {}
        self.window = 65_535
        self.initial = initial
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()

    def pull(self, size: int) -> None:
        while buffers := self.outbox.next():
            data = b"".join(bytes(buffer) for buffer in buffers)[:size]
            self.outbox.sent(len(data))
            for frame in self.reader.feed(data):
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        stream = frame.stream
        if frame.type == FrameType.HEADERS:
            self.windows[stream] = self.initial
            self.data[stream] = b""
        if frame.type != FrameType.DATA:
            return
        assert stream not in self.ended
        self.window -= frame.size
        self.windows[stream] -= frame.size
        assert self.window >= 0
        assert frame.size == 0 or self.windows[stream] >= 0
        self.data[stream] += bytes(frame.payload)
        if frame.flags & END_STREAM:
            self.ended.add(stream)


@given(
    initial=st.integers(0, 300),
    writes=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 200)), max_size=20
    ),
    opened_after=st.integers(0, 5),
    granted=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 100)), max_size=20
    ),
    later=st.integers(0, 100),
    size=st.integers(1, 500),
)
def test_messages_go_out_whole_and_within_the_windows(
    initial, writes, opened_after, granted, later, size
) -> None:
    outbox = Outbox()
    outbox.apply({Setting.INITIAL_WINDOW_SIZE: initial}, [])
    wire = Wire(outbox, initial)
    streams = [OutgoingStream() for _ in range(3)]
    expected = [b""] * 3
    for step, (index, length) in enumerate(writes):
        if step == opened_after:
            open_all(outbox, streams)
        message = bytes([index]) * length
        expected[index] += prefix(length) + message
        outbox.message(streams[index], (message,))
        wire.pull(size)
    if len(writes) <= opened_after:
        open_all(outbox, streams)
    for index, increment in granted:
        wire.pull(size)
        outbox.credit(streams[index], increment)
        wire.windows[streams[index].id] += increment
    wire.pull(size)
    # the server thinks again, in mid-stream
    outbox.apply({Setting.INITIAL_WINDOW_SIZE: later}, streams)
    for number in wire.windows:
        wire.windows[number] += later - initial
    wire.pull(size)
    for stream in streams:
        outbox.end(stream)
        outbox.credit(stream, 10_000)
        wire.windows[stream.id] += 10_000
    wire.pull(size)
    assert [wire.data[stream.id] for stream in streams] == expected
    assert wire.ended == {stream.id for stream in streams}


def open_all(outbox: Outbox, streams: list[OutgoingStream]) -> None:
    for number, stream in enumerate(streams):
        outbox.begin(stream, 1 + 2 * number, b"block")


def test_the_connections_window_holds_up_all_streams() -> None:
    outbox = Outbox()
    outbox.apply({Setting.INITIAL_WINDOW_SIZE: 2**20}, [])
    wire = Wire(outbox, 2**20)
    first, second = OutgoingStream(), OutgoingStream()
    open_all(outbox, [first, second])
    outbox.message(first, (bytes(100_000),))
    outbox.message(second, (b"small",))
    wire.pull(10_000)
    assert wire.window == 0
    # they take turns: the small one did not wait for the large one
    assert wire.data[second.id] == prefix(5) + b"small"
    outbox.credit(None, 2**20)
    wire.window += 2**20
    wire.pull(10_000)
    assert wire.data[first.id] == prefix(100_000) + bytes(100_000)


def test_frames_are_as_large_as_the_server_allows() -> None:
    outbox = Outbox()
    stream = OutgoingStream()
    outbox.apply({Setting.MAX_FRAME_SIZE: 20_000}, [])
    outbox.begin(stream, 1, b"block")
    outbox.message(stream, (bytes(30_000),))
    sizes = [
        frame.size
        for buffers in iter(lambda: drain(outbox), b"")
        for frame in FrameReader(2**24 - 1).feed(buffers)
        if frame.type == FrameType.DATA
    ]
    assert sizes == [20_000, 10_005]


def drain(outbox: Outbox) -> bytes:
    data = b"".join(bytes(buffer) for buffer in outbox.next())
    outbox.sent(len(data))
    return data


@pytest.mark.parametrize("increment", [0, 2**31 - 1, 2**31])
def test_a_window_that_may_not_be_is_refused(increment) -> None:
    outbox = Outbox()
    with pytest.raises(ProtocolError):
        outbox.credit(None, increment)


def test_a_stream_that_is_dropped_sends_nothing_more() -> None:
    outbox = Outbox()
    outbox.apply({Setting.INITIAL_WINDOW_SIZE: 0}, [])
    stream = OutgoingStream()
    outbox.begin(stream, 1, b"block")
    drain(outbox)
    outbox.message(stream, (b"x",))
    stream.drop()
    outbox.credit(stream, 100)
    assert outbox.next() == []
