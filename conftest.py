"""What all tests share: a skip names what is missing; documents are run."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

# pytest names test modules after their folders, and one of those folders is
# called `hermes` too. Whoever imports that name first defines it.
import hermes  # noqa: F401

# Torch's triton and TensorFlow each bring an LLVM: imported after TensorFlow,
# by whichever test needs it, triton would end the process.
with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore")
    import triton  # noqa: F401


def pytest_configure() -> None:
    """Let Ctrl-C be Ctrl-C in the programs that tests start.

    What a shell starts in the background ignores it, and so would they.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What scripts/test has installed comes after what the machine has.
    os.environ["PATH"] += f"{os.pathsep}{_cache() / 'apptainer' / 'bin'}"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hermes"


@pytest.fixture(scope="session")
def triton_image() -> Path:
    """A sandbox folder with Triton and our backends."""
    return _cache() / "triton-image"


@pytest.fixture(scope="session")
def kubernetes_build() -> Path:
    """A folder with the programs of a Kubernetes control plane.

    They are built now where `scripts/test` has not done so.
    """
    folder = _cache() / "kubernetes"
    script = Path(__file__).parent / "scripts" / "testing" / "kubernetes.sh"
    built = subprocess.run(
        [script, "build", folder],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Triton where it cannot run; CI runs everything."""
    _skip_apptainer(items)
    _skip_kubernetes(items)
    waiting = [
        item
        for item in items
        if item.get_closest_marker("triton") or item.path.suffix == ".md"
    ]
    if not waiting or "CI" in os.environ:
        return
    status = subprocess.run(
        [sys.executable, "-m", "hermes.aeriel.serve", "status"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if status.returncode:
        reason = f"no local Triton: {status.stdout.splitlines()[-1]}"
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason=reason))


def _skip_apptainer(items: list[pytest.Item]) -> None:
    waiting = [i for i in items if i.get_closest_marker("apptainer")]
    if not waiting or "CI" in os.environ:
        return
    failed = "it is not installed; scripts/test does that"
    if program := shutil.which("apptainer"):
        trial = subprocess.run(
            [program, "exec", _cache() / "triton-image", "/bin/true"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        failed = trial.stderr.strip() or "no" if trial.returncode else ""
    if failed:
        reason = f"no Apptainer: {failed.splitlines()[-1]}"
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason=reason))


def _skip_kubernetes(items: list[pytest.Item]) -> None:
    if "CI" in os.environ or (_cache() / "kubernetes" / ".complete").exists():
        return
    reason = "no Kubernetes: it is not built; scripts/test does that"
    for item in items:
        if item.get_closest_marker("kubernetes"):
            item.add_marker(pytest.mark.skip(reason=reason))


class Python(CodeBlockParser):
    """Runs a block of Python and keeps what it prints."""

    language = "python"

    def evaluate(self, example: Example) -> None:
        code = compile(
            "\n" * example.line + example.parsed, example.path, "exec"
        )
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, example.namespace)  # noqa: S102  # our own documents
        example.namespace["__printed__"] = printed.getvalue()


class Output(CodeBlockParser):
    """Compares a block of text with what the Python above it printed."""

    language = "text"

    def evaluate(self, example: Example) -> str | None:
        printed = example.namespace["__printed__"]
        if printed.strip() == example.parsed.strip():
            return None
        return f"it printed:\n{printed}"


def enter_scratch(namespace: dict) -> None:
    """Documents write files: let them do it somewhere else."""
    namespace["__home__"] = Path.cwd()
    namespace["__scratch__"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["__scratch__"].name)


def leave_scratch(namespace: dict) -> None:
    os.chdir(namespace["__home__"])
    namespace["__scratch__"].cleanup()


pytest_collect_file = Sybil(
    parsers=[Python(), Output()],
    patterns=["README.md", "docs/*.md"],
    setup=enter_scratch,
    teardown=leave_scratch,
).pytest()


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[str]:
    """Endpoint of an emulated Google Cloud Storage."""
    # read by gcsfs when it is imported: emulators do not speak that protocol
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    with _emulator("gcs") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def s3_emulator() -> Iterator[str]:
    """Endpoint of an emulated Amazon S3."""
    with _emulator("s3") as endpoint:
        yield endpoint


@contextlib.contextmanager
def _emulator(kind: str) -> Iterator[str]:
    script = Path(__file__).parent / "scripts" / "testing" / "emulator.py"
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, str(script), kind],
            stdin=subprocess.PIPE,  # it ends when this does
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            errors.seek(0)
            reason = f"no emulated {kind}: {errors.read()[-300:]}"
            if "CI" in os.environ:
                pytest.fail(reason)
            pytest.skip(reason)
        yield endpoint
        process.stdin.close()
