"""A campaign that the tests run, interrupt and run again.

It is a script, not a module of the tests: workers have to import it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hermes.stillwater.campaign import Campaign, Segment

FOLDER = Path(os.environ.get("CAMPAIGN_FOLDER", "."))
MODEL = os.environ.get("MODEL", "digest-of-four")
UNIT_SECONDS = float(os.environ.get("UNIT_SECONDS", "0"))


def log(*words: object) -> None:
    """Note what happens, whoever is killed afterwards."""
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open(
        FOLDER / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND
    )
    os.write(descriptor, line.encode())
    os.close(descriptor)


def year(number: int) -> list[Segment]:
    """Segments as detectors have them, between gaps."""
    rng = random.Random(0)
    segments, start = [], 1_400_000_000.0
    for _ in range(number):
        segments.append(Segment(start, rng.choice([64, 512, 4096, 16384.5])))
        start = segments[-1].end + rng.randint(1, 9999)
    return segments


def compute(segment, output: Path, endpoint: str = "") -> None:
    """What a segment decides, in one file or in a folder with two."""
    log("begin", segment.key, os.getpid(), endpoint)
    rng = random.Random(segment.key)
    time.sleep(rng.uniform(0, 2 * UNIT_SECONDS))
    if rng.random() < 0.2:
        output.mkdir()
        (output / "scores").write_bytes(rng.randbytes(100))
        (output / "times").write_bytes(rng.randbytes(10))
    else:
        output.write_bytes(rng.randbytes(rng.randint(0, 999)))
    log("end", segment.key, os.getpid(), endpoint)


def poison(unit: str, output: Path) -> None:
    """Harm done in many ways, by units that are called after them."""
    log("begin", unit, os.getpid())
    harm = {
        "raise": lambda: int("no number"),
        "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "segfault": lambda: ctypes.string_at(0),
        "exit": lambda: os._exit(3),
        "sys-exit": lambda: sys.exit("enough"),
        "hang": lambda: time.sleep(1000),
        "keep-gil": lambda: ctypes.PyDLL(None).sleep(1000),
        "child": leave_child,
        "nothing": lambda: None,
        "beside": lambda: output.with_name("beside.npy").touch(),
    }
    if unit in harm:
        harm[unit]()
    else:
        output.write_text(unit)


def leave_child() -> None:
    """Two that hold what this process holds; then it is killed."""
    child = subprocess.Popen(["/bin/sleep", "999"])
    if (fork := os.fork()) == 0:
        time.sleep(999)
    log("left", child.pid, fork)
    os.kill(os.getpid(), signal.SIGKILL)


def stream(segment, output: Path, endpoint) -> None:
    """Predictions of one sequence, each of which depends on all before."""
    from hermes.aeriel.client import InferenceClient

    address = getattr(endpoint, "grpc", endpoint)
    log("begin", segment.key, os.getpid(), address)
    rng = random.Random(segment.key)
    updates = np.array(
        [[[rng.randrange(100), 1]] for _ in range(20)], np.float32
    )
    with (
        InferenceClient(endpoint, MODEL, timeout=5) as client,
        client.sequence() as sequence,
    ):
        rows = []
        for result in sequence.stream(updates):
            rows.append(result.output)
            time.sleep(UNIT_SECONDS / len(updates))
    with output.open("wb") as file:
        np.save(file, np.array(rows))
    log("end", segment.key, os.getpid(), address)


def own_server(repository: str) -> Callable[[], Any]:
    """A server for each worker."""
    from hermes.aeriel.serve import serve

    model = "--load-model=digest-of-four"
    return partial(
        serve,
        repository,
        server_args=["--model-control-mode=explicit", model],
        free_ports=True,
        wait=True,
    )


@contextlib.contextmanager
def executor(scheduler: str | None):
    """The workers of a Dask cluster; None for processes."""
    if scheduler is None:
        yield None
        return
    from distributed import Client

    with Client(scheduler_file=scheduler) as client:
        yield client.get_executor()


def main() -> None:
    """Run it and print what became of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", choices=["compute", "poison", "stream"])
    parser.add_argument("units", help="a number of segments, or names")
    parser.add_argument("--scheduler", help="Dask's scheduler file")
    parser.add_argument("--campaign", type=json.loads, default={})
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--serve", help="repository of workers' own servers")
    asked = parser.parse_args()
    if asked.serve:
        asked.campaign["servers"] = own_server(asked.serve)
    if asked.units.isdecimal():
        units: list = year(int(asked.units))
    else:
        units = asked.units.split(",")
    campaign = Campaign(
        units,
        globals()[asked.run],
        FOLDER / "out" / "manifest.jsonl",
        **asked.campaign,
    )
    with executor(asked.scheduler) as engine:
        status = campaign.run(engine, **asked.options)
    told = {"done": status.done, "skipped": status.skipped}
    told["remaining"] = status.remaining
    told["failed"] = {
        k: [f.attempts, f.error] for k, f in status.failed.items()
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
