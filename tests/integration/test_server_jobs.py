"""The batch jobs of the examples, run as their batch systems would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scaling import write_model

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint

pytestmark = pytest.mark.triton

JOBS = Path(__file__).parents[2] / "examples" / "jobs"
SECONDS = 90
X = np.arange(4, dtype=np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "my models")


@pytest.mark.parametrize(
    ("script", "name"), [("serve.slurm", "triton-77"), ("serve.sh", "mine")]
)
def test_a_job_serves_until_its_batch_system_ends_it(
    repository: Path, tmp_path: Path, script: str, name: str
) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "hermes-serve"
    command.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m hermes.aeriel.serve._cli "$@"'
    )
    command.chmod(0o755)
    file = tmp_path / f"{name}.json"
    words = [file.name] if script == "serve.sh" else []
    job = subprocess.Popen(
        [JOBS / script, repository, *words],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "77",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not file.exists():
            assert job.poll() is None, job.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        endpoint = Endpoint.load(file)
        host, _, port = endpoint.grpc.rpartition(":")
        assert host != "0.0.0.0"  # noqa: S104
        with InferenceClient(f"127.0.0.1:{port}", "double") as client:
            assert client.predict(X).tolist() == (2 * X).tolist()
        job.send_signal(signal.SIGTERM)
        output, _ = job.communicate(timeout=SECONDS)
    finally:
        job.kill()
        job.communicate()
    assert job.returncode == 143, output
    assert not file.exists()
    log = (tmp_path / f"{name}.log").read_text()
    # It was asked to stop, and had answered everything.
    assert "All models are stopped, unloading models" in log


@pytest.mark.parametrize("script", ["serve.slurm", "serve.sh"])
def test_the_jobs_are_programs(script: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert os.access(JOBS / script, os.X_OK)
    assert subprocess.run([bash, "-n", JOBS / script]).returncode == 0
