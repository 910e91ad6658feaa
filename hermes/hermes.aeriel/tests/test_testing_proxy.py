"""The faulty proxy in front of a server that sends back what it gets."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.testing import FaultyProxy, InvalidFake


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionError:
            pass


@pytest.fixture
def echo() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo) -> Iterator[FaultyProxy]:
    with FaultyProxy(echo) as proxy:
        yield proxy


def connect(proxy: FaultyProxy) -> socket.socket:
    host, port = proxy.address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = connection.recv(65536)
        if not more:
            break
        received += more
    return received


def test_bytes_pass_in_both_directions(proxy) -> None:
    data = bytes(range(256)) * 40_000
    with connect(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert receive(connection, len(data)) == data
        sender.join()
        assert "1 connections" in repr(proxy)


def test_the_end_passes_too(proxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 100) == b"last words"
    deadline = time.monotonic() + 5
    while proxy.num_connections:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stalled_proxy_holds_what_it_is_given(proxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"1") == b"1"
        proxy.stall()
        connection.sendall(b"2")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with connect(proxy) as late:  # the kernel accepts it
            late.sendall(b"3")
            proxy.resume()
            assert receive(late, 1) == b"3"
        assert connection.recv(1) == b"2"


def test_a_stalled_proxy_reads_nothing(proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"1")
        proxy.stall()
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(64 * 1024 * 1024))


def test_a_delay_is_latency_and_not_a_limit(proxy) -> None:
    proxy.delay(0.1)
    data = bytes(2_000_000)
    with connect(proxy) as connection:
        begin = time.monotonic()
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert receive(connection, len(data)) == data
        took = time.monotonic() - begin
        sender.join()
        # there and back, once, whatever the number of chunks
        assert 0.2 <= took < 1
        proxy.delay(0)
        begin = time.monotonic()
        assert ask(connection, b"x") == b"x"
        assert time.monotonic() - begin < 0.1


def test_a_shorter_delay_overtakes_nothing(proxy) -> None:
    proxy.delay(0.2)
    with connect(proxy) as connection:
        connection.sendall(b"1")
        time.sleep(0.05)
        proxy.delay(0)
        connection.sendall(b"2")
        assert receive(connection, 2) == b"12"


def test_a_throttle_limits_bytes_per_second(proxy) -> None:
    proxy.throttle(100_000)
    with connect(proxy) as connection:
        begin = time.monotonic()
        assert len(ask(connection, bytes(30_000))) == 30_000
        assert 0.25 < time.monotonic() - begin < 1.5
        proxy.throttle(None)
        begin = time.monotonic()
        assert len(ask(connection, bytes(30_000))) == 30_000
        assert time.monotonic() - begin < 0.2


def test_dropped_connections_are_reset(proxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        ask(one, b"1")
        ask(two, b"1")
        proxy.drop()
        for connection in one, two:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    with connect(proxy) as again:
        assert ask(again, b"1") == b"1"


def test_what_was_answered_can_leave_before_the_drop(proxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"x" * 1000)
        time.sleep(0.1)  # it is on its way back, unread
        proxy.drop(flush=True)
        assert receive(connection, 1000) == b"x" * 1000
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_refusing_proxy_keeps_its_port_and_its_connections(proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"1")
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert ask(connection, b"2") == b"2"
        proxy.refuse(False)
        with connect(proxy) as another:
            assert ask(another, b"3") == b"3"


def test_a_target_that_is_not_there_resets() -> None:
    with (
        FaultyProxy("127.0.0.1:1") as proxy,
        pytest.raises(ConnectionResetError),  # may be while it connects
        connect(proxy) as connection,
    ):
        connection.recv(1)


def test_the_endpoint_is_the_targets_with_another_grpc(echo) -> None:
    target = Endpoint(echo, "there:8000", "there:8002")
    with FaultyProxy(target) as proxy:
        assert proxy.endpoint == Endpoint(
            proxy.address, "there:8000", "there:8002"
        )
        with connect(proxy) as connection:
            assert ask(connection, b"1") == b"1"
    with FaultyProxy(echo) as proxy:
        assert proxy.endpoint.grpc == proxy.address


def test_nothing_is_left_after_it(echo) -> None:
    before = threading.enumerate()
    with FaultyProxy(echo) as proxy:
        connections = [connect(proxy) for _ in range(20)]
        for connection in connections:
            connection.sendall(b"1")
        proxy.stall()
    proxy.close()
    for connection in connections:
        with pytest.raises(ConnectionResetError):
            receive(connection, 2)
        connection.close()
    # the echo's own threads may still be about to end
    assert not [
        thread.name
        for thread in set(threading.enumerate()) - set(before)
        if thread.name.startswith("hermes-")
    ]
    with socket.socket() as free:
        host, port = proxy.address.split(":")
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((host, int(port)))


def test_a_closed_proxy_says_so(echo) -> None:
    proxy = FaultyProxy(echo)
    proxy.close()
    with pytest.raises(InvalidFake, match="is closed; make another one"):
        proxy.stall()


@pytest.mark.parametrize("target", ["nowhere", "host:", "host:port", ":1"])
def test_what_is_no_address_is_refused(target) -> None:
    with pytest.raises(InvalidFake, match="no 'host:port' to forward to"):
        FaultyProxy(target)


def test_impossible_weather_is_refused(proxy) -> None:
    with pytest.raises(InvalidFake, match="not a time to wait"):
        proxy.delay(-1)
    with pytest.raises(InvalidFake, match=r"use stall\(\)"):
        proxy.throttle(0)
