"""A real Triton that is told what to load, shared, and one of many."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from scaling import write_model

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    ModelControlFailed,
    ServerTimeout,
)
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.serve._gpus import count_on_host

pytestmark = pytest.mark.triton

SECONDS = 60
X = np.arange(4, dtype=np.float32)
NUM_AT_ONCE = 16

PROGRAM = """
import sys, threading
from hermes.aeriel.serve import serve

# All begin at the same moment.
sys.stdin.readline()
with serve(sys.argv[1], free_ports=True) as server:
    server.wait(240)
    print(server.endpoint.grpc, server.endpoint.http,
          server.endpoint.metrics, flush=True)
    sys.stdin.readline()
"""


def predict(server: Server, model: str) -> list[float]:
    with InferenceClient(server.endpoint, model) as client:
        return client.predict(X).tolist()


def triton(server: Server) -> psutil.Process:
    port = server.endpoint.grpc.rpartition(":")[2]
    for process in psutil.Process().children(recursive=True):
        if process.name() == "tritonserver" and (
            f"--grpc-port={port}" in process.cmdline()
        ):
            return process
    raise AssertionError("no tritonserver")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that loads on demand, from two repositories."""
    root = tmp_path_factory.mktemp("models")
    first = write_model(root / "first", "double")
    second = write_model(root / "second", "triple", 3)
    (write_model(second, "junk") / "junk/1/model.onnx").write_bytes(b"junk")
    with serve(
        [first, second],
        gpus=[2, 0],
        free_ports=True,
        model_control="explicit",
        advertise="node-7.cluster",
    ) as server:
        yield server.wait(SECONDS)


def test_a_host_may_be_advertised(server: Server) -> None:
    for address in vars(server.endpoint).values():
        assert address.startswith("node-7.cluster:")


def state_of(server: Server, model: str) -> str:
    return {found.name: found.state for found in server.models()}[model]


def local(server: Server, model: str) -> list[float]:
    port = server.endpoint.grpc.rpartition(":")[2]
    with InferenceClient(f"127.0.0.1:{port}", model) as client:
        return client.predict(X).tolist()


def test_models_of_several_repositories_are_loaded_on_demand(
    server: Server,
) -> None:
    for name, factor in (("double", 2), ("triple", 3)):
        assert state_of(server, name) in ("", "UNAVAILABLE")
        server.load_model(name)
        assert state_of(server, name) == "READY"
        assert local(server, name) == (factor * X).tolist()
        server.unload_model(name)
        assert state_of(server, name) == "UNAVAILABLE"


def test_a_configuration_may_be_sent_along(server: Server) -> None:
    tensor = {"data_type": "TYPE_FP32", "dims": [4]}
    config = {
        "platform": "onnxruntime_onnx",
        "input": [{"name": "x", **tensor}],
        "output": [{"name": "y", **tensor}],
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
    }
    server.load_model("double", config)
    assert local(server, "double") == (2 * X).tolist()
    server.unload_model("double", dependents=True)


def test_a_frozen_server_does_not_keep_us(server: Server) -> None:
    process = triton(server)
    process.suspend()
    try:
        for act in (server.load_model, server.unload_model):
            began = time.monotonic()
            with pytest.raises(ServerTimeout, match="in time; give it more"):
                act("double", timeout=0.5)
            assert time.monotonic() - began < 0.6
        for seconds in (0.3, 1.5):
            began = time.monotonic()
            with pytest.raises(ServerTimeout, match=f"within {seconds:g} s"):
                server.wait(seconds)
            assert time.monotonic() - began < 1.1 * seconds
    finally:
        process.resume()
    server.wait(SECONDS)


@pytest.mark.parametrize(
    ("model", "told"), [("junk", "Protobuf parsing failed"), ("a/b", "fail")]
)
def test_a_model_that_cannot_be_loaded_is_explained(
    server: Server, model: str, told: str
) -> None:
    with pytest.raises(
        ModelControlFailed, match=f"did not load model '{model}': .*{told}"
    ):
        server.load_model(model)


def test_a_server_may_refuse_to_be_told(tmp_path: Path) -> None:
    root = write_model(tmp_path / "models", "double")
    with serve(root, free_ports=True, wait=True) as server:
        with pytest.raises(ModelControlFailed, match=r"control='explicit'"):
            server.load_model("double")
        server.stop()
        with pytest.raises(ModelControlFailed, match="has it ended"):
            server.unload_model("double")
        with pytest.raises(ModelControlFailed, match="did not tell its mod"):
            server.models()


def test_a_server_may_poll_its_repository(tmp_path: Path) -> None:
    root = write_model(tmp_path / "models", "double")
    with serve(
        root, free_ports=True, model_control="poll", repository_poll_secs=1
    ) as server:
        server.wait(SECONDS)
        write_model(root, "triple", 3)
        deadline = time.monotonic() + SECONDS
        while "successfully loaded 'triple'" not in server.logs():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert predict(server, "triple") == (3 * X).tolist()


def test_chosen_gpus_reach_the_server(server: Server) -> None:
    environ = Path(f"/proc/{triton(server).pid}/environ").read_text()
    variables = dict(p.split("=", 1) for p in environ.split("\0") if p)
    assert variables["CUDA_VISIBLE_DEVICES"] == "2,0"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.skipif(count_on_host() > 0, reason="this machine has a GPU")
def test_gpus_that_are_not_there_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_model(tmp_path / "models", "double")
    caplog.set_level(logging.INFO, "hermes.aeriel.serve")
    serve(root, gpus=[0], free_ports=True).stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.slow
def test_sixteen_servers_at_once_all_come_up(tmp_path: Path) -> None:
    root = write_model(tmp_path / "models", "double")
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(NUM_AT_ONCE)
    ]
    try:
        for program in programs:
            program.stdin.write("go\n")
            program.stdin.flush()
        told = [program.stdout.readline().split() for program in programs]
        addresses = [address for line in told for address in line]
        assert len(set(addresses)) == 3 * NUM_AT_ONCE
        for grpc, *_ in told:
            with InferenceClient(grpc, "double") as client:
                assert client.predict(X).tolist() == (2 * X).tolist()
    finally:
        for program in programs:
            program.communicate()
    assert [program.returncode for program in programs] == [0] * NUM_AT_ONCE


def test_a_frozen_stranger_on_our_port_is_not_our_server(
    tmp_path: Path,
) -> None:
    """Somebody else's server answers where ours should."""
    root = write_model(tmp_path / "models", "double")
    with serve(root, free_ports=True, wait=True) as other:
        arguments = [
            f"--{name}-port={address.rpartition(':')[2]}"
            for name, address in vars(other.endpoint).items()
        ]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments[0] = f"--grpc-port={port}"
        triton(other).send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(OSError, match="cannot bind the server's http"):
                serve(root, server_args=arguments)
        finally:
            triton(other).send_signal(signal.SIGCONT)
