"""``hermes-serve`` in the foreground, with a real Triton."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from scaling import write_model

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint

SECONDS = 90
X = np.arange(4, dtype=np.float32)
COMMAND = [sys.executable, "-m", "hermes.aeriel.serve._cli"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "my models")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    programs = []

    def run(*words: object) -> subprocess.Popen:
        programs.append(
            subprocess.Popen(
                [*COMMAND, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
        )
        return programs[-1]

    yield run
    for program in programs:
        program.kill()
        program.communicate()


def wait_for(path: Path, program: subprocess.Popen) -> Endpoint:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert program.poll() is None, program.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return Endpoint.load(path)


@pytest.mark.triton
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_it_and_withdraws_its_endpoint(
    run, repository: Path, tmp_path: Path, number: int, status: int
) -> None:
    file = tmp_path / "endpoint.json"
    words = ["--free-ports", "--endpoint-file", file, "--gpus", "none"]
    program = run(repository, *words, "--", "--log-verbose=1")
    with InferenceClient(wait_for(file, program), "double") as client:
        assert client.predict(X).tolist() == (2 * X).tolist()
    children = psutil.Process(program.pid).children(recursive=True)
    server = next(p for p in children if p.name() == "tritonserver")
    assert "--log-verbose=1" in server.cmdline()
    assert server.environ()["CUDA_VISIBLE_DEVICES"] == ""
    told = json.loads(file.read_text())
    program.send_signal(number)
    output, errors = program.communicate(timeout=SECONDS)
    assert program.returncode == status
    assert errors == ""
    assert "double" in output
    assert "READY" in output
    assert output.startswith(f"starting Triton for {repository} ...\n")
    assert all(address in output for address in told.values())
    assert not file.exists()
    assert not any(p.is_running() for p in children)


@pytest.mark.triton
def test_a_server_that_dies_ends_it(
    run, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "endpoint.json"
    program = run(repository, "--free-ports", "--endpoint-file", file)
    wait_for(file, program)
    children = psutil.Process(program.pid).children(recursive=True)
    next(p for p in children if p.name() == "tritonserver").kill()
    _, errors = program.communicate(timeout=SECONDS)
    assert program.returncode == 1
    assert "was ended by SIGKILL" in errors
    assert not file.exists()


@pytest.mark.triton
def test_a_broken_model_is_one_message(run, repository: Path) -> None:
    (repository / "double" / "1" / "model.onnx").write_bytes(b"junk")
    program = run(repository, "--free-ports")
    _, errors = program.communicate(timeout=SECONDS)
    assert program.returncode == 1
    assert errors.startswith("error: hermes-")
    assert "model 'double' failed to load" in errors
    assert "Traceback" not in errors


@pytest.mark.triton
def test_this_node_can_serve() -> None:
    done = subprocess.run([*COMMAND, "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("ok      Triton: ")


@pytest.mark.apptainer
def test_an_image_is_served(
    run, repository: Path, tmp_path: Path, triton_image: Path
) -> None:
    file = tmp_path / "endpoint.json"
    data = tmp_path / "data"
    data.mkdir()
    options = ["--image", triton_image, "--bind", f"{data}:/mnt/data:ro"]
    program = run(
        repository, "--free-ports", "--endpoint-file", file, *options
    )
    with InferenceClient(wait_for(file, program), "double") as client:
        assert client.predict(X).tolist() == (2 * X).tolist()
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=SECONDS)
    assert program.returncode == 130


@pytest.mark.apptainer
def test_this_node_can_serve_an_image(triton_image: Path) -> None:
    words = ["check", "--image", str(triton_image)]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"Triton: {triton_image}, run by" in done.stdout


@pytest.mark.apptainer
def test_a_registry_out_of_reach_is_explained(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "pull", "docker://127.0.0.1:1/triton"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "APPTAINER_CACHEDIR": str(tmp_path / "cache")},
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert "is its registry within reach of this machine?" in done.stderr
    assert "FATAL" in done.stderr
    assert not [*tmp_path.glob("*.sif")]


@pytest.mark.apptainer
def test_labels_of_an_image_are_read(triton_image: Path) -> None:
    from hermes.aeriel.serve._images import labels_of

    found = labels_of(triton_image)
    assert "org.label-schema.build-arch" in found
