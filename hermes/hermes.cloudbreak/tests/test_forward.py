"""Ports that lead to ports of pods, over messages of a socket in memory."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from hermes.cloudbreak._forward import Forwarder
from hermes.cloudbreak.errors import CloudUnavailable


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

    def recv_data(self) -> tuple[int, bytes]:
        size = int.from_bytes(self._read(4))
        return 2, self._read(size)

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


@pytest.mark.parametrize("error", [CloudUnavailable("gone"), OSError("gone")])
def test_a_pod_that_is_gone_is_reached_when_it_is_back(error) -> None:
    answers = iter([error, Pod(80)])

    def open_port(_port: int) -> Pod:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

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
