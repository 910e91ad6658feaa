"""B8: many sequences at once, on as many slots and on fewer.

Updates of (1, 21, 8) go to an ensemble that keeps (1, 21, 4096): once in
front of a cleaner (DeepClean's autoencoder, nobody has trained it), once of a
probe (the mean over time), so that the network does not hide the rest. In
turns, several times over, N sequences stream through

    client             InferenceClient: Sequence.stream in N threads
    tritonclient each  NVIDIA's client, one of it for each sequence
    tritonclient one   NVIDIA's client, one stream for all sequences
    grpcio bytes       grpcio's streams of serialised messages: their floor
    own bytes          our channel's streams of serialised messages: ours

Each runs in a process of its own. First as fast as the answers come, with a
few updates of each sequence in flight: updates and seconds of data per
second, and CPU time of that process per update; ratios are to "tritonclient
each", with the smallest and the largest. Then all at the same rate, half
of what the slowest can do: latencies, from when an update was due to when its
answer was there. Where there are fewer slots than sequences, the seconds
until all have come through.

Every answer is compared, to the last bit, with the same network applied
offline. The exit status is 1 if one of the client's was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    circumstances,
    make_parser,
    pin,
    pinned_server,
    ratio,
    split_cores,
    spread,
    write_json,
)
from _scaling_clients import CONTENDERS, PATIENCE, Job
from _scaling_models import NETWORKS, STRIDE, export, write_data

SAMPLE_RATE = 4096  # Hz
OURS, BASELINE = "client", "tritonclient each"
NUM_WARMUP = 5
IN_FLIGHT = 8
MAX_UPDATES = 4000  # of one sequence


@dataclass
class Case:
    """N sequences of one network, on some slots.

    Attributes:
        found: Figures of each contender, by round; None where it hung.
        rate: Updates per second of all sequences, where they are paced.
    """

    network: str
    num_sequences: int
    num_slots: int
    num_timed: int = 50
    num_paced: int = 5
    rate: float = 20.0
    found: dict[str, list[dict[str, Any] | None]] = field(
        default_factory=lambda: {name: [] for name in CONTENDERS}
    )

    @property
    def has_room(self) -> bool:
        """Whether there is a slot for each sequence."""
        return self.num_slots >= self.num_sequences

    @property
    def model(self) -> str:
        """The ensemble."""
        return f"{self.network}-{self.num_slots}"

    @property
    def num_updates(self) -> int:
        """Updates of each sequence."""
        return NUM_WARMUP + self.num_timed + self.num_paced

    def speeds(self, name: str) -> list[float]:
        """Updates per second, or sequences that came through, by round."""
        count = self.num_timed if self.has_room else self.num_updates
        return [
            0.0 if f is None else count * self.num_sequences / f["seconds"]
            for f in self.found[name]
        ]


class Worker:
    """A contender's process. It is ended if it does not answer in time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[str] | None = None

    def do(self, job: Job, timeout: float) -> dict[str, Any] | None:
        """Its figures; None if it does not end in time."""
        process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101 - a pipe
        process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
        process.stdin.flush()
        line = self._read(process, timeout)
        if line is None:
            self.close()
            return None
        if not line:
            raise RuntimeError(f"{self._name} has failed: see above")
        return dict(json.loads(line))

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("_scaling_clients.py")
        self._process = subprocess.Popen(
            [sys.executable, script, self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read(self._process, 60)
        return self._process

    @staticmethod
    def _read(process: subprocess.Popen[str], timeout: float) -> str | None:
        assert process.stdout is not None  # noqa: S101 - a pipe
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                return None
        return process.stdout.readline()


@dataclass
class Bench:
    """All that cases are measured with."""

    root: Path
    artifacts: dict[str, str]
    workers: dict[str, Worker]
    rounds: int
    seconds: float
    deadline: float

    def measure(self, case: Case) -> None:
        """Fill a case with figures."""
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.ExitStack() as servers,
        ):
            address = servers.enter_context(self._serve(case))
            self._write(case, Path(folder))
            if case.has_room:
                self._choose_numbers(case, address, folder)
                self._write(case, Path(folder))
            # the first round is a warm-up
            for turn, name in itertools.product(
                range(self.rounds + 1), CONTENDERS
            ):
                found = self._run(case, name, address, folder)
                if turn > 0:
                    case.found[name].append(found)
                if found is None:
                    # Its sequences would keep their slots for a minute.
                    servers.close()
                    address = servers.enter_context(self._serve(case))

    def _choose_numbers(self, case: Case, address: str, folder: str) -> None:
        """So that each measurement takes about as long as wanted."""
        found = [self._run(case, name, address, folder) for name in CONTENDERS]
        count = case.num_timed * case.num_sequences
        speeds = [count / f["seconds"] for f in found if f is not None]
        case.rate = min(speeds) / 2

        def number(speed: float) -> int:
            wanted = speed * self.seconds / case.num_sequences
            return max(3, min(MAX_UPDATES, int(wanted)))

        case.num_timed = number(statistics.median(speeds))
        case.num_paced = number(case.rate)

    def _write(self, case: Case, folder: Path) -> None:
        write_data(
            folder,
            self.artifacts[case.network],
            case.num_sequences,
            case.num_updates,
        )

    def _run(
        self, case: Case, name: str, address: str, folder: str
    ) -> dict[str, Any] | None:
        job = Job(
            address=address,
            model=case.model,
            data=folder,
            num_warmup=NUM_WARMUP,
            num_timed=case.num_timed,
            num_paced=case.num_paced,
            rate=case.rate,
            in_flight=IN_FLIGHT,
            in_step=case.has_room,
        )
        timeout = PATIENCE * 2 if case.has_room else self.deadline
        return self.workers[name].do(job, timeout)

    @contextlib.contextmanager
    def _serve(self, case: Case) -> Iterator[str]:
        _, cores = split_cores()
        with pinned_server(self.root, [case.model], cores) as server:
            yield server.endpoint.grpc


def summarise(case: Case) -> dict[str, Any]:
    """A case's figures, contender by contender."""
    figures: dict[str, Any] = {
        name: getattr(case, name)
        for name in ("network", "num_sequences", "num_slots", "num_updates")
    }
    if case.has_room:
        figures["paced_updates_per_second"] = case.rate
    contenders = {}
    for name, rounds in case.found.items():
        done = [found for found in rounds if found is not None]
        row: dict[str, Any] = {
            "checked": sum(found["checked"] for found in done),
            "wrong": sum(found["wrong"] for found in done),
            "hangs": len(rounds) - len(done),
        }
        if len(done) == len(rounds):
            row |= speeds_of(case, name)
        contenders[name] = row
    return {**figures, "contenders": contenders}


def speeds_of(case: Case, name: str) -> dict[str, Any]:
    """How fast a contender was that came through in each round."""
    speeds, others = case.speeds(name), case.speeds(BASELINE)
    row = {"ratio": ratio(speeds, others) if all(others) else None}
    if not case.has_room:
        seconds = [found["seconds"] for found in case.found[name] if found]
        return {**row, "seconds": spread(seconds)}
    row |= cpu_of(case, name)
    row["updates_per_second"] = spread(speeds)
    row["data_seconds_per_second"] = spread(
        [speed * STRIDE / SAMPLE_RATE for speed in speeds]
    )
    for percent in (50, 99):
        row[f"latency_p{percent}_ms"] = spread(
            [
                float(1e3 * np.percentile(found["latencies"], percent))
                for found in case.found[name]
                if found
            ]
        )
    return row


def cpu_of(case: Case, name: str) -> dict[str, Any]:
    """CPU time of the contender's process for each update."""

    def microseconds(name: str) -> list[float]:
        count = case.num_timed * case.num_sequences
        return [1e6 * f["cpu_seconds"] / count for f in case.found[name] if f]

    mine, theirs = microseconds(name), microseconds(BASELINE)
    return {"cpu_us": spread(mine), "cpu_ratio": ratio(mine, theirs)}


def tabulate(cases: Sequence[dict[str, Any]]) -> str:
    """The table."""
    names = f"{'updates/s':>10}{'data-s/s':>9}{'ratio':>18}"
    times = f"{'CPU us':>7}{'ratio':>6}{'p50 ms':>7}{'p99 ms':>7}"
    lines = [f"{'':17}{names}{times}"]
    for case in cases:
        place = (
            f"{case['network']}: {case['num_sequences']} sequences on"
            f" {case['num_slots']} slots"
        )
        rate = case.get("paced_updates_per_second")
        lines += ["", place + (f", paced at {rate:.0f}/s" if rate else "")]
        for name, row in case["contenders"].items():
            lines.append(f"{name:17}{_cells(row)}{_doubts(row)}")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> str:
    if row["hangs"]:
        return f"  hangs ({row['hangs']} times)"
    share = "{median:.2f} [{min:.2f}, {max:.2f}]".format(
        **row["ratio"] or {"median": 0, "min": 0, "max": 0}
    )
    if "seconds" in row:
        return f"{row['seconds']['median']:>17.2f} s{share:>18}"
    medians = {
        name: figures["median"]
        for name, figures in row.items()
        if isinstance(figures, dict)
    }
    return (
        "{updates_per_second:>10.0f}{data_seconds_per_second:>9.2f}"
        "{share:>18}{cpu_us:>7.0f}{cpu_ratio:>6.2f}"
        "{latency_p50_ms:>7.1f}{latency_p99_ms:>7.1f}"
    ).format(share=share, **medians)


def _doubts(row: dict[str, Any]) -> str:
    return f"  {row['wrong']} WRONG" if row["wrong"] else ""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument(
        "--sequences",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16],
        help="numbers of sequences that have a slot each",
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS]
    )
    parser.add_argument(
        "--slots", type=int, default=4, help="slots of twice as many sequences"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a measurement, about"
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=8.0,
        help="seconds after which a contender hangs that has no slots",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.deadline = 1, 0.05, 3.0
        options.sequences, options.slots = [2], 1
        options.networks = ["probe"]
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    options = parse(arguments)
    cores, load_before = os.sched_getaffinity(0), os.getloadavg()[0]
    cases = [
        Case(network, number, slots)
        for network in options.networks
        for number, slots in [
            *((n, n) for n in options.sequences),
            (2 * options.slots, options.slots),
        ]
    ]
    pin(split_cores()[0])
    with contextlib.ExitStack() as opened:
        root = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        workers = {name: Worker(name) for name in CONTENDERS}
        for worker in workers.values():
            opened.callback(worker.close)
        bench = Bench(
            root=root,
            artifacts=export(
                root, options.networks, {case.num_slots for case in cases}
            ),
            workers=workers,
            rounds=options.rounds,
            seconds=options.seconds,
            deadline=options.deadline,
        )
        for case in cases:
            print(f"{case.model} ...", file=sys.stderr)
            bench.measure(case)
    figures = {
        **circumstances(options.rounds, cores, load_before),
        "in_flight": IN_FLIGHT,
        "network_instances": 1,
        "threads": 1,
        "cases": [summarise(case) for case in cases],
    }
    print(tabulate(figures["cases"]))
    print(
        f"\n{options.rounds} rounds; {IN_FLIGHT} in flight for each sequence;"
        " 1 instance of the network, 1 thread;\n"
        f"{figures['cores']} cores; load average {load_before:.1f} before,"
        f" {figures['load_average'][1]:.1f} after"
    )
    write_json(options.json, figures)
    mine = [case["contenders"][OURS] for case in figures["cases"]]
    return int(any(row["wrong"] or row["hangs"] for row in mine))


if __name__ == "__main__":
    sys.exit(main())
