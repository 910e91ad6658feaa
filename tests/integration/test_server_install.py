"""The whole installation, interrupted and not. It downloads 80 MB."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from hermes.aeriel.serve._manifest import MANIFEST
from hermes.aeriel.serve._requirements import findings, gather

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(findings(gather())), reason=" ".join(findings(gather()))
    ),
]

SERVE = [sys.executable, "-m", "hermes.aeriel.serve"]


def status(prefix: Path) -> subprocess.CompletedProcess[str]:
    command = [*SERVE, "status", "--prefix", str(prefix)]
    return subprocess.run(command, capture_output=True, text=True)


def start(prefix: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SERVE, "install", "--prefix", str(prefix), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("a prefix") / "triton"
    process = start(prefix)
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    return prefix


def test_an_installation_is_ready_and_leaves_nothing_beside(
    prefix: Path,
) -> None:
    found = status(prefix)
    assert found.returncode == 0, found.stdout
    assert found.stdout.endswith("status     ready\n")
    names = {path.name for path in prefix.parent.iterdir()}
    assert names == {"triton", ".triton.lock"}


def test_status_is_quick(prefix: Path) -> None:
    began = time.monotonic()
    status(prefix)
    assert time.monotonic() - began < 3


def test_a_whole_runtime_is_kept(prefix: Path) -> None:
    before = (prefix / MANIFEST).stat()
    output, _ = start(prefix).communicate(timeout=30)
    assert "is installed already" in output
    assert (prefix / MANIFEST).stat() == before


@pytest.mark.parametrize("step", ["1/4", "2/4", "3/4"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_installation_leaves_no_runtime(
    tmp_path: Path, step: str, how: signal.Signals
) -> None:
    prefix = tmp_path / "triton"
    process = start(prefix)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(step):
            break
    time.sleep(0.2)
    os.killpg(process.pid, how)
    process.communicate(timeout=30)
    assert not prefix.exists()
    assert status(prefix).returncode == 1
    if how == signal.SIGINT:
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {".triton.lock"}
        assert process.returncode == 130


def test_half_a_runtime_is_repaired_and_leftovers_are_removed(
    prefix: Path,
) -> None:
    """An extra comes with it: this interpreter's torch, which stays."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        pytest.skip("needs torch")
    (prefix / "bin" / "tritonserver").unlink()
    (prefix / MANIFEST).unlink()
    leftover = prefix.parent / ".triton.partial"
    leftover.mkdir()
    (leftover / "junk").touch()
    assert status(prefix).returncode == 1
    process = start(prefix, "--with", "torch")
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    assert not leftover.exists()
    (module,) = prefix.glob("venv/lib/python3.*/site-packages/torch")
    assert (module / "__init__.py").samefile(torch.origin)
    output, _ = start(prefix).communicate(timeout=30)
    assert "is installed already" in output
    served = "serves     onnxruntime_onnx, python, pytorch_libtorch\n"
    assert served in status(prefix).stdout


def test_two_installations_wait_for_each_other(tmp_path: Path) -> None:
    prefix = tmp_path / "triton"
    processes = [start(prefix), start(prefix)]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("is installed already" in output for output in outputs) == 1
    assert sum("waiting for another" in output for output in outputs) == 1
    assert status(prefix).returncode == 0
