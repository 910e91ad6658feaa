"""What the benchmarks share: their arguments, cores, servers and tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hermes.aeriel.serve import Server, serve


def make_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the arguments that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="repetitions of everything"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument(
        "--quick", action="store_true", help="tiny: to see that it works"
    )
    return parser


def split_cores() -> tuple[set[int], set[int]]:
    """The clients' cores and the server's: apart, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[:1]), set(cores[1:] or cores)


def pin(cores: Iterable[int]) -> None:
    """Use these cores from now on, and what is started from now on does."""
    os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def pinned_server(
    root: Path, models: Sequence[str], cores: Iterable[int]
) -> Iterator[Server]:
    """A ready server of these models, on these cores."""
    ours = os.sched_getaffinity(0)
    # Its clients are gone when it is stopped: nobody needs time to finish.
    arguments = ["--model-control-mode=explicit", "--exit-timeout-secs=1"]
    arguments += [f"--load-model={name}" for name in models]
    pin(cores)
    try:
        server = serve(root, server_args=arguments, free_ports=True)
    finally:
        pin(ours)
    with server:
        yield server.wait()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of the quotients, each of one round."""
    pairs = zip(ours, theirs, strict=True)
    return spread([mine / other for mine, other in pairs])


def circumstances(
    rounds: int, cores: Collection[int], load_before: float
) -> dict[str, Any]:
    """What has to be said along with any figure."""
    return {
        "rounds": rounds,
        "cores": len(cores),
        "load_average": [load_before, os.getloadavg()[0]],
    }


def write_json(path: Path | None, figures: Any) -> None:
    """Write all figures, if that is wanted."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")
