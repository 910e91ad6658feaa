"""The demonstration, as scripts/demo runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.triton, pytest.mark.torch]

DEMO = Path(__file__).parents[2] / "examples" / "streaming_demo.py"
KEYS = {
    "predictions",
    "warmup",
    "bitwise_equal",
    "max_abs_error",
    "data_seconds_per_second",
    "latency_p50_ms",
    "latency_p99_ms",
    "bytes_sent",
    "bytes_naive",
}


def run_demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, DEMO, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "predictions"),
    [
        (["--duration", "32"], 128),
        (["--duration", "21", "--batch-size", "16"], 84),
        (["--duration", "5", "--real-time"], 20),
    ],
)
def test_the_demo_proves_its_predictions(
    tmp_path: Path, arguments: list[str], predictions: int
) -> None:
    result = run_demo(tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert set(figures) == KEYS
    assert figures["predictions"] == predictions
    assert figures["warmup"] == 15
    assert figures["bitwise_equal"]
    assert 0 < figures["max_abs_error"] < 1e-5
    assert figures["bytes_sent"] < figures["bytes_naive"]
    if "--real-time" in arguments:
        assert 0.8 < figures["data_seconds_per_second"] < 1.01
    image = (tmp_path / "demo.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--duration", "3"], "at least one kernel: 4 s"),
        (["--plot", "nowhere/demo.png"], "there is no such directory"),
    ],
)
def test_the_demo_refuses_what_it_cannot_show(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run_demo(tmp_path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
