"""What every channel has to do, against grpcio's server in this process."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack

import grpc
import pytest

from hermes.aeriel._channel import (
    OK,
    CallFailed,
    Channel,
    ChannelOptions,
    Status,
)
from hermes.aeriel._grpcio import GrpcioChannel
from hermes.aeriel._http2 import Http2Channel
from hermes.aeriel.errors import InvalidRequest

KINDS = {"http2": Http2Channel, "grpcio": GrpcioChannel}
NO_LIMIT = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]


class Service(grpc.GenericRpcHandler):
    """Calls of bytes, named after what they do."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.cancelled = threading.Event()
        self.release = threading.Event()

    def service(self, details):
        self.headers.append(dict(details.invocation_metadata))
        name = details.method.removeprefix("/test/")
        behaviour = getattr(self, name, None)
        if behaviour is None:
            return None
        if name.startswith("unary"):
            return grpc.unary_unary_rpc_method_handler(behaviour)
        return grpc.stream_stream_rpc_method_handler(behaviour)

    def unary_echo(self, message, _):
        return message

    def unary_slow(self, message, context):
        context.add_callback(self.cancelled.set)
        self.release.wait(5)
        return message

    def unary_refuse(self, _, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "naïve ✓ 100%\nbad")

    def unary_grow(self, message, _):
        return b"x" * int(message)

    def echo(self, messages, _):
        yield from messages

    def refuse_second(self, messages, context):
        yield next(messages)
        next(messages)
        context.abort(grpc.StatusCode.ABORTED, "no more")

    def leave(self, messages, _):
        yield next(messages)

    def wait(self, messages, context):
        context.add_callback(self.cancelled.set)
        yield next(messages)
        self.release.wait(5)


