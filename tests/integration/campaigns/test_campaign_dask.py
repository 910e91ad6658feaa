"""Campaigns on Dask: its scheduler and workers are processes, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

NUM_SEGMENTS = 200
SECONDS = 0.02


class Cluster:
    """A scheduler and two workers, as Dask's own programs."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.log = folder / "cluster.log"
        self.scheduler = self._start(
            "scheduler", "--port=0", "--host=127.0.0.1", "--no-jupyter"
        )
        self.nanny = self._start("worker", "--nworkers=2", "--nthreads=1")

    def workers(self) -> list[psutil.Process]:
        """The processes that compute."""
        children = psutil.Process(self.nanny.pid).children()
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]

    def close(self) -> None:
        for process in self.nanny, self.scheduler:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            finally:
                process.wait(10)
        self.file.unlink(missing_ok=True)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen:
        with self.log.open("a") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m"),
                    f"distributed.cli.dask_{program}",
                    f"--scheduler-file={self.file}",
                    "--no-dashboard",
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@pytest.fixture
def cluster(tmp_path, make_runs) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    # A nanny whose worker is killed while it starts gives up, and no workers
    # are left.
    make_runs("first").finish(
        "compute", "50", f"--scheduler={cluster.file}", workers=None
    )
    yield cluster
    cluster.close()


def test_dask_gives_the_same_files_whatever_is_killed(
    make_runs, cluster, tmp_path, tell
) -> None:
    calm = make_runs("calm")
    calm.finish("compute", str(NUM_SEGMENTS))
    runs = make_runs("dask")

    def start():
        return runs.start(
            *("compute", str(NUM_SEGMENTS), f"--scheduler={cluster.file}"),
            seconds=SECONDS,
            workers=None,
        )

    process = start()
    runs.await_log(50)
    runs.kill(cluster.workers()[:1])  # another one takes its place
    runs.await_log(runs.num_lines() + 50)
    assert process.poll() is None
    runs.kill(runs.family(process)[:1])
    process.wait(10)

    process = start()
    runs.await_log(runs.num_lines() + 50)
    cluster.scheduler.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ExecutorBroken: the executor has given up" in err
    assert "run the campaign again" in err
    cluster.close()

    cluster.__init__(tmp_path)
    out, err = start().communicate(timeout=60)
    assert '"remaining": 0, "failed": {}' in out, err
    repeated = sum(runs.executions().values()) - NUM_SEGMENTS
    tell(repeated=repeated)
    assert repeated <= 3 * 10
    assert runs.hashes() == calm.hashes()
    assert not list(runs.manifest.parent.glob(".*"))


def test_poison_on_dask_is_listed_and_the_rest_goes_on(
    make_runs, cluster, tell
) -> None:
    runs = make_runs("dask")
    status = runs.finish(
        *("poison", "sigkill,raise,a,b,c,d", f"--scheduler={cluster.file}"),
        '--campaign={"max_attempts": 2}',
        workers=None,
        quiet=False,
    )
    assert status["done"] == 4
    assert status["failed"].keys() == {"sigkill", "raise"}
    assert "KilledWorker" in status["failed"]["sigkill"][1]
    assert "ValueError" in status["failed"]["raise"][1]
    tell(executions=dict(runs.executions()))
    assert runs.executions()["sigkill"] <= 2 * 4  # Dask repeats, too


def test_ctrl_c_on_dask_lets_running_units_finish(make_runs, cluster) -> None:
    runs = make_runs("dask")
    process = runs.start(
        *("compute", "1000", f"--scheduler={cluster.file}"),
        seconds=0.2,
        workers=None,
    )
    runs.await_log(10)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    words = [line[0] for line in runs.log()]
    rows = runs.manifest.read_bytes().splitlines()
    assert words.count("begin") == words.count("end") == len(rows) - 1 < 50
