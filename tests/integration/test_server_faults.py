"""Programs that serve are killed at random moments: nothing is left of them.

``HERMES_FAULT_MOMENTS=50`` tries as many moments of each kind.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest
from scaling import write_model

NUM_MOMENTS = int(os.environ.get("HERMES_FAULT_MOMENTS", "8"))
AT_ONCE = 4
SECONDS = 40
SHM = Path("/dev/shm")  # noqa: S108
AS_USER = Path(__file__).parents[2] / "scripts/testing/as-ordinary-user.sh"
KINDS = {
    "kill": [signal.SIGKILL],
    "term": [signal.SIGTERM],
    "interrupt": [signal.SIGINT],
    "two interrupts": [signal.SIGINT, signal.SIGINT],
}

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from hermes.aeriel.serve import serve

repository, image, name = sys.argv[1:]
with serve(
    repository, image or None, name, gpus=[], free_ports=True
) as server:
    server.wait(200)
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="hermes-faults-") as folder:
        Path(folder).chmod(0o755)
        yield write_scratch(Path(folder))


def write_scratch(root: Path) -> Path:
    """A repository, and a home for an ordinary user."""
    (root / "home").mkdir()
    (root / "home").chmod(0o777)
    write_model(root / "models")
    return root


class Watch:
    """Everything that programs of one name have started, while they ran."""

    def __init__(self) -> None:
        self.name = f"fault-{uuid.uuid4().hex[:8]}"
        self.prefixes: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            for process in self.processes():
                self._look(process)

    def _look(self, process: psutil.Process) -> None:
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            return
        self.prefixes |= {
            word.rpartition("=")[2]
            for word in words
            if "shm-region-prefix-name=" in word
        }

    def processes(self) -> list[psutil.Process]:
        found = []
        marks = [name.encode() for name in (self.name, *self.prefixes)]
        for process in psutil.process_iter():
            told = b""
            for part in ("cmdline", "environ"):
                try:
                    told += Path(f"/proc/{process.pid}/{part}").read_bytes()
                except OSError:
                    continue
            if any(mark in told for mark in marks):
                found.append(process)
        return found

    def left(self) -> list[object]:
        shm = [
            entry
            for entry in SHM.iterdir()
            if any(entry.name.startswith(prefix) for prefix in self.prefixes)
        ]
        return [*self.processes(), *shm]


def mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if "apptainer" in line or ".sif" in line}


class Program:
    """One program that serves, and a folder for its files."""

    def __init__(
        self, scratch: Path, image: str, name: str, *, is_root: bool
    ) -> None:
        self.files = scratch / uuid.uuid4().hex
        self.files.mkdir()
        self.files.chmod(0o777)
        command = [] if is_root else [str(AS_USER), str(scratch / "home")]
        repository = str(scratch / "models")
        command += [sys.executable, "-c", PROGRAM, repository, image, name]
        self.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "TMPDIR": str(self.files),
                "APPTAINER_TMPDIR": str(self.files),
                "HERMES_FAULT": name,
                "HERMES_PYTHON": sys.executable,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end(self, kind: str) -> None:
        """Send the signals of a kind."""
        for number in KINDS[kind]:
            self.process.send_signal(number)
            time.sleep(0.15)


@pytest.fixture(
    params=[
        pytest.param("local", marks=pytest.mark.triton),
        pytest.param("apptainer", marks=pytest.mark.apptainer),
        pytest.param("one file", marks=pytest.mark.apptainer),
    ]
)
def image(request: pytest.FixtureRequest, triton_image: Path) -> str:
    if request.param == "one file":
        return str(triton_image.with_suffix(".sif"))
    return str(triton_image) if request.param == "apptainer" else ""


@pytest.fixture(params=["root", "ordinary user"])
def is_root(request: pytest.FixtureRequest) -> Iterator[bool]:
    wanted = request.param == "root"
    if os.geteuid() and wanted:
        pytest.skip("this is not root")
    if not os.geteuid() and not wanted:
        trial = subprocess.run(
            [AS_USER, "/tmp", "true"],  # noqa: S108
            capture_output=True,
            text=True,
        )
        if trial.returncode:
            pytest.skip(f"no other user: {trial.stderr.strip()[-200:]}")
    # An ordinary user's own programs need no other user.
    return wanted or bool(os.geteuid())


@pytest.mark.slow
def test_nothing_is_left_of_programs_that_end_at_any_moment(
    scratch: Path, image: str, is_root: bool, tell_moments
) -> None:
    before = mounts()
    with Watch() as watch:

        def start() -> Program:
            return Program(scratch, image, watch.name, is_root=is_root)

        began = time.monotonic()
        undisturbed = start()
        output, _ = undisturbed.process.communicate(timeout=SECONDS)
        assert undisturbed.process.returncode == 0, output
        whole = time.monotonic() - began
        assert watch.prefixes
        assert watch.left() == []
        kinds = [list(KINDS)[i % len(KINDS)] for i in range(NUM_MOMENTS)]
        while kinds:
            batch, kinds = kinds[:AT_ONCE], kinds[AT_ONCE:]
            tell_moments(end_at_random(start, batch, whole))
            assert_gone(watch)
    assert mounts() == before
    files = scratch.glob(f"{'?' * 32}/*")
    # onnxruntime keeps one file, for all its processes, where it finds TMPDIR
    assert {file.name for file in files} <= {".ses"}


def end_at_random(start, kinds: list[str], whole: float) -> list[str]:
    """Start a program for each kind of end; say when each has ended."""
    # several at once are slower than one
    moments = sorted((random.uniform(0, 1.5 * whole), kind) for kind in kinds)
    programs = [start() for _ in kinds]
    began = time.monotonic()
    told = []
    for program, (moment, kind) in zip(programs, moments, strict=True):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        told.append(f"{kind} at {moment:.2f} s of {whole:.1f} s")
        program.end(kind)
    for program in programs:
        program.process.communicate(timeout=SECONDS)
    return told


def assert_gone(watch: Watch) -> None:
    deadline = time.monotonic() + SECONDS
    while watch.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = watch.left()
    for process in watch.processes():
        process.kill()
    assert left == []


@pytest.fixture
def tell_moments():
    return lambda moments: print("; ".join(moments))