class Recorder:
    """A call's callbacks, and what came of them."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.ends: list[Status] = []
        self.ended = threading.Event()

    def on_message(self, message: bytes) -> None:
        assert not self.ends
        self.messages.put(bytes(message))

    def on_end(self, status: Status) -> None:
        self.ends.append(status)
        self.ended.set()

    def take(self, count: int = 1, timeout: float = 10) -> list[bytes]:
        return [self.messages.get(timeout=timeout) for _ in range(count)]

    def end(self, timeout: float = 10) -> Status:
        assert self.ended.wait(timeout)
        (status,) = self.ends
        return status


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.release.set()


def serve(service: Service, port: int = 0) -> tuple[str, Callable[[], None]]:
    pool = futures.ThreadPoolExecutor(110)
    server = grpc.server(pool, options=NO_LIMIT)
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()

    def stop() -> None:
        server.stop(0).wait(5)
        pool.shutdown(wait=False)

    return f"127.0.0.1:{port}", stop


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    address, stop = serve(service)
    yield address
    stop()


@pytest.fixture(params=KINDS)
def kind(request) -> type:
    return KINDS[request.param]


@pytest.fixture
def channel(kind, address: str) -> Iterator[Channel]:
    channel = kind(ChannelOptions(address, headers={"x-token": "s3 cret"}))
    yield channel
    channel.close()


@pytest.fixture
def nowhere() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def open_stream(channel: Channel, name: str) -> tuple[Recorder, object]:
    recorder = Recorder()
    call = channel.stream(
        f"/test/{name}", recorder.on_message, recorder.on_end
    )
    return recorder, call


def status_of(channel: Channel, name: str, timeout: float = 10) -> Status:
    with pytest.raises(CallFailed) as caught:
        channel.unary(f"/test/{name}", b"x", timeout)
    return caught.value.status


def io_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("hermes-io-")]


def wait_until(condition: Callable[[], object], timeout: float = 5) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, 5_000_000])
def test_a_message_is_answered(channel, size) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert channel.unary("/test/unary_echo", message, 30) == message


def test_a_large_answer_arrives(channel) -> None:
    size = 40_000_000
    answer = channel.unary("/test/unary_grow", str(size).encode(), 60)
    assert len(answer) == size


def test_a_refusal_says_what_the_server_said(channel) -> None:
    expected = Status("NOT_FOUND", "naïve ✓ 100%\nbad")
    assert status_of(channel, "unary_refuse") == expected


def test_an_unknown_method_is_unimplemented(channel) -> None:
    assert status_of(channel, "unary_missing").code == "UNIMPLEMENTED"


def test_an_answer_too_late_is_not_waited_for(channel, service) -> None:
    begin = time.monotonic()
    assert status_of(channel, "unary_slow", 0.2).code == "DEADLINE_EXCEEDED"
    assert time.monotonic() - begin < 1
    assert service.cancelled.wait(5)
    assert channel.unary("/test/unary_echo", b"next", 5) == b"next"


def test_headers_go_with_every_call(channel, service) -> None:
    channel.unary("/test/unary_echo", b"x", 5)
    recorder, call = open_stream(channel, "echo")
    call.half_close()
    assert recorder.end() == OK
    assert [found["x-token"] for found in service.headers] == ["s3 cret"] * 2


def test_a_stream_keeps_its_order(channel) -> None:
    recorder, call = open_stream(channel, "echo")
    sent = [str(i).encode() * (i % 50) for i in range(2000)]
    for message in sent:
        call.write(message)
    call.half_close()
    assert recorder.take(len(sent)) == sent
    assert recorder.end() == OK
    assert recorder.messages.empty()


def test_large_and_small_messages_share_a_stream(channel) -> None:
    recorder, call = open_stream(channel, "echo")
    sent = [b"a" * 9_000_000, b"b", b"", b"c" * 300_000, b"d" * 20_000_000]
    for message in sent:
        call.write(message)
    call.half_close()
    assert recorder.take(len(sent), 60) == sent
    assert recorder.end() == OK


def test_a_hundred_streams_at_once(channel) -> None:
    streams = [open_stream(channel, "echo") for _ in range(100)]
    for i in range(10):
        for number, (_, call) in enumerate(streams):
            call.write(b"%d-%d" % (number, i) * 100)
    for number, (recorder, call) in enumerate(streams):
        call.half_close()
        expected = [b"%d-%d" % (number, i) * 100 for i in range(10)]
        assert recorder.take(10) == expected
        assert recorder.end() == OK


def test_a_message_may_come_in_parts(channel) -> None:
    recorder, call = open_stream(channel, "echo")
    call.write(b"a", b"", b"b" * 100_000, b"c")
    call.write()
    call.write(b"d", b"e")
    assert recorder.take(3) == [b"a" + b"b" * 100_000 + b"c", b"", b"de"]


def test_several_threads_write_to_one_stream(channel) -> None:
    recorder, call = open_stream(channel, "echo")

    def write(letter: bytes) -> None:
        for i in range(200):
            call.write(letter * (1 + i * 100))

    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [b"a", b"b", b"c", b"d"]))
    answers = recorder.take(800, 30)
    for letter in b"abcd":
        sizes = [len(answer) for answer in answers if answer[0] == letter]
        assert sizes == [1 + i * 100 for i in range(200)]


def test_a_server_may_end_the_stream_first(channel) -> None:
    recorder, call = open_stream(channel, "leave")
    call.write(b"1")
    assert recorder.take() == [b"1"]
    assert recorder.end() == OK
    call.write(b"too late")
    call.half_close()
    call.cancel()
    assert recorder.end() == OK


def test_what_was_answered_before_a_refusal_arrives(channel) -> None:
    recorder, call = open_stream(channel, "refuse_second")
    call.write(b"1")
    call.write(b"2")
    assert recorder.take() == [b"1"]
    assert recorder.end() == Status("ABORTED", "no more")


def test_a_cancelled_call_ends_at_both_ends(channel, service) -> None:
    recorder, call = open_stream(channel, "wait")
    call.write(b"1")
    recorder.take()
    call.cancel()
    assert recorder.end(2).code == "CANCELLED"
    assert service.cancelled.wait(5)
    call.cancel()
    call.write(b"too late")
    assert recorder.end().code == "CANCELLED"


def test_callbacks_may_call(channel) -> None:
    recorder = Recorder()
    calls = []

    def on_message(message: bytes) -> None:
        recorder.on_message(message)
        number = int(message)
        if number < 100:
            calls[0].write(str(number + 1).encode())
        elif number == 100:
            calls[0].half_close()

    calls.append(channel.stream("/test/echo", on_message, recorder.on_end))
    calls[0].write(b"1")
    assert recorder.end() == OK
    assert recorder.take(100)[-1] == b"100"


def test_a_callback_may_cancel_or_begin_another_call(channel) -> None:
    recorder, other = Recorder(), Recorder()
    calls = []

    def on_message(_: bytes) -> None:
        calls[0].cancel()
        calls.append(
            channel.stream("/test/echo", other.on_message, other.on_end)
        )
        calls[1].write(b"other")

    calls.append(channel.stream("/test/echo", on_message, recorder.on_end))
    for _ in range(10):
        calls[0].write(b"x")
    assert recorder.end().code == "CANCELLED"
    assert other.take() == [b"other"]
    assert len(calls) == 2


def test_a_callback_that_raises_ends_its_own_call(channel) -> None:
    good, good_call = open_stream(channel, "echo")
    bad = Recorder()

    def on_message(_: bytes) -> None:
        raise KeyError("mine")

    call = channel.stream("/test/echo", on_message, bad.on_end)
    call.write(b"x")
    call.write(b"x")
    status = bad.end()
    assert status.code == "INTERNAL"
    assert "KeyError('mine')" in status.details
    good_call.write(b"still here")
    assert good.take() == [b"still here"]


def test_closing_ends_everything_at_once(kind, address) -> None:
    channel = kind(ChannelOptions(address))
    streams = [open_stream(channel, "wait") for _ in range(10)]
    for _, call in streams:
        call.write(b"x" * 100_000)
    streams[0][0].take()
    begin = time.monotonic()
    channel.close()
    assert time.monotonic() - begin < 0.5
    for recorder, _ in streams:
        assert recorder.end(0.5).code == "CANCELLED"
    assert not io_threads()
    channel.close()


def test_a_closed_channel_refuses_calls(channel) -> None:
    channel.close()
    assert status_of(channel, "unary_echo").code == "CANCELLED"
    with pytest.raises(CallFailed, match="closed"):
        open_stream(channel, "echo")


def test_a_channel_that_was_never_used_closes(kind, nowhere) -> None:
    kind(ChannelOptions(nowhere)).close()


def test_nobody_at_the_address_is_unavailable(kind, nowhere) -> None:
    channel = kind(ChannelOptions(nowhere))
    recorder, call = open_stream(channel, "echo")
    call.write(b"x")
    assert recorder.end().code == "UNAVAILABLE"
    status = status_of(channel, "unary_echo")
    assert status.code == "UNAVAILABLE"
    assert "refused" in status.details
    channel.close()


def test_an_unknown_host_is_unavailable(kind) -> None:
    channel = kind(ChannelOptions("no-such-host.invalid:1"))
    assert status_of(channel, "unary_echo", 30).code in {
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
    }
    channel.close()


def test_a_server_that_comes_back_is_found_again(kind, service) -> None:
    address, stop = serve(service)
    with ExitStack() as undo:
        channel = kind(ChannelOptions(address))
        undo.callback(channel.close)
        recorder, call = open_stream(channel, "wait")
        call.write(b"x")
        recorder.take()
        stop()
        assert recorder.end().code in {"UNAVAILABLE", "CANCELLED"}
        assert status_of(channel, "unary_echo").code == "UNAVAILABLE"
        _, stop = serve(service, int(address.rpartition(":")[2]))
        undo.callback(stop)

        def answers() -> bool:
            try:
                channel.unary("/test/unary_echo", b"x", 5)
            except CallFailed:
                return False  # grpcio waits a while before it tries again
            return True

        wait_until(answers, 20)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_loopback_needs_no_proxy(
    kind, address, nowhere, monkeypatch, host
) -> None:
    for name in "http_proxy", "https_proxy", "grpc_proxy":
        monkeypatch.setenv(name, f"http://{nowhere}")
    channel = kind(ChannelOptions(address.replace("127.0.0.1", host)))
    assert channel.unary("/test/unary_echo", b"x", 5) == b"x"
    channel.close()


FORK = """
import os, sys, time
from hermes.aeriel._channel import ChannelOptions
from hermes.aeriel._{kind} import {name} as Channel
from hermes.aeriel.errors import ClientForked

