"""The fixtures, used in a pytest of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["hermes.aeriel.testing.plugin"]\n'
FAKE = """
import threading

import numpy as np
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.testing import FakeModel

shape = ("FP32", [2])
double = FakeModel.of("double", lambda x: 2 * x, {"x": shape}, {"y": shape})


def test_predict(fake_triton):
    fake = fake_triton(double)
    with InferenceClient(fake.endpoint, "double") as client:
        assert (client.predict(np.ones(2, np.float32)) == 2).all()


def test_it_is_closed():
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("hermes-")]
"""
REAL = """
import pytest

@pytest.fixture(scope="module")
def server(triton_server):
    return triton_server({repository!r})


def test_one(server, triton_server):
    assert triton_server({repository!r}) is server


def test_two(server):
    print("ENDPOINT", server.endpoint.grpc)
    assert "running" in repr(server)
"""
MODEL = """
class TritonPythonModel:
    def execute(self, requests):
        return []
"""
CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [2] }
output { name: "y" data_type: TYPE_FP32 dims: [2] }
"""


def run(folder: Path, test: str, **environ: str | None) -> str:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(test)
    wanted = {**os.environ, **environ}
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-s", "."],
        cwd=folder,
        env={k: v for k, v in wanted.items() if v is not None},
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


def test_a_fake_server_lives_as_long_as_its_test(tmp_path) -> None:
    assert "2 passed" in run(tmp_path, FAKE)


def test_without_triton_a_test_is_skipped_and_says_why(tmp_path) -> None:
    (tmp_path / "models" / "model").mkdir(parents=True)
    test = REAL.format(repository=str(tmp_path / "models"))
    nowhere = str(tmp_path / "nowhere")
    output = run(tmp_path, test, HERMES_TRITON=nowhere, CI=None)
    assert "2 skipped" in output
    assert "no local Triton: HERMES_TRITON points to" in output


def test_without_triton_ci_fails(tmp_path) -> None:
    (tmp_path / "models" / "model").mkdir(parents=True)
    test = REAL.format(repository=str(tmp_path / "models"))
    nowhere = str(tmp_path / "nowhere")
    output = run(tmp_path, test, HERMES_TRITON=nowhere, CI="1")
    assert "2 errors" in output
    assert "no local Triton: HERMES_TRITON points to" in output


@pytest.mark.triton
def test_a_real_server_is_shared_and_stopped(tmp_path) -> None:
    repository = tmp_path / "models"
    version = repository / "model" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    output = run(tmp_path, REAL.format(repository=str(repository)))
    assert "2 passed" in output
    _, _, rest = output.partition("ENDPOINT ")
    address = rest.split()[0]
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 5)
