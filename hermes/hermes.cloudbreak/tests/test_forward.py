"""Ports that lead to ports of pods, over messages of a socket in memory."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import websocket

from hermes.cloudbreak._forward import Forwarder
from hermes.cloudbreak.errors import CloudUnavailable, Refused


class Pod:
    """What a cluster's server does with a connection: it echoes.

    Each message comes in 4 bytes of its size and the message.
    """

    def __init__(self, port: int, error: bytes = b"") -> None:
        self.sock, self._far = socket.socketpair()
        self._error = error
        self._port = port
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        far = self._far.makefile("rb")
        for channel in (0, 1):
            self._send(self._far, bytes([channel, self._port, 0]))
        if self._error:
            self._send(self._far, b"\1" + self._error)
        while size := far.read(4):
            self._send(self._far, far.read(int.from_bytes(size)))
        far.close()
        self._far.close()

    def _send(self, sock: socket.socket, message: bytes) -> None:
        sock.sendall(len(message).to_bytes(4) + message)

    def recv_data_frame(self, control_frame: bool):
        assert control_frame
        size = int.from_bytes(self._read(4))
        return 2, SimpleNamespace(data=self._read(size))

    def _read(self, size: int) -> bytes:
        # No more than that: what is in a buffer does not wake who waits.
        return self.sock.recv(size, socket.MSG_WAITALL)

    def send_binary(self, payload: bytes) -> int:
        self._send(self.sock, payload)
        return len(payload)

    def ping(self) -> None:
        raise AssertionError("nothing is silent here for so long")

    def close(self) -> None:
        self.sock.close()


class Cluster:
    """A real WebSocket server: it echoes, and answers pings with pongs."""

    def __init__(self) -> None:
        self.pings = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def open(self, _port: int) -> websocket.WebSocket:
        port = self._listener.getsockname()[1]
        return websocket.create_connection(f"ws://127.0.0.1:{port}", timeout=5)

    def _serve(self) -> None:
        far, _ = self._listener.accept()
        with self._listener, far, far.makefile("rwb", 0) as file:
            lines = iter(file.readline, b"\r\n")
            named = dict(line.split(b": ") for line in lines if b": " in line)
            magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            key = named[b"Sec-WebSocket-Key"].strip() + magic
            digest = hashlib.sha1(key, usedforsecurity=False).digest()
            far.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
                + base64.b64encode(digest)
                + b"\r\n\r\n"
            )
            far.sendall(b"\x82\x03\x00\x50\x00\x82\x03\x01\x50\x00")
            with contextlib.suppress(OSError):
                self._echo(file, far)

    def _echo(self, file, far: socket.socket) -> None:
        while len(head := file.read(2)) == 2:
            kind, size = head[0] & 15, head[1] & 127
            mask, body = file.read(4), file.read(size) if size else b""
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(body))
            if kind == 8:
                return
            self.pings += kind == 9
            kind = 10 if kind == 9 else kind
            far.sendall(bytes([0x80 | kind, size]) + text)


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def is_carrying() -> bool:
    return any(t.name == "hermes-forward" for t in threading.enumerate())


def wait_until_idle() -> None:
    deadline = time.monotonic() + 5
    while is_carrying():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bytes_go_to_the_port_and_come_back() -> None:
    asked = []

    def open_port(port: int) -> Pod:
        asked.append(port)
        return Pod(port)

    data = bytes(range(256)) * 4096
    with Forwarder(open_port, {"http": 80, "grpc": 81}) as forwarder:
        assert list(forwarder.addresses) == ["http", "grpc"]
        with connect(forwarder.addresses["grpc"]) as client:
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            with client.makefile("rb") as file:
                assert file.read(len(data)) == data
            sender.join()
    assert asked == [81]
    wait_until_idle()


def test_a_port_that_nobody_listens_on_ends_the_connection() -> None:
    with (
        Forwarder(lambda port: Pod(port, b"refused"), {"http": 80}) as it,
        connect(it.addresses["http"]) as client,
    ):
        assert client.recv(1) == b""
    wait_until_idle()


def failing_first(error: Exception) -> Callable[[int], Pod]:
    """Open the port of a pod, but not at the first try."""
    answers = iter([error, Pod(80)])

    def open_port(_port: int) -> Pod:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return open_port


@pytest.mark.parametrize("error", [CloudUnavailable("gone"), OSError("gone")])
def test_a_pod_that_is_gone_is_reached_when_it_is_back(error) -> None:
    open_port = failing_first(error)
    with Forwarder(open_port, {"http": 80}) as forwarder:
        with connect(forwarder.addresses["http"]) as client:
            assert client.recv(1) == b""
        with connect(forwarder.addresses["http"]) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
    wait_until_idle()


def test_closing_ends_what_is_open() -> None:
    forwarder = Forwarder(Pod, {"http": 80})
    client = connect(forwarder.addresses["http"])
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    forwarder.close()
    forwarder.close()
    assert client.recv(1) == b""
    client.close()
    wait_until_idle()


def test_silence_ends_no_connection_and_delays_nothing() -> None:
    """Pings are answered, and that keeps nobody from sending."""
    cluster = Cluster()
    with (
        Forwarder(cluster.open, {"http": 80}, silence=0.05) as forwarder,
        connect(forwarder.addresses["http"]) as client,
    ):
        client.settimeout(1)
        for letter in (b"x", b"y"):
            client.sendall(letter)
            assert client.recv(1) == letter
            before = cluster.pings
            deadline = time.monotonic() + 5
            while cluster.pings < before + 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    wait_until_idle()


def test_a_lack_of_files_is_lived_through() -> None:
    with (
        Forwarder(Pod, {"http": 80}) as forwarder,
        socket.socket() as client,
    ):
        client.settimeout(5)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = os.dup(0)  # the next number that is free, which accept needs
        os.close(used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, most[1]))
        try:
            host, port = forwarder.addresses["http"].split(":")
            client.connect((host, int(port)))
            time.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    wait_until_idle()


def test_why_a_connection_is_refused_is_known_when_it_ends() -> None:
    open_port = failing_first(Refused("403 no right"))
    with Forwarder(open_port, {"http": 80}) as forwarder:
        with connect(forwarder.addresses["http"]) as client:
            assert client.recv(1) == b""
        assert str(forwarder.refused) == "403 no right"
        with connect(forwarder.addresses["http"]) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert forwarder.refused is None
    wait_until_idle()