options = ChannelOptions(sys.argv[1])
channel = Channel(options)
messages = []
call = channel.stream("/test/echo", messages.append, print)
call.write(b"1")
assert channel.unary("/test/unary_echo", b"parent", 5) == b"parent"
child = os.fork()
if child == 0:
    try:
        for use in (
            lambda: channel.unary("/test/unary_echo", b"x", 5),
            lambda: channel.stream("/test/echo", print, print),
            lambda: call.write(b"of the child"),
        ):
            try:
                use()
            except ClientForked as error:
                assert "before a fork" in str(error)
            else:
                raise AssertionError("nothing was raised")
        call.half_close()
        call.cancel()
        channel.close()
        if "{kind}" == "http2":
            mine = Channel(options)
            assert mine.unary("/test/unary_echo", b"child", 5) == b"child"
            mine.close()
        os._exit(0)
    finally:
        os._exit(1)
deadline = time.monotonic() + 15
while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
    if time.monotonic() > deadline:
        os.kill(child, 9)
    time.sleep(0.01)
call.write(b"2")
while len(messages) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
assert messages == [b"1", b"2"], messages
channel.close()
sys.exit(found[1] != 0)
"""


def test_a_forked_child_leaves_its_parents_channel_alone(
    kind, address
) -> None:
    program = FORK.format(
        kind="http2" if kind is Http2Channel else "grpcio", name=kind.__name__
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:x", "host:0", "a b:1", "h:1/"]
)
def test_an_address_has_a_host_and_a_port(address) -> None:
    with pytest.raises(InvalidRequest, match="host:port"):
        ChannelOptions(address)


@pytest.mark.parametrize(
    ("address", "host"), [("[::1]:80", "::1"), ("node.example:80", None)]
)
def test_an_address_is_taken_apart(address, host) -> None:
    options = ChannelOptions(address)
    assert (options.host, options.port) == (host or "node.example", 80)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("Upper", "x", "'Upper'"),
        ("", "x", "name is made of"),
        (":path", "x", "':path'"),
        ("naïve", "x", "'naïve'"),
        ("grpc-timeout", "x", "gRPC's own"),
        ("content-type", "x", "gRPC's own"),
        ("x-bin", "x", "binary"),
        ("x", "a\nb", "value of the header 'x'"),
        ("x", " a", "value of the header 'x'"),
        ("x", "naïve", "value of the header 'x'"),
        ("x", "", "value of the header 'x'"),
        ("x", 1, "value of the header 'x'"),
        (1, "x", "name is made of"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(name, value, match) -> None:
    with pytest.raises(InvalidRequest, match=match):
        ChannelOptions("host:1", headers={name: value})


def test_a_headers_value_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ChannelOptions("host:1", headers={"authorization": "secret\n"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["root_certificates", "private_key", "certificate_chain"]
)
def test_a_missing_certificate_is_named(tmp_path, name) -> None:
    files = {
        other: str(tmp_path / "there")
        for other in ("private_key", "certificate_chain")
    }
    (tmp_path / "there").write_text("PEM")
    files[name] = str(tmp_path / "missing")
    with pytest.raises(InvalidRequest, match=rf"{name}='.*missing'.*No such"):
        ChannelOptions("host:1", ssl=True, **files)


def test_a_key_without_its_certificate_is_refused(tmp_path) -> None:
    key = tmp_path / "key"
    key.write_text("PEM")
    with pytest.raises(InvalidRequest, match="go together"):
        ChannelOptions("host:1", ssl=True, private_key=str(key))
    with pytest.raises(InvalidRequest, match="not ssl=True"):
        ChannelOptions("host:1", root_certificates=str(key))


def test_our_own_channel_has_no_tls() -> None:
    with pytest.raises(InvalidRequest, match="TLS"):
        Http2Channel(ChannelOptions("host:1", ssl=True))


def test_readiness_needs_neither_grpcio_nor_protobuf() -> None:
    # They may hang in a forked child, and take long to import.
    program = (
        "import sys, hermes.aeriel.serve._readiness as readiness\n"
        "readiness.grpc_ready('127.0.0.1:1', 1)\n"
        "sys.exit(bool({'grpc', 'google.protobuf'} & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert result.returncode == 0
