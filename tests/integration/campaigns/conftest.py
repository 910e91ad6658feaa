"""What the tests of campaigns share: runs of a script, and who is left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).with_name("script.py")
WORKERS = 2


class Runs:
    """The runs of a script in a folder; none of them is left behind."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.manifest = folder / "out" / "manifest.jsonl"
        self._processes: list[subprocess.Popen] = []

    def start(self, *arguments: str, seconds: float = 0.0, **options):
        """Begin one."""
        process = subprocess.Popen(
            [
                sys.executable,
                str(SCRIPT),
                *arguments,
                f"--options={json.dumps({'workers': WORKERS} | options)}",
            ],
            env=os.environ
            | {
                "CAMPAIGN_FOLDER": str(self.folder),
                "UNIT_SECONDS": str(seconds),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def finish(self, *arguments: str, quiet: bool = True, **options) -> dict:
        """Have one come to its end; what it says."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert err == "" or not quiet
        return json.loads(out)

    def log(self) -> list[list[str]]:
        """What workers have noted."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "log").read_text().splitlines()
            return [line.split() for line in lines]
        return []

    def executions(self) -> Counter[str]:
        """How often each unit was begun."""
        return Counter(words[1] for words in self.log() if words[0] == "begin")

    def hashes(self) -> dict[str, str]:
        """The digests of all files but the manifest."""
        out = self.folder / "out"
        return {
            str(path.relative_to(out)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in out.rglob("*")
            if path.is_file() and path != self.manifest
        }

    def await_log(self, number: int) -> None:
        """Return when it has that many lines."""
        self.await_that(lambda: self.num_lines() >= number)

    def num_lines(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_bytes().count(b"\n")
        return 0

    def close(self) -> None:
        for process in self._processes:
            self.kill(self.family(process))
            process.communicate()

    @staticmethod
    def await_that(is_so: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @staticmethod
    def family(process: subprocess.Popen) -> list[psutil.Process]:
        """A process and all below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    @staticmethod
    def workers(process: subprocess.Popen) -> list[psutil.Process]:
        found = []
        for one in Runs.family(process)[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    @staticmethod
    def kill(processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    @staticmethod
    def is_running(pid: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    @staticmethod
    def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
        # A zombie is gone, even if nobody hurries to reap it.
        Runs.await_that(
            lambda: not any(Runs.is_running(p.pid) for p in processes), seconds
        )


@pytest.fixture
def make_runs(tmp_path) -> Iterator[Callable[[str], Runs]]:
    """Folders for campaigns of this test."""
    made: list[Runs] = []

    def make_runs(name: str) -> Runs:
        made.append(Runs(tmp_path / name))
        return made[-1]

    yield make_runs
    for runs in made:
        runs.close()
